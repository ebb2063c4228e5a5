"""While it runs: the bar, why a run broke, a recorded step, and what is found here."""

import contextlib
import io
import sys
from types import SimpleNamespace

import pytest
import torch

from epsbook import data, doctor
from epsbook.data import files
from epsbook.train import graphs, progress
from epsbook.train.graphs import Graphed
from epsbook.train.progress import epochs_left, explain_failure
from epsbook.train.protocol import has_bf16, protocol_for

# --- the bar --------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watched(monkeypatch):
    "A terminal that someone watches; to be called in the test itself."
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.mark.parametrize("done, epochs", [(0, 3), (2, 5), (4, 4), (5, 4), (0, 1)])
def test_the_bar_comes_once_for_each_epoch_that_is_left(done, epochs):
    assert len(list(epochs_left(done, epochs, "x"))) == max(0, epochs - done)


def test_a_resumed_bar_starts_where_the_run_stopped(monkeypatch):
    terminal = watched(monkeypatch)
    places = [bar.n for bar in epochs_left(2, 5, "the label")]
    assert places == [2, 3, 4]
    shown = terminal.getvalue()
    assert "the label" in shown and "2/5" in shown and "5/5" in shown


def test_the_bar_takes_what_was_measured(monkeypatch):
    terminal = watched(monkeypatch)
    for bar in epochs_left(0, 2, "x"):
        bar.set_postfix(test="0.912", refresh=False)
    assert "test=0.912" in terminal.getvalue()


def test_a_log_stays_empty(capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(progress, "watched", lambda: False)
    for bar in epochs_left(0, 3, "x"):
        bar.set_postfix(test="0.5", refresh=False)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_terminal_is_not_watched(capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert len(list(epochs_left(0, 3, "x"))) == 3
    assert capfd.readouterr() == ("", "")


def test_a_bar_may_be_forbidden(monkeypatch):
    terminal = watched(monkeypatch)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert len(list(epochs_left(0, 3, "x"))) == 3
    assert terminal.getvalue() == ""


# --- why a run broke ------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
ONES = [1.0, 1, 1, 1, 1, 1]


def said(values, norms=ONES, epoch=0, **changes):
    "What is said of an epoch of these losses; batches of four images."
    values, norms = (torch.tensor(x).double() for x in (values, norms))
    batches = torch.arange(100, 100 + 4 * len(values)).split(4)
    protocol = protocol_for("digits", "smoke", **changes)
    try:
        explain_failure(values, norms, batches, epoch, protocol)
    except FloatingPointError as error:
        return str(error)
    return None


def test_of_finite_numbers_nothing_is_said():
    assert said([3.0, 2, 1, 1e30, 0, -5], [1.0, 1e30, 0, 1, 1, 1]) is None


GREW = "the loss had grown from"
ORDINARY = "the steps before were ordinary, so look at these images and at the loss"
GRADIENT = "the loss is finite and its gradient is not, so look at the derivative"


@pytest.mark.parametrize(
    "values, norms, step, cause",
    [
        ([2, 1, 5, 30, NAN, NAN], ONES, 5, f"{GREW} 1 to 30, so lower the learning"),
        ([2, 1, 5, 30, INF, NAN], ONES, 5, f"{GREW} 1 to 30"),
        ([2, 1, 1, 1, NAN, 1], ONES, 5, ORDINARY),
        ([2, 1, 1, 4.9, NAN, 1], ONES, 5, ORDINARY),
        ([2, 1, 1, 5.1, NAN, 1], ONES, 5, f"{GREW} 1 to 5.1"),
        ([-5, -5, -5, -5, NAN, 1], ONES, 5, ORDINARY),
        ([-5, -5, -5, 12, NAN, 1], ONES, 5, f"{GREW} -5 to 12"),
        ([NAN, 1, 1, 1, 1, 1], ONES, 1, ORDINARY),
        ([-INF, 1, 1, 1, 1, 1], ONES, 1, ORDINARY),
        ([2, NAN, 1, 1, 1, 1], ONES, 2, ORDINARY),
        ([9, 1, 1, 1, 1, 1], [1, 1, NAN, 1, 1, 1], 3, GRADIENT),
        ([9, 1, 1, 1, 1, 1], [INF, 1, NAN, 1, 1, 1], 1, GRADIENT),
        ([1, 1, 90, 1, 1, NAN], [1, 1, 1, INF, 1, NAN], 4, GRADIENT),
        ([1, NAN, 1, 1, 1, 1], [1, NAN, 1, 1, 1, 1], 2, ORDINARY),
    ],
)
def test_the_first_bad_step_is_named_with_its_cause(values, norms, step, cause):
    text = said(values, norms)
    assert f"step {step} of 6" in text and cause in text
    first = 100 + 4 * (step - 1)
    assert f"positions {first}, {first + 1}, {first + 2}, ..." in text
    assert sum(text.count(part) for part in (GREW, ORDINARY, GRADIENT)) == 1


def test_epoch_loss_norm_and_learning_rate_are_named():
    text = said([2, 1, 1, 1, NAN, 1], [1, 1, 1, 1, 7.5, 1], epoch=4, lr=0.03)
    assert "training loss is nan, gradient norm 7.5 in epoch 5" in text
    assert "learning rate (0.03) or the gradient clip" in text


def test_a_batch_of_two_has_two_positions():
    values, norms = torch.tensor([NAN]).double(), torch.ones(1).double()
    with pytest.raises(FloatingPointError, match=r"step 1 of 1 \(positions 8, 9\b"):
        batches = [torch.tensor([8, 9])]
        explain_failure(values, norms, batches, 0, protocol_for("digits", "smoke"))


# --- a recorded step --------------------------------------------------------------------


class Device:
    "A stand-in for CUDA: a recording does nothing, a replay repeats it."

    def __init__(self):
        self.log, self.recording = [], None

    def install(self, monkeypatch):
        device = self

        class Stream:
            def __init__(self, name="side"):
                self.name = name

            def wait_stream(self, other):
                device.log.append(f"{self.name} waits for {other.name}")

        class Graph:
            commands = ()

            def replay(self):
                device.log.append("replay")
                for command in self.commands:
                    command()

        @contextlib.contextmanager
        def stream(chosen):
            device.log.append(f"on {chosen.name}")
            yield
            device.log.append(f"off {chosen.name}")

        @contextlib.contextmanager
        def graph(recorded, stream, capture_error_mode):
            assert stream.name == "side" and capture_error_mode == "thread_local"
            device.log.append("record")
            device.recording = []
            yield
            recorded.commands, device.recording = device.recording, None

        fake = {"Stream": Stream, "CUDAGraph": Graph, "stream": stream, "graph": graph}
        fake["current_stream"] = lambda: Stream("main")
        for name, thing in fake.items():
            monkeypatch.setattr(graphs.torch.cuda, name, thing)

    def step(self, seen):
        "A step that adds a batch to `seen` and returns its sum, as CUDA would."

        def step(batch):
            total = torch.zeros((), dtype=torch.int64)

            def command():
                seen.append(batch.tolist())
                total.copy_(batch.sum())

            if self.recording is None:
                self.log.append("step")
                command()
            else:
                self.recording.append(command)
            return (total,)

        return step


@pytest.fixture
def device(monkeypatch):
    made = Device()
    made.install(monkeypatch)
    return made


ASIDE = ["side waits for main", "on side", "step", "off side", "main waits for side"]


def test_a_step_is_warmed_up_then_recorded_once_then_replayed(device):
    seen = []
    step = Graphed(device.step(seen), size=2, warmup=2)
    batches = [torch.tensor([i, i + 1]) for i in range(5)]
    sums = [int(step(batch)[0]) for batch in batches]
    assert device.log == [*ASIDE, *ASIDE, "record", "replay", "replay", "replay"]
    assert sums == [1, 3, 5, 7, 9]
    assert seen == [b.tolist() for b in batches]  # each step is done, and done once


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_warm_up_steps_are_counted(device, warmup):
    step = Graphed(device.step([]), 2, warmup)
    for _ in range(5):
        step(torch.tensor([1, 2]))
    assert device.log.count("step") == warmup
    assert device.log.count("replay") == 5 - warmup
    assert device.log.count("record") == 1


def test_three_steps_warm_up_unless_said_otherwise(device):
    step = Graphed(device.step([]), 1)
    for _ in range(4):
        step(torch.tensor([0]))
    assert device.log.count("step") == 3


def test_smaller_batches_go_the_plain_way_and_warm_nothing_up(device):
    seen = []
    step = Graphed(device.step(seen), size=3, warmup=1)
    full, rest = torch.tensor([1, 2, 3]), torch.tensor([4, 5])
    for batch in (rest, full, rest, full, rest, full):
        assert int(step(batch)[0]) == int(batch.sum())
    wanted = ["step", *ASIDE, "step", "record", "replay", "step", "replay"]
    assert device.log == wanted
    assert seen == [b.tolist() for b in (rest, full) * 3]


def test_indices_are_copied_and_the_callers_are_not_kept(device):
    seen = []
    step = Graphed(device.step(seen), size=2, warmup=0)
    batch = torch.tensor([1, 2])
    step(batch)
    place = step.batch.data_ptr()
    assert place != batch.data_ptr()
    batch[0] = 9  # the caller may do what it likes with its own
    step(torch.tensor([5, 6]))
    assert seen == [[1, 2], [5, 6]] and step.batch.data_ptr() == place
    assert batch.tolist() == [9, 2]


def test_what_a_replay_returns_is_overwritten_by_the_next(device):
    step = Graphed(device.step([]), size=1, warmup=0)
    first = step(torch.tensor([3]))
    assert int(first[0]) == 3
    again = step(torch.tensor([4]))
    assert again[0] is first[0] and int(first[0]) == 4


def test_without_a_full_batch_cuda_is_not_touched():
    step = Graphed(lambda batch: (batch.sum(),), size=3)
    assert step(torch.arange(2)) == (torch.tensor(1),)
    assert step.graph is None and step.left == 3


# --- what is found here -----------------------------------------------------------------


def row(name, state):
    return data.Row(name, "labels", state, 1, "none stated")


def found():
    return {name.strip(): value for name, value in doctor.findings()}


def test_findings_name_what_a_run_would_use(monkeypatch, tmp_path):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("EPSBOOK_SCALE", "smoke")
    here = found()
    assert here["data"] == str(tmp_path / "none")
    assert here["scale"] == "smoke, EPSBOOK_SCALE says so"
    assert here["here"] == "digits" and "altered" not in here
    assert f"torch {torch.__version__}" in here["versions"]
    assert not (tmp_path / "none").exists()


def test_the_default_scale_says_why(monkeypatch):
    monkeypatch.delenv("EPSBOOK_SCALE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found()["scale"] == "laptop, the default with cpu"
    assert found()["device"].endswith("threads; no GPU was found")


def test_altered_data_come_with_the_command_that_mends_them(monkeypatch):
    rows = [row("a", "altered"), row("b", "here"), row("c", "absent")]
    monkeypatch.setattr(data, "listing", lambda: [*rows, row("d", "altered")])
    assert [value for name, value in doctor.findings() if "altered" in name] == [
        "a: epsbook data get a",
        "d: epsbook data get d",
    ]
    assert found()["here"] == "digits, b"


def test_a_truncated_file_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    (tmp_path / files.entry("cifar10n")["file"]).write_bytes(b"cut off")
    assert found()["altered"] == "cifar10n: epsbook data get cifar10n"


def test_missing_packages_say_how_to_get_them(monkeypatch):
    def version(package):
        if package == "pooch":
            raise doctor.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(doctor, "version", version)
    wanted = "torchvision 1.2.3, pooch missing (pip install pooch), scikit-learn 1.2.3"
    assert found()[""] == wanted


@pytest.mark.parametrize("answer, words", doctor._BF16.items())
def test_half_precision_is_said_in_words(answer, words, monkeypatch):
    monkeypatch.setattr(doctor, "has_bf16", lambda device: answer)
    assert found()["bfloat16"] == words


@pytest.mark.parametrize(
    "info, answer",
    [
        ("flags : fpu sse2 avx512_bf16\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features : fp asimd bf16\n", True),
        ("flags : fpu sse2 avx2\n", False),
        ("", None),
        (None, None),
    ],
)
def test_the_processor_says_whether_it_has_bfloat16(info, answer, monkeypatch):
    def path(name):
        assert name == "/proc/cpuinfo"
        return SimpleNamespace(exists=lambda: info is not None, read_text=lambda: info)

    monkeypatch.setattr("epsbook.train.protocol.Path", path)
    assert has_bf16("cpu") is answer


@pytest.mark.parametrize("capability, answer", [((7, 5), False), ((8, 0), True)])
def test_a_gpu_has_bfloat16_since_ampere(capability, answer, monkeypatch):
    asked = []

    def get_device_capability(device):
        asked.append(device)
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", get_device_capability)
    assert [has_bf16(name) for name in ("cuda", "cuda:1")] == [answer] * 2
    assert asked == ["cuda", "cuda:1"]


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("EPSBOOK_SCALE", raising=False)
    here = found()
    assert here["device"] == "cuda: H200" and here["bfloat16"] == "in hardware"
    assert here["scale"] == "paper, the default with cuda"
