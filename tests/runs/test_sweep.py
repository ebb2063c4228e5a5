"""Lists of runs: their order, what stops them, and the file of their records."""

import functools
import json
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import pytest

from epsbook import train
from epsbook.losses.recipes import known_recipes
from epsbook.runs import record, sweep
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
        ("losses", "loses", "missing or unknown 'losses'"),
        ("dataset", "data", "missing or unknown 'dataset'"),
        ('"gce", "sce"', '"gce", "foo"', "no recipe for method 'foo'"),
        ("recipe_of", "recipes", "recipes"),
        ("symmetric:0.2", "symetric:0.2", "no noise 'symetric:0.2'"),
    ],
)
def test_a_list_with_a_fault_is_refused_before_anything_runs(few, old, new, says):
    few.write_text(TEXT.replace(old, new))
    with pytest.raises(ValueError, match=says):
        read_list(few)


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


def test_side_by_side_means_at_the_same_time():
    both = threading.Barrier(2)

    def one(job):
        both.wait(timeout=10)
        return job.name

    found = work([Fake(x) for x in "abcd"], one, str, at_once=2)
    assert sorted(found.done) == list("abcd")


def test_a_clock_knows_what_a_first_epoch_takes():
    clock = Clock(time.monotonic() + 5)
    assert not clock.is_late()
    watch = clock.watch()
    time.sleep(0.02)
    watch([{}])
    watch([{}, {}])
    assert 0.02 <= clock.first < 1 and not clock.is_late()
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


def test_a_line_that_is_json_and_no_record_is_named(tmp_path):
    file = tmp_path / "runs.jsonl"
    record.append_record(ONE, file)
    file.write_text(file.read_text() + '{"a": 1}\n')
    with pytest.raises(ValueError, match=r"runs.jsonl, line 2, is not a record"):
        record.read_records("e", tmp_path)


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
    start = time.monotonic()
    first = epsbook(*asked, "--minutes", "0.25")
    assert first.returncode == 0, first.stderr
    assert time.monotonic() - start < 15 + 12  # starting Python is not counted
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
    ],
)
def test_terms_that_make_no_loss_are_refused(tmp_path, name, terms, says):
    file = tmp_path / "own.toml"
    file.write_text(
        'dataset = "digits"\nscale = "smoke"\n'
        f"terms = {{ {name} = {terms} }}\n"
        f'runs = [{{ losses = ["{name}"], noises = ["clean"], seeds = [1] }}]\n'
    )
    with pytest.raises(ValueError, match=says):
        sweep.read_list(file)
