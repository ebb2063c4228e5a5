"""One list by several processes: claims, failures, a cluster of two cores, kills."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from epsbook import cli
from epsbook.runs import claims, lists, record, sweep

LIST = """
dataset = "digits"
scale = "smoke"
recipe_of = "cifar10"
changes = {{ epochs = {epochs} }}
[[runs]]
losses = ["ce", "gce", "ce_eps+mae"]
noises = ["symmetric:0.4", "symmetric:0.2"]
seeds = {seeds}
"""


def grid(folder, epochs=2, seeds="[1]"):
    path = folder / "grid.toml"
    path.write_text(LIST.format(epochs=epochs, seeds=seeds))
    return path


def start(*words):
    run = [sys.executable, "-m", "epsbook", "sweep", *map(str, words)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell makes background jobs deaf to Ctrl-C, and children inherit it.
    hear = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(run, **pipe, env=alone, preexec_fn=hear)


def epsbook(*words):
    process = start(*words)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said


def outcomes(file):
    "Each record but for its time, by name; a run recorded twice fails."
    found = record.read_lines(file)
    named = {record.record_name(r): r for r in found}
    assert len(named) == len(found)
    return {k: {x: r[x] for x in r if x != "seconds"} for k, r in named.items()}


def wait_for(there, process):
    end = time.monotonic() + 120
    while not there() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def test_one_plan_serves_all_seeds_of_a_list(tmp_path, monkeypatch):
    made, plan = [], lists.Plan
    count = lambda *names, **more: made.append(names) or plan(*names, **more)
    monkeypatch.setattr(lists, "Plan", count)
    jobs = sweep.read_list(grid(tmp_path, seeds=list(range(1000))))
    assert len(jobs) == 6000 and len(made) == 6


def test_a_line_is_parsed_once(tmp_path, monkeypatch):
    head = {"experiment": "e", "method": "ce", "scale": "smoke"}
    more = {"accuracy": {"last": 0.5}, "seconds": 1.0}
    rows = [head | more | {"seed": seed} for seed in range(20)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read, calls = json.loads, []
    monkeypatch.setattr(json, "loads", lambda text: calls.append(1) or read(text))
    assert record.read_lines(file) == rows and len(calls) == 20


def test_two_sweeps_share_a_list_and_do_each_run_once(tmp_path):
    asked = grid(tmp_path, epochs=4), "--out", tmp_path / "out"
    both = [start(*asked) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(outcomes(tmp_path / "out" / "grid.jsonl")) == 6
    assert "6 runs, 0 to do" in epsbook(*asked)
    kept = {p.suffix for p in (tmp_path / "out").iterdir()}
    assert kept == {".jsonl", ".lock"}


OTHER = """
import sys
from epsbook.runs import claims, sweep
held = claims.Claims(sys.argv[2])
print(*(job.name for job in held.of(sweep.read_list(sys.argv[1]))))
"""


def test_a_process_has_one_claims_of_a_file_so_that_none_frees_anothers(tmp_path):
    path, file = grid(tmp_path), tmp_path / "grid.jsonl"
    jobs, others = sweep.read_list(path), [sys.executable, "-c", OTHER, path, file]
    first = claims.Claims(file)
    assert list(first.of(jobs)) == jobs
    (tmp_path / "link").symlink_to(tmp_path)
    for same in (file, os.path.relpath(file), tmp_path / "link" / "grid.jsonl"):
        with pytest.raises(RuntimeError, match=r"close\(\) it first"):
            claims.Claims(same)
    assert subprocess.run(others, capture_output=True, text=True).stdout == "\n"
    first.close()
    second = claims.Claims(file)
    first.close()  # once more: this frees nothing of the second
    first.free(jobs[0])
    with pytest.raises(RuntimeError, match=r"close\(\) it first"):
        claims.Claims(file)
    assert list(second.of(jobs)) == jobs
    del second  # what nobody can close any more is closed
    claims.Claims(file).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_claims_for_itself(tmp_path):
    first = claims.Claims(tmp_path / "grid.jsonl")
    if not (child := os.fork()):
        try:
            claims.Claims(first.file)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    assert os.waitpid(child, 0)[1] == 0
    first.close()


def test_a_sweep_that_breaks_lets_go_of_its_claims(tmp_path, monkeypatch):
    def broken(jobs, *_, claims, **__):
        assert list(claims.of(jobs)) == jobs
        raise KeyError("a fault of the code")

    path, out = grid(tmp_path), tmp_path / "out"
    monkeypatch.setattr(cli, "do_jobs", broken)
    with pytest.raises(KeyError) as kept:  # with its frames, as a notebook
        cli.do_sweep(str(path), out)
    others = [sys.executable, "-c", OTHER, path, out / "grid.jsonl"]
    said = subprocess.run(others, capture_output=True, text=True).stdout
    assert kept.traceback and len(said.split()) == 6


def test_why_a_run_failed_is_kept_and_it_is_tried_again(tmp_path):
    path, out = grid(tmp_path), tmp_path / "out"
    job = sweep.read_list(path)[1]
    out.mkdir()
    job.checkpoint(out).write_bytes(b"not a checkpoint")
    process = start(path, "--out", out)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and "1 of 6 runs failed" in errors
    assert f"FAILED {job.name}" in said
    why = claims.failures(out / "grid.jsonl")
    assert "is not a checkpoint" in why[job.name, "smoke"]
    assert len(outcomes(out / "grid.jsonl")) == 5
    assert len(record.read_records("digits_*", out)) == 5, "failures are no records"
    job.checkpoint(out).unlink()
    said = epsbook(path, "--out", out)
    assert "6 runs, 1 to do" in said and "1 of them failed before" in said
    assert len(outcomes(out / "grid.jsonl")) == 6


@pytest.mark.long
def test_a_list_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    path = grid(tmp_path, epochs=6)
    epsbook(path, "--out", tmp_path / "whole")
    out, kills = tmp_path / "cut", 0
    progress = lambda: [(p.name, p.stat().st_mtime_ns) for p in out.glob("*")]
    while kills < 3:
        before = progress()
        process = start(path, "--out", out)
        wait_for(lambda seen=before: progress() != seen, process)
        time.sleep(0.3 * kills)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "too short to be killed"
        kills += 1
    epsbook(path, "--out", out)
    assert outcomes(out / "grid.jsonl") == outcomes(tmp_path / "whole" / "grid.jsonl")
    assert not list(out.glob("*.p*t*")), "nor is a half-written checkpoint left"


def workers(process):
    "Workers of the Ray that this process started."
    psutil = pytest.importorskip("psutil")
    below = psutil.Process(process.pid).children(recursive=True)
    return [p for p in below if (p.cmdline() or [""])[0].startswith("ray::_run")]


@pytest.mark.long
def test_ray_makes_the_records_of_the_local_engine_though_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray", reason="Ray is missing: pip install epsbook[sweep]")
    path, out = grid(tmp_path, epochs=8), tmp_path / "ray"
    epsbook(path, "--out", tmp_path / "local")
    process = start(path, "--out", out, "--engine", "ray", "--at-once", 2)
    wait_for(lambda: list(out.glob("*.pt")) and workers(process), process)
    victims = workers(process)
    assert victims, "a run is in progress"
    victims[0].kill()
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "FAILED" not in said and not errors.strip()
    local = outcomes(tmp_path / "local" / "grid.jsonl")
    assert outcomes(out / "grid.jsonl") == local
    assert "6 runs, 0 to do" in epsbook(path, "--out", out, "--engine", "ray")
    assert not list(out.glob("*.pt"))


@pytest.mark.long
def test_ray_ends_in_time_at_ctrl_c_and_notes_what_failed(tmp_path):
    pytest.importorskip("ray", reason="Ray is missing: pip install epsbook[sweep]")
    path, out = grid(tmp_path, epochs=3000), tmp_path / "ray"
    asked = path, "--out", out, "--engine", "ray", "--at-once", 2
    process = start(*asked)
    wait_for(lambda: list(out.glob("*.pt")), process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.strip() == "epsbook: stopped; the same command goes on from here."
    assert "time is up: 6 left" in epsbook(*asked, "--minutes", 0.5)
    grid(tmp_path)
    for job in sweep.read_list(path)[:1]:
        job.checkpoint(out).write_bytes(b"not a checkpoint")
    process = start(*asked)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and "1 of 6 runs failed" in errors
    assert len(claims.failures(out / "grid.jsonl")) == 1
