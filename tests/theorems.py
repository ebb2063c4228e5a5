"""Every numbered claim of the book on exact finite problems: one row each.

A check takes what it needs to be wrong on purpose: `mutant=True` changes one thing
in the claim, and `drop` takes an assumption away. `test_theorems.py`
asks that the claim has no violation, its mutant and each dropped assumption
have some, and that the rows equal `results/theorems.json` but for rounding.
The checks are in `claims/`, a file for each chapter or few. Write the table again:
python tests/theorems.py
"""

import json
from pathlib import Path

from claims import (
    asymmetric,
    between,
    bounds,
    complementary,
    confident,
    correction,
    epsilon,
    machine,
    noise,
    normalized,
    risk,
    smoothing,
    symmetric,
    topk,
    training,
)

TABLE = Path(__file__).resolve().parents[1] / "results" / "theorems.json"
MODULES = (
    machine,
    noise,
    risk,
    symmetric,
    asymmetric,
    normalized,
    between,
    epsilon,
    bounds,
    topk,
    smoothing,
    correction,
    complementary,
    confident,
    training,
)


def number(statement):
    "(4, 2) of Theorem 4.2."
    return tuple(map(int, statement.split()[1].split(".")))


CHECKS = {name: machine.CHECKS[name] for name in sorted(machine.CHECKS, key=number)}


def row(statement):
    "What the table says of one statement."
    function, claim, mutant, drops = CHECKS[statement]

    def counted(**how):
        wrong, total, ratio = function(**how)
        ratio = None if ratio is None else round(float(ratio), 3)
        return {"problems": int(total), "violations": int(wrong), "ratio": ratio}

    def short(**how):
        found = counted(**how)
        return {k: found[k] for k in ("problems", "violations")}

    return {
        "statement": statement,
        "claim": claim,
        **counted(),
        "mutant": {"what": mutant, **short(mutant=True)},
        "dropped": [{"what": drop, **short(drop=drop)} for drop in drops],
    }


def main():
    rows = [row(statement) for statement in CHECKS]
    TABLE.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    for r in rows:
        dropped = [f"{d['violations']}/{d['problems']}" for d in r["dropped"]]
        print(
            f"{r['statement']:<16} {r['violations']}/{r['problems']}  ratio {r['ratio']}"
            f"  mutant {r['mutant']['violations']}/{r['mutant']['problems']}"
            f"  dropped {', '.join(dropped)}"
        )


if __name__ == "__main__":
    main()
