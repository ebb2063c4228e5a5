"""Seconds from a list to its first run: 10,000 runs, all of them to do or half done.

What `epsbook sweep` does before it trains: it reads the list, reads the records that
are there, refuses those of other runs, says how long the rest will take, and claims
the first. The records of the half that is done are copies of one measured run.

Run: python benchmarks/plan_sweep.py [--runs N]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from epsbook.runs import duration, sweep
from epsbook.runs.claims import Claims

LIST = """
dataset = "digits"
scale = "smoke"
recipe_of = "cifar10"
[[runs]]
losses = ["ce", "gce", "sce", "nce+rce", "ce_eps+mae"]
noises = ["symmetric:0.2", "symmetric:0.4", "symmetric:0.6", "symmetric:0.8"]
seeds = {seeds}
"""


def timed(what, do):
    start = time.perf_counter()
    found = do()
    print(f"  {what:<28} {time.perf_counter() - start:6.2f} s")
    return found


def plan(path, file):
    "What comes before the first run."
    start = time.perf_counter()
    jobs = timed("list read", lambda: sweep.read_list(path))
    claims = Claims(file)
    waiting = timed("records read", lambda: sweep.left(jobs, file))
    plans = [job.plan for job in waiting]
    timed("duration", lambda: duration.together(plans, "cpu", file.parent))
    timed("the first claimed", lambda: next(claims.of(waiting)))
    claims.close()
    took = time.perf_counter() - start
    print(f"{len(jobs):,} runs, {len(waiting):,} to do: {took:.2f} s in all")
    return jobs


def record_half(jobs, file):
    "One run is measured; its record serves, under their names, for half of them."
    made = jobs[0].plan.run(jobs[0].seed, device="cpu")
    with open(file, "w") as lines:
        for job in jobs[: len(jobs) // 2]:
            head = job.plan.head | {"seed": job.seed}
            lines.write(json.dumps(made | head) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="a multiple of 20")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        path, file = Path(folder) / "many.toml", Path(folder) / "many.jsonl"
        path.write_text(LIST.format(seeds=list(range(1, runs // 20 + 1))))
        record_half(plan(path, file), file)
        plan(path, file)


if __name__ == "__main__":
    main()
