"""The command line: what it prints, writes and refuses; a run killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from epsbook.cli import app, main
from epsbook.cli.work import hear_once
from epsbook.doctor import findings
from epsbook.runs import record


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_repeat_prints_this_run_beside_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSBOOK_SCALE", "smoke")
    asked = ["repeat", "wrong_labels", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 2
    assert "ce_eps+mae" in result.output and "record" in result.output


RUN = ("run", "--dataset", "digits", "--recipe", "cifar10", "--scale", "smoke")


def test_run_does_every_combination_once(tmp_path):
    grid = ("--noise", "symmetric:0.4", "--noise", "pair:0.2", "--loss", "ce")
    asked = (*RUN, *grid, "--loss", "mae", "--set", "epochs=1", "--out", tmp_path)
    first = invoke(*asked)
    assert first.exit_code == 0, first.output
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        f"digits_{noise}-{loss}@epochs=1-seed1.json"
        for noise in ("pair_0.2", "symmetric_0.4")
        for loss in ("ce", "mae")
    ]
    table = record.records("digits_*", tmp_path)
    assert table["noise_rate"].tolist() == [0.2, 0.2, 0.4, 0.4]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    again = invoke(*asked)
    assert again.output.count("kept") == 4
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_the_table_is_as_wide_as_its_longest_method(tmp_path):
    asked = (*RUN, "--noise", "clean", "--loss", "ce_eps+mae", "--out", tmp_path)
    asked += ("--loss", "ce", "--set", "epochs=1")
    for shown in (invoke(*asked).output, invoke(*asked).output):  # new, then kept
        starts = ("experiment ", "digits_clean ")
        lines = [line for line in shown.splitlines() if line.startswith(starts)]
        assert len(lines) == 3 and len({len(line) for line in lines}) == 1, shown


def test_a_record_of_another_run_is_not_taken_for_this_one(tmp_path):
    asked = ("--noise", "clean", "--loss", "ael", "--set", "epochs=1")
    run = ("run", "--dataset", "digits", "--out", tmp_path, *asked)
    smoke, mnist = ("--scale", "smoke", "--recipe", "cifar10"), ("--recipe", "mnist")
    assert invoke(*run, *smoke).exit_code == 0
    assert "kept" in invoke(*run, *smoke).output
    for other, says in (
        (("--scale", "smoke", *mnist), "terms was"),
        (("--scale", "laptop", "--recipe", "cifar10"), "scale was smoke, is laptop"),
    ):
        result = invoke(*run, *other)
        assert isinstance(result.exception, FileExistsError)
        assert says in str(result.exception)


def test_a_run_without_a_clip_is_recorded(tmp_path):
    asked = ("--noise", "clean", "--loss", "ce", "--set", "epochs=1")
    result = invoke(*RUN, *asked, "--set", "clip=inf", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["protocol"]["clip"] == "inf"


def test_settings_of_every_type_are_read(tmp_path):
    asked = (*RUN, "--noise", "clean", "--loss", "ce", "--out", tmp_path)
    sets = ("epochs=1", "precision=bf16", "channels_last=true", "lr=1e-3")
    result = invoke(*asked, *(x for s in sets for x in ("--set", s)))
    assert result.exit_code == 0, result.output
    (file,) = tmp_path.iterdir()
    protocol = json.loads(file.read_text())["protocol"]
    assert protocol["precision"] == "bf16" and protocol["channels_last"] is True
    assert protocol["epochs"] == 1 and protocol["lr"] == 1e-3


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    "kill -9 again and again; the weights are those of the undisturbed run."
    asked = [*RUN, "--noise", "symmetric:0.4", "--loss", "ce_eps+mae"]
    asked += ["--set", "epochs=12"]
    whole = invoke(*asked, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-m", "epsbook", *asked, "--out", tmp_path / "cut"]
    kills = 0
    environment = os.environ | {"OMP_NUM_THREADS": str(threads())}
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        if kills < 3:
            wait_for_progress(tmp_path / "cut", process)
            time.sleep(0.05 * kills)
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills >= 2
    (a,), (b,) = ((tmp_path / x).glob("*.json") for x in ("whole", "cut"))
    a, b = json.loads(a.read_text()), json.loads(b.read_text())
    assert a["hardware"] == b["hardware"]
    assert a["weights_sha256"] == b["weights_sha256"]
    assert a["curves"] == b["curves"]
    assert not list((tmp_path / "cut").glob("*.pt"))


LONG = """
dataset = "digits"
scale = "smoke"
changes = { epochs = 3000 }
[[runs]]
losses = ["ce"]
noises = ["symmetric:0.4", "symmetric:0.2", "clean"]
seeds = [1, 2]
"""


def interrupted(command, folder, again=0.0):
    "Its status and what it said, after Ctrl-C in the middle of its runs."
    process = subprocess.Popen(
        [sys.executable, "-m", "epsbook", *map(str, command), "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell makes background jobs deaf to Ctrl-C, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for_progress(folder, process)
    process.send_signal(signal.SIGINT)
    if again:
        time.sleep(again)
        process.send_signal(signal.SIGINT)
    try:
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, said.strip()


STOPPED = 130, "epsbook: stopped; the same command goes on from here."


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path):
    asked = (*RUN, "--noise", "clean", "--loss", "ce", "--set", "epochs=200")
    assert interrupted(asked, tmp_path) == STOPPED
    assert [p.suffix for p in tmp_path.iterdir()] == [".pt"]


def test_ctrl_c_ends_runs_side_by_side_without_an_abort(tmp_path):
    (tmp_path / "long.toml").write_text(LONG)
    asked, out = ("sweep", tmp_path / "long.toml", "--at-once", 2), tmp_path / "out"
    for again in (0.0, 0.001, 0.02):  # a second Ctrl-C, while the first is dealt with
        assert interrupted(asked, out, again) == STOPPED
    (tmp_path / "long.toml").write_text(LONG.replace("3000", "2"))
    done = invoke(*asked, "--out", out)
    assert done.exit_code == 0 and "6 runs, 6 to do" in done.output
    assert len(record.read_lines(out / "long.jsonl")) == 6


LOADING = """
import runpy, sys

class Interrupts:  # as if Ctrl-C came while this is imported
    def find_spec(name, *_):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts)
runpy.run_module("epsbook", run_name="__main__")
"""


def test_ctrl_c_is_one_line_while_the_command_loads():
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True)
    assert done.returncode == 130
    assert done.stderr == b"epsbook: stopped before it began.\n"


def test_only_the_first_ctrl_c_is_heard():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        hear_once()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a background job has it
        hear_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def threads():
    import torch

    return torch.get_num_threads()


def wait_for_progress(folder, process):
    "Until a checkpoint is newer than it was, or the process has ended."

    def stamp():
        return [(p.name, p.stat().st_mtime_ns) for p in folder.glob("*.pt")]

    before, end = stamp(), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if stamp() != before:
            return
        time.sleep(0.01)


def test_the_doctor_names_device_scale_and_data(monkeypatch, tmp_path):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    monkeypatch.setenv("EPSBOOK_SCALE", "smoke")
    (tmp_path / "mnist").mkdir()
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("torch", "device", "bfloat16", "smoke, EPSBOOK_SCALE", str(tmp_path)):
        assert word in result.output
    assert dict(findings())["  here"] == "digits"
    monkeypatch.setenv("EPSBOOK_SCALE", "big")
    assert "one of smoke" in dict(findings())["scale"]


def test_data_is_listed_and_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    (tmp_path / "cifar10.npz").write_bytes(b"half a file")
    listed = invoke("data", "list").output
    rows = {line.split()[0]: line.split()[2] for line in listed.splitlines()[1:-1]}
    assert rows["cifar10"] == "altered" and rows["mnist"] == "absent"


def test_help_tells_the_papers_noise_from_the_released():
    text = " ".join(invoke("run", "--help").output.replace("│", " ").split())
    for word in ("asymmetric:0.4", "in_place:0.4", "blocks:0.4", "released code"):
        assert word in text


@pytest.mark.parametrize(
    "command", [[], ["run"], ["repeat"], ["data", "get"], ["doctor"]]
)
def test_help_has_an_example(command):
    text = invoke(*command, "--help").output
    assert "Usage" in text
    assert not command or "Example: epsbook" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["repeat", "nothing", "--out", "x"], "no experiment 'nothing'; known:"),
        (["repeat", "wrong_labels", "--out", "x", "--scale", "big"], "one of smoke"),
        (["repeat", "wrong_labels", "--out", "x", "--seeds", "99"], "at most"),
        (["repeat", "wrong_labels"], "--out"),
        (["train"], "No such command"),
        ([*RUN, "--noise", "symetric:1", "--loss", "ce"], "known: clean, asymm"),
        ([*RUN, "--noise", "symmetric", "--loss", "ce"], "end in a rate"),
        ([*RUN, "--noise", "clean", "--loss", "sec"], "no recipe for method 'sec'"),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--set", "epochs"], "epochs=15"),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--set", "epochs=x"], "integer"),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--set", "epoch=1"], "fields:"),
        (["run", "--dataset", "x", "--noise", "clean", "--loss", "ce"], "no data set"),
        (
            ["run", "--dataset", "digits", "--noise", "clean", "--loss", "gce"],
            "recipe_of (--recipe) takes another",
        ),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--device", "cuda"], "no GPU was"),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--device", "foo"], "cpu or cuda"),
        ([*RUN, "--noise", "clean", "--loss", "ce", "--set", "lr=1e300"], "lr must"),
        (
            [*RUN, "--noise", "clean", "--loss", "ce", "--set", "network=cifar_cnn"],
            "cifar_cnn does not take the images of digits",
        ),
        (["data", "verify", "digits"], "digits needs no file"),
        (["data", "get", "nothing"], "no file 'nothing'; known: mnist"),
        (["data", "verify", "mnist"], "epsbook data get mnist"),
    ],
)
def test_errors_are_one_line(arguments, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["epsbook", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert says in str(stop.value) and "\n" not in str(stop.value)
    written = {"runs"} if arguments[0] == "run" else set()  # an empty folder
    assert {p.name for p in tmp_path.rglob("*")} <= written


@pytest.mark.parametrize("change", ["lr=1e20", "weight_decay=1e20"])
def test_a_run_that_explodes_says_so_in_one_line(change, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = [*RUN, "--noise", "clean", "--loss", "ce", "--scale", "smoke"]
    monkeypatch.setattr("sys.argv", ["epsbook", *asked, "--set", change])
    with pytest.raises(
        SystemExit, match="gradient norm nan in epoch 1, step 2"
    ) as stop:
        main()
    assert "\n" not in str(stop.value)


def test_a_file_is_no_folder_for_records(tmp_path):
    file = tmp_path / "results"
    file.write_text("mine")
    for command in ((*RUN, "--noise", "clean", "--loss", "ce"), ("repeat", "ce_short")):
        result = invoke(*command, "--out", file)
        assert "cannot hold records" in str(result.exception)
    assert file.read_text() == "mine"
