"""The table of theorems: claims hold, mutants and dropped assumptions do not."""

import json
import re
from pathlib import Path

import pytest
import theorems

NBS = Path(__file__).resolve().parents[2] / "nbs"
CLAIM = re.compile(r"^> \*\*((?:Theorem|Lemma|Proposition|Corollary) \w+\.\d+)", re.M)


@pytest.fixture(scope="module")
def table():
    assert theorems.TABLE.exists(), "no table: run `python tests/theorems.py`"
    return {row["statement"]: row for row in json.loads(theorems.TABLE.read_text())}


def same(found, stored, slack=0):
    """Are two rows, or parts of rows, equal up to what rounding can change?

    Rounding moves a violation in a thousand problems across its limit, and the
    last digit of a ratio; never a text, the number of problems, or a 0.
    """
    if type(found) is not type(stored):
        return False
    if isinstance(found, list):
        return len(found) == len(stored) and all(map(same, found, stored))
    if isinstance(found, dict):
        slacks = {"violations": found.get("problems", 0) / 1000, "ratio": 0.0011}
        return found.keys() == stored.keys() and all(
            same(found[key], stored[key], slacks.get(key, 0)) for key in found
        )
    if not (found and stored and slack):
        return found == stored
    return abs(found - stored) <= slack


@pytest.mark.parametrize("statement", theorems.CHECKS)
def test_a_claim_holds_and_what_it_needs_is_needed(statement, table):
    row = theorems.row(statement)
    assert row["violations"] == 0, row
    assert row["ratio"] is None or row["ratio"] <= 1.001
    assert row["mutant"]["violations"] > 0, "the check passes a wrong constant"
    for dropped in row["dropped"]:
        assert dropped["violations"] > 0, f"holds without: {dropped['what']}"
    fix = "run `python tests/theorems.py` and look at the difference"
    assert same(row, table.get(statement)), fix


def test_more_than_rounding_is_seen():
    row = {"problems": 3000, "violations": 0, "ratio": 1.0, "mutant": "η for 2 η"}
    row["dropped"] = [{"problems": 3000, "violations": 7}]
    assert same(row, row | {"ratio": 0.999})
    assert same(row, row | {"dropped": [{"problems": 3000, "violations": 10}]})
    for wrong in (
        {"problems": 3001},
        {"violations": 1},
        {"ratio": 0.998},
        {"ratio": None},
        {"mutant": "η"},
        {"dropped": [{"problems": 3000, "violations": 11}]},
        {"dropped": []},
        {"more": 1},
    ):
        assert not same(row, row | wrong), wrong
        assert not same(row | wrong, row), wrong
    assert not same(row, None)


def test_the_table_has_nothing_else(table):
    assert list(table) == list(theorems.CHECKS)


def claims():
    "Numbered claims of all chapters, drafts too."
    for path in sorted(NBS.glob("[0-3]*_*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            if cell["cell_type"] == "markdown":
                yield from CLAIM.findall("".join(cell["source"]))


def test_every_claim_of_the_book_is_in_the_table():
    assert sorted(claims()) == sorted(theorems.CHECKS)


def shift(monkeypatch, by):
    "Every problem of the checks drawn with other seeds."

    def seeded(function):
        return lambda *sizes, seed, **how: function(*sizes, seed=seed + by, **how)

    def generator(function):
        return lambda seed=0: function(seed + by)

    others = {"random_problems": seeded, "random_transitions": seeded}
    others["generator"] = generator
    for module in theorems.MODULES:
        for name, other in others.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, other(getattr(module, name)))


@pytest.mark.parametrize("by", range(1000, 31_000, 1000))
def test_only_symmetric_noise_is_harmless_whatever_the_seed(monkeypatch, by):
    shift(monkeypatch, by)
    for statement in ("Theorem 2.2", "Proposition 2.3"):
        function, *_ = theorems.CHECKS[statement]
        assert function()[0] == 0, statement
        assert function(mutant=True)[0] > 0, statement


@pytest.mark.long
@pytest.mark.parametrize("statement", theorems.CHECKS)
def test_claims_hold_for_other_seeds(statement, monkeypatch):
    shift(monkeypatch, 77_000)
    function, _, _, drops = theorems.CHECKS[statement]
    wrong, _, ratio = function()
    assert wrong == 0 and (ratio is None or ratio <= 1.001)
    assert function(mutant=True)[0] > 0
    for drop in drops:
        assert function(drop=drop)[0] > 0, drop
