"""A sweep that is killed ten times makes the records of one that is left alone.

Sixty runs on the digits are swept once undisturbed, in this process's engine, and once
with kill -9 at ten random moments, each after the first sign of work: of the sweep
itself, and with `--engine ray` by lot of the sweep or of a worker. Records are then
compared in all but their seconds, weights by their checksum.

Run: python benchmarks/kill_sweep.py [--engine ray] [--kills N] [--epochs N] [--seed N]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from epsbook.runs import record

LIST = """
dataset = "digits"
scale = "smoke"
recipe_of = "cifar10"
changes = {{ epochs = {epochs} }}
[[runs]]
losses = ["ce", "gce", "ce_eps+mae"]
noises = ["symmetric:0.2", "symmetric:0.4", "symmetric:0.6", "symmetric:0.8"]
seeds = [1, 2, 3, 4, 5]
"""
ALONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"}


def start(path, out, *more):
    words = [sys.executable, "-m", "epsbook", "sweep", path, "--out", out, *more]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, words)], **pipes, env=os.environ | ALONE)


def ended(process):
    "Waits for the end, which must be a good one."
    errors = process.communicate()[1]
    if process.returncode:
        sys.exit(f"the sweep ended with {process.returncode}: {errors}")


def outcomes(file):
    "Each record but for its seconds, by name; none is there twice."
    found = record.read_lines(file)
    named = {record.record_name(r): r for r in found}
    assert len(named) == len(found), "a run has two records"
    return {k: {x: r[x] for x in r if x != "seconds"} for k, r in named.items()}


def seen(out):
    return {(p.name, p.stat().st_mtime_ns) for p in out.glob("*.pt")}


def working(process, out):
    "Waits until a checkpoint is written."
    before = seen(out)
    while process.poll() is None and seen(out) <= before:
        time.sleep(0.01)


def victim(process, lots):
    "The sweep, or one of its Ray's workers."
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [p for p in below if (p.cmdline() or [""])[0].startswith("ray::_run")]
    return lots.choice(workers) if workers and lots.random() < 0.5 else process


def disturb(path, out, kills, span, seed, *more):
    "Kills so often, then lets the sweep end; returns how often the sweep was hit."
    lots, process, swept = random.Random(seed), start(path, out, *more), 0
    for number in range(1, kills + 1):
        working(process, out)
        time.sleep(wait := lots.uniform(0, span))
        if process.poll() is not None:
            sys.exit("the sweep was over before the last kill: give more --epochs")
        hit = victim(process, lots)
        hit.send_signal(signal.SIGKILL)
        what = "sweep" if hit is process else "worker"
        there = len(record.read_lines(out / f"{path.stem}.jsonl"))
        print(
            f"kill {number:2} after {wait:4.1f} s: {what}, {there} records", flush=True
        )
        if hit is process:
            process.communicate()
            swept, process = swept + 1, start(path, out, *more)
    ended(process)
    return swept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    asked = parser.parse_args()
    more = ("--engine", "ray", "--at-once", 2) if asked.engine == "ray" else ()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sixty.toml"
        path.write_text(LIST.format(epochs=asked.epochs))
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        begun = time.perf_counter()
        ended(start(path, whole))
        took = time.perf_counter() - begun
        whole = outcomes(whole / "sixty.jsonl")
        print(f"undisturbed, local: {len(whole)} records in {took:.0f} s", flush=True)
        begun, span = time.perf_counter(), took / (1.5 * asked.kills)
        hits = disturb(path, cut, asked.kills, span, asked.seed, *more)
        took = time.perf_counter() - begun
        cut, left = outcomes(cut / "sixty.jsonl"), sorted(cut.glob("*.p*t*"))
        print(f"{asked.engine}, {asked.kills} kills ({hits} of the sweep): ", end="")
        print(f"{len(cut)} records in {took:.0f} s")
    same = sum(cut.get(name) == made for name, made in whole.items())
    print(f"{same} of {len(whole)} equal in all but their seconds, weights included")
    print(f"files left over: {len(left)}")
    sys.exit(0 if same == len(whole) == len(cut) == 60 and not left else 1)


if __name__ == "__main__":
    main()
