"""Lists of runs: their order, what stops them, and the file of their records."""

import _thread
import functools
import json
import subprocess
import sys
import threading
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from epsbook import train
from epsbook.data.files import StorageError
from epsbook.losses.recipes import known_recipes
from epsbook.runs import claims, record, sweep
from epsbook.runs.plan import Plan
from epsbook.runs.sweep import Clock, Outcome, read_list, work
from epsbook.runs.table import parts, published
from epsbook.train import models
from epsbook.train.checkpoint import repeatable, weights_sha256

TEXT = """
dataset = "digits"
scale = "smoke"
recipe_of = "cifar10"
changes = { epochs = 2 }
[[runs]]
losses = ["gce", "sce"]
noises = ["symmetric:0.4", "symmetric:0.2"]
seeds = [1, 2]
[[runs]]
losses = ["gce", "ce_eps+mae"]
noises = ["symmetric:0.4"]
seeds = [1]
"""


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text(TEXT)
    return path


class Fake(NamedTuple):
    name: str


def names(found):
    return [(j.plan.method, j.plan.noise, j.seed) for j in found]


def test_losses_turn_fastest_then_noises_then_seeds_and_none_is_twice(few):
    found = names(read_list(few))
    high, low = "symmetric:0.4", "symmetric:0.2"
    assert found[:4] == [(m, n, 1) for n in (high, low) for m in ("gce", "sce")]
    assert found[4:8] == [(m, n, 2) for n in (high, low) for m in ("gce", "sce")]
    assert found[8:] == [("ce_eps+mae", high, 1)]


LISTS = {
    "cifar10_paper": ("wang2024eps_table2", "ce gce nce+rce ce_eps+mae"),
    "cifar100_paper": ("wang2024eps_table2", "ce gce nce+agce ce_eps+mae"),
    "cifar10n_paper": ("wang2024eps_table4", "ce_eps+mae ce"),
    "cifar100n_paper": ("wang2024eps_table4", "ce_eps+mae ce"),
    "cifar10_instance": ("wang2024eps_table8", "ce gce nce+agce ce_eps+mae"),
    "cifar100_instance": ("wang2024eps_table8", "ce gce nce+agce ce_eps+mae"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_the_book_begins_with_its_worth_and_has_the_whole_table(name):
    table, first = LISTS[name]
    found, first = read_list(name), first.split()
    assert len({job.name for job in found}) == len(found)
    noise = found[0].plan.noise
    assert names(found[: len(first)]) == [(m, noise, 1) for m in first]
    about, have = published()[table], {r.method for r in known_recipes()}
    ((_, noises, rows),) = [x for x in parts(table) if x[0] == found[0].plan.dataset]
    drawn = about.get("drawn", {}).get(found[0].plan.dataset, "asymmetric")
    wanted = {
        (method, noise.replace("asymmetric", drawn), seed)
        for method in rows.keys() & have
        for noise in noises
        for seed in range(1, about["runs"] + 1)
    }
    assert wanted <= set(names(found))
    assert all(job.plan.changes == about.get("changes", {}) for job in found)
    assert all(job.plan.at == "paper" for job in found)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("losses", "loses", "block 1: unknown key 'loses'; known: .*losses"),
        ("dataset", "data", "few.toml: unknown key 'data'; known: dataset"),
        ('dataset = "digits"', "", "block 1: dataset is missing"),
        ('"gce", "sce"', '"gce", "foo"', "no recipe for method 'foo'"),
        ("recipe_of", "recipes", "few.toml: unknown key 'recipes'"),
        ("symmetric:0.2", "symetric:0.2", "no noise 'symetric:0.2'"),
    ],
)
def test_a_list_with_a_fault_is_refused_before_anything_runs(few, old, new, says):
    few.write_text(TEXT.replace(old, new))
    with pytest.raises(ValueError, match=says):
        read_list(few)


SEEDS = "seeds must be a list of whole numbers from 0 on, as in"


def refusal(path, text, *more):
    "What `read_list` says of the text; it begins with the list."
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_list(path, *more)
    said = str(error.value)
    assert "\n" not in said and said.startswith(f"list {path}")
    return said.removeprefix(f"list {path}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seeds = 3", f", block 2: {SEEDS} [1, 2, 3]; got 3"),
        ('seeds = ["1"]', f', block 2: {SEEDS} [1, 2, 3]; got "1" in it'),
        ("seeds = [1, 1.5]", f", block 2: {SEEDS} [1, 2, 3]; got 1.5 in it"),
        ("seeds = [true]", f", block 2: {SEEDS} [1, 2, 3]; got true in it"),
        ("seeds = [-1]", f", block 2: {SEEDS} [1, 2, 3]; got -1 in it"),
        ("seeds = []", ", block 2: seeds is empty; it must be"),
        ("seeds = 1979-05-27", 'got "1979-05-27"'),
        (
            'noises = "symmetric:0.4"',
            ', block 2: noises must be a list of names, as in ["',
        ),
        ("noises = [0.4]", "got 0.4 in it"),
        ("noises = []", ", block 2: noises is empty"),
        ('losses = "ce"', ', block 2: losses must be a list of names, as in ["ce"'),
        ("losses = []", ", block 2: losses is empty"),
        ("changes = 3", ", block 2: changes must be a table of the protocol's fields"),
        ('changes = { at = "smoke" }', 'got {"at": "smoke"} in it'),
        ("changes = { epoch = 1 }", ", block 2: no field 'epoch'; fields: network"),
        ('changes = { epochs = "a" }', ", block 2: epochs must be an integer"),
        ("terms = []", ", block 2: terms must be a table of losses, each of at least"),
        ("terms = { mine = [3] }", 'got {"mine": [3]} in it'),
        ('terms = { mine = [{ loss = "MAELoss", factor = "a" }] }', "terms must be"),
        (
            'terms = { mine = [{ loss = "EpsCELoss" }] }',
            ", block 2: mine in terms: Eps",
        ),
        ('terms = { mine = [{ loss = "MAELoss", delta = 1 }] }', "no 'delta'"),
        (
            'terms = { mine = [{ loss = "MAELoss" }] }',
            ", block 2: terms has 'mine', wh",
        ),
        (
            'loss = ["ce"]',
            ", block 2: unknown key 'loss'; known: dataset, scale, losses",
        ),
        ("dataset = 3", ', block 2: dataset must be a name, as in "cifar10"; got 3'),
        ('dataset = "digit"', ", block 2: no data set 'digit'; known: digits"),
        ('scale = "big"', ", block 2: scale must be one of"),
        (
            'recipe_of = "mist"',
            ", block 2: gce for digits: no recipe for dataset 'mist'",
        ),
        ('noises = ["symmetric:2"]', ", block 2: rate must lie in [0, 1]"),
        (
            'losses = ["gcee"]',
            ", block 2: gcee for digits: no recipe for method 'gcee'",
        ),
    ],
)
def test_what_a_block_holds_wrong_is_named_with_list_block_and_key(few, line, says):
    key = line.partition(" =")[0]
    top, first, last = TEXT.split("[[runs]]")
    kept = [x for x in last.splitlines() if not x.startswith(f"{key} =")]
    assert says in refusal(few, "[[runs]]".join([top, first, "\n".join([*kept, line])]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ": no runs: add a block under [[runs]]"),
        ("runs = []", ": no runs: add a block under [[runs]]"),
        ("runs = 3", ": runs must be blocks, each under [[runs]]; got 3"),
        ("[runs]\nseeds = [1]", ": runs must be blocks, each under [[runs]]; got {"),
        ("terms = []" + TEXT, ": terms must be a table"),
        ("losses = []" + TEXT, ": losses is empty"),
        (
            'terms = { m = [{ loss = "MAELoss" }] }' + TEXT,
            ": terms has 'm', which no lo",
        ),
        ("seeds = [1" + TEXT, ": Unclosed array (at line "),
        (
            TEXT.replace("seeds = [1, 2]", ""),
            ", block 1: seeds is missing, here and on",
        ),
    ],
)
def test_what_a_list_holds_wrong_is_named_with_the_list(few, text, says):
    assert refusal(few, text).startswith(says)


OWN = """
[[runs]]
losses = ["mine"]
noises = ["symmetric:0.4"]
seeds = [1]
terms = {{ mine = [{{ loss = "EpsCELoss", m = {} }}] }}
"""


AEL = '[[runs]]\nlosses = ["ael"]\nnoises = ["symmetric:0.4"]\nseeds = [1]\n'


@pytest.mark.parametrize(
    ("blocks", "differs"),
    [
        (OWN.format(10) + OWN.format(20), "terms: "),
        (AEL + AEL + 'recipe_of = "mnist"', "terms: "),
        (OWN.format(10) + OWN.format(10) + 'scale = "laptop"', "scale: "),
        (OWN.format(10) + OWN.format(10).replace("0.4", "0.40000001"), "noise: "),
    ],
)
def test_two_runs_that_would_have_one_record_are_refused(few, blocks, differs):
    said = refusal(few, TEXT + blocks)
    assert said.startswith(", block 4: digits_symmetric_0.4-")
    assert f"-seed1 is in block 3 too, with another {differs}" in said
    assert "another name in terms, or put one of the blocks into another list" in said


def test_a_change_is_in_the_name_so_both_runs_are_done(few):
    few.write_text(TEXT + OWN.format(10) + OWN.format(20) + "changes = { epochs = 3 }")
    assert len(read_list(few)) == 11


def test_the_same_run_of_two_blocks_is_taken_once_however_it_is_written(few):
    same = OWN.format(10) + OWN.format(10.0).replace("0.4", "0.40")
    few.write_text(TEXT + same + 'recipe_of = "mnist"\n')
    assert len(read_list(few)) == 10


def test_another_scale_is_that_of_every_block(few):
    few.write_text(TEXT + 'scale = "paper"\n')
    assert {job.plan.at for job in read_list(few, "laptop")} == {"laptop"}
    assert ", block 1: scale must be one of" in refusal(few, TEXT, "big")


def test_a_list_that_is_not_there_is_named_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mine.toml"):
        with pytest.raises(ValueError, match=f"list {name}: .*cifar10_paper"):
            read_list(name)
    with pytest.raises(ValueError, match=f"no file {tmp_path}/mine.toml; lists"):
        read_list("mine.toml")
    with pytest.raises(ValueError, match=f"list a/b.toml: .* no file {tmp_path}/a/b"):
        read_list("a/b.toml")
    (tmp_path / "mine.toml").write_text(TEXT)
    with pytest.raises(ValueError, match=r"did you mean the file mine\.toml"):
        read_list("mine")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ValueError, match=r"list folder\.toml: cannot be read: Is a"):
        read_list("folder.toml")


def test_a_list_as_an_editor_on_windows_saves_it_is_read(few):
    few.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert len(read_list(few)) == 9


def test_a_run_that_fails_does_not_stop_the_others():
    def one(job):
        if job.name in "bd":
            raise FloatingPointError("not finite")
        return job.name

    said = []
    found = work([Fake(x) for x in "abcde"], one, said.append)
    assert found == Outcome(["a", "c", "e"], [], ["b: not finite", "d: not finite"])
    assert said == ["a", "FAILED b: not finite", "c", "FAILED d: not finite", "e"]


def test_strict_work_raises_what_a_run_raises():
    def one(job):
        raise FloatingPointError(job.name)

    with pytest.raises(FloatingPointError, match="a"):
        work([Fake(x) for x in "ab"], one, str, strict=True)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_bug_is_not_a_failed_run(at_once):
    def one(job):
        raise KeyError(job.name)

    with pytest.raises(KeyError):
        work([Fake("a")], one, str, at_once=at_once)


@pytest.mark.parametrize("strict", [False, True])
def test_what_breaks_one_thread_ends_the_list_of_the_others(strict):
    begun, both = [], threading.Barrier(2)

    def one(job):
        begun.append(job.name)
        if job.name in "ab":
            both.wait(timeout=10)
        if job.name == "a":
            raise FloatingPointError(job.name) if strict else KeyError(job.name)
        time.sleep(0.2)
        return job.name

    with pytest.raises((KeyError, FloatingPointError), match="a"):
        work([Fake(x) for x in "abcdefgh"], one, str, at_once=2, strict=strict)
    assert sorted(begun) == ["a", "b"]


def test_no_run_at_once_is_refused():
    for at_once, kind in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(kind, match="at_once must be"):
            work([Fake("a")], lambda job: job.name, str, at_once=at_once)


def test_side_by_side_means_at_the_same_time():
    both = threading.Barrier(2)

    def one(job):
        both.wait(timeout=10)
        return job.name

    found = work([Fake(x) for x in "abcd"], one, str, at_once=2)
    assert sorted(found.done) == list("abcd")


def test_losses_that_draw_do_so_side_by_side_as_alone():
    own = [{"loss": "NLNLLoss"}, {"loss": "PeerLoss"}]
    plan = Plan(
        "digits", "symmetric:0.4", "drawn", at="smoke", own=own, changes={"epochs": 2}
    )
    jobs, found = [sweep.Job(plan, seed) for seed in (1, 2, 3)], {}
    for at_once in (1, 3):
        one = lambda job: f"{job.name} {job.plan.run(job.seed)['weights_sha256']}"
        found[at_once] = sorted(work(jobs, one, str, at_once=at_once, strict=True).done)
    assert found[1] == found[3] and len({x.split()[1] for x in found[1]}) == 3


@pytest.fixture
def interruptible():
    "Ctrl-C is heard; a job in a shell's background inherits a deaf ear."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_no_thread_begins_another_run(interruptible):
    begun = []

    def one(job):
        begun.append(job.name)
        if len(begun) == 2:
            _thread.interrupt_main()
        time.sleep(0.2)
        return job.name

    with pytest.raises(KeyboardInterrupt):
        work([Fake(x) for x in "abcdefgh"], one, str, at_once=2)
    time.sleep(0.5)
    assert begun == ["a", "b"]


def test_a_clock_knows_what_a_first_epoch_takes():
    clock = Clock(time.monotonic() + 5)
    assert not clock.is_late()
    watch = clock.watch()
    time.sleep(0.02)
    watch([{}])
    watch([{}, {}])
    assert 0.02 <= clock.first < 1 and not clock.is_late()
    watch = clock.watch()
    time.sleep(0.2)
    watch([{}, {}, {}])  # a run that went on from its second epoch
    assert 0.2 <= clock.first < 1
    for earlier in ([{}], [{}, {}]):  # rows of an earlier try, read at once
        other = Clock()
        watch = other.watch()
        watch(earlier)
        time.sleep(0.1)
        watch([*earlier, {}])
        known = other.first
        watch([*earlier, {}, {}])
        assert other.first == known >= 0.1
    clock.first = 6.0
    assert clock.is_late() and not Clock(first=9.0).is_late()


def test_what_is_recorded_is_not_run_again_and_what_differs_is_refused(few, tmp_path):
    jobs, file = read_list(few), tmp_path / "few.jsonl"
    sweep.do(jobs[0], tmp_path, functools.partial(record.append_record, file=file))
    assert sweep.left(jobs, file) == jobs[1:]
    row = json.loads(file.read_text()) | {"terms": [{"loss": "CELoss"}]}
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(FileExistsError, match=r"another run \(terms was"):
        sweep.left(jobs, file)


ONE = {"experiment": "e", "method": "ce", "seed": 1, "scale": "smoke"}
ONE |= {"accuracy": {"last": 0.5}, "seconds": 1.0}


def test_a_torn_line_is_left_out_and_costs_no_other(tmp_path):
    file = tmp_path / "runs.jsonl"
    record.append_record(ONE, file)
    text = json.dumps(ONE)
    for length in range(1, len(text)):  # also where a brace within it closes
        file.write_text(file.read_text() + text[:length])
        record.append_record(ONE | {"seed": length}, file)
    seeds = [r["seed"] for r in record.read_lines(file)]
    assert "}" in text[:-1] and seeds == [1, *range(1, len(text))]


@pytest.mark.parametrize("byte", [b"\xff", b"\x00", b"\xe2\x80"])
def test_a_bad_byte_costs_the_line_it_is_in(tmp_path, byte):
    file = tmp_path / "runs.jsonl"
    shared = claims._Recorded(file)
    for seed in (1, 2, 3):
        record.append_record(ONE | {"seed": seed, "error": "full"}, file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:9] + byte + lines[1][9:] + lines[2])
    assert [r["seed"] for r in record.read_lines(file)] == [1, 3]
    assert {name for name, _ in shared.now()} == {"e-ce-seed1", "e-ce-seed3"}
    file.rename(file.with_suffix(".failed"))
    assert len(claims.failures(file)) == 2


def test_a_line_that_is_json_and_no_record_is_named(tmp_path):
    file = tmp_path / "runs.jsonl"
    record.append_record(ONE, file)
    file.write_text(file.read_text() + '{"a": 1}\n')
    with pytest.raises(ValueError, match=r"runs.jsonl, line 2, is not a record"):
        record.read_records("e", tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_full_disk_ends_the_list_and_costs_no_other_run(tmp_path, at_once):
    begun, noted, all_ = [], [], threading.Barrier(at_once)

    def one(job):
        begun.append(job.name)
        all_.wait(timeout=10)  # what begins later is not begun at all
        record.append_record(ONE, "/dev/full")

    jobs = [SimpleNamespace(name=str(i)) for i in range(9)]
    with pytest.raises(StorageError, match="has no space left: make some"):
        work(jobs, one, at_once=at_once, fail=lambda *why: noted.append(why))
    assert len(begun) == at_once and not noted


def test_many_may_add_to_one_file(tmp_path):
    file, long = tmp_path / "runs.jsonl", {"curves": list(range(3000))}
    add = lambda k: [
        record.append_record(ONE | long | {"seed": 50 * k + i}, file) for i in range(50)
    ]
    threads = [threading.Thread(target=add, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(r["seed"] for r in record.read_lines(file)) == list(range(200))


def test_records_of_one_scale_can_be_asked_for(tmp_path):
    record.append_record(ONE, tmp_path / "a.jsonl")
    record.append_record(ONE | {"scale": "paper"}, tmp_path / "b.jsonl")
    assert len(record.read_records("e", tmp_path)) == 2
    (found,) = record.read_records("e", tmp_path, "paper")
    assert found["scale"] == "paper"


def epsbook(*words):
    run = [sys.executable, "-m", "epsbook", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True)


def test_the_command_ends_in_time_says_what_is_left_and_goes_on(few, tmp_path):
    few.write_text(TEXT.replace("epochs = 2", "epochs = 400"))
    asked = "sweep", few, "--out", tmp_path / "out"
    first = epsbook(*asked, "--minutes", "0.25")
    assert first.returncode == 0, first.stderr
    assert "left (digits_symmetric_0.4-gce@epochs=400" in first.stdout
    assert "of 400 epochs" in first.stdout
    kept = list((tmp_path / "out").glob("*.pt"))
    assert kept, "a checkpoint is kept"
    few.write_text(TEXT)
    again = epsbook(*asked, "--at-once", "2")
    assert again.returncode == 0, again.stderr
    assert len(record.read_lines(tmp_path / "out" / "few.jsonl")) == 9
    last = epsbook(*asked)
    assert "9 runs, 0 to do" in last.stdout


def test_short_runs_end_in_time_too(tmp_path):
    asked = ["--noise", "clean", "--loss", "ce", "--set", "epochs=1"]
    asked += [x for seed in range(200) for x in ("--seed", seed)]
    run = ["run", "--dataset", "digits", "--scale", "smoke", *asked]
    found = epsbook(*run, "--out", tmp_path, "--minutes", "0.15")
    assert found.returncode == 0, found.stderr
    done = len(list(tmp_path.glob("*.json")))
    assert 0 < done < 200 and f"time is up: {200 - done} left" in found.stdout


def test_a_run_that_ends_leaves_the_weights_of_one_that_begins(monkeypatch):
    draw, ends, ended = models.build, threading.Event(), threading.Event()
    begun = threading.Event()
    want = weights_sha256(train._built("digits_net", 10, 1).state_dict())

    def other():
        with repeatable("cpu"):
            begun.set()
            ends.wait()
        ended.set()

    def slow(*parts):
        ends.set()
        ended.wait(0.2)
        return draw(*parts)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    monkeypatch.setattr(models, "build", slow)
    assert weights_sha256(train._built("digits_net", 10, 1).state_dict()) == want
    thread.join()


def test_losses_of_your_own_in_a_list(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(
        'dataset = "digits"\nscale = "smoke"\n'
        'terms = { mine = [{ loss = "EpsCELoss", m = 10.0 }] }\n'
        'runs = [{ losses = ["mine"], noises = ["clean"], seeds = [1] }]\n'
    )
    (job,) = sweep.read_list(file)
    assert job.plan.terms == [{"loss": "EpsCELoss", "m": 10.0}]
    kept = []
    sweep.do(job, tmp_path, kept.append)
    assert kept[0]["method"] == "mine" and "recipe" not in kept[0]
    record.append_record(kept[0], tmp_path / "own.jsonl")
    assert sweep.left([job], tmp_path / "own.jsonl") == []


@pytest.mark.parametrize(
    ("name", "terms", "says"),
    [
        ("gce", '[{ loss = "MAELoss" }]', "name yours otherwise"),
        ("mine", '[{ loss = "Unknown" }]', "unknown loss 'Unknown'"),
        ("mine", "[]", "at least one term"),
        ("mine", '[{ loss = "MAELoss", m = 1 }]', "'m'"),
        ("'a/b'", '[{ loss = "MAELoss" }]', "a/b in terms: a name is part of a file"),
        (r"'a\b'", '[{ loss = "MAELoss" }]', "in terms: a name is part of a file"),
    ],
)
def test_terms_that_make_no_loss_are_refused(tmp_path, name, terms, says):
    file, bare = tmp_path / "own.toml", name.strip("'")
    file.write_text(
        'dataset = "digits"\nscale = "smoke"\n'
        f"terms = {{ {name} = {terms} }}\n"
        f"runs = [{{ losses = ['{bare}'], noises = ['clean'], seeds = [1] }}]\n"
    )
    with pytest.raises(ValueError, match=says):
        sweep.read_list(file)


def test_a_failure_of_a_run_made_otherwise_is_not_this_ones(tmp_path):
    path, out = tmp_path / "own.toml", tmp_path / "out"
    text = 'dataset = "digits"\nscale = "smoke"\n' + OWN
    path.write_text(text.format(10))
    (job,) = read_list(path)
    out.mkdir()
    job.checkpoint(out).write_bytes(b"not a checkpoint")
    failed = epsbook("sweep", path, "--out", out)
    assert failed.returncode == 1 and "1 of 1 run failed" in failed.stderr
    assert "no records yet" in failed.stdout
    file = out / "own.jsonl"
    assert list(claims.failures(file, [job])) == [(job.name, "smoke")]
    path.write_text(text.format(20))
    (other,) = read_list(path)
    assert other.name == job.name
    assert claims.failures(file, [other]) == {} != claims.failures(file)
    claims.note_failure(other, "later", file)  # nor does it hide the older one
    assert "not a checkpoint" in claims.failures(file, [job])[job.name, "smoke"]
    path.write_text(text.format(30))
    job.checkpoint(out).unlink()
    said = epsbook("sweep", path, "--out", out)
    assert said.returncode == 0 and "1 run, 1 to do" in said.stdout
    assert "failed before" not in said.stdout
    (found,) = record.read_lines(file)
    assert found["terms"] == [{"loss": "EpsCELoss", "m": 30}]
