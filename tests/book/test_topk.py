"""The table of chapter 10 and the catalog say the same of the ten losses."""

import json
import re
from pathlib import Path

import pytest

from epsbook.losses import (
    AELLoss,
    AGCELoss,
    AULLoss,
    CELoss,
    EpsCELoss,
    GCELoss,
    LDRLoss,
    MAELoss,
    NCELoss,
    SCELoss,
    catalogue,
)

CHAPTER = Path(__file__).resolve().parents[2] / "nbs" / "10_topk.ipynb"
ROW = re.compile(r"^(\S+) +symmetric (yes|no) +all-k (yes|no|if \(10\.3\))$", re.M)
LOSSES = {
    "CE": CELoss(),
    "MAE": MAELoss(),
    "GCE": GCELoss(q=0.7),
    "SCE": SCELoss(a=0.1, b=1),
    "AUL": AULLoss(a=5.5, q=3),
    "AGCE": AGCELoss(a=0.6, q=0.6),
    "AEL": AELLoss(a=2.5),
    "NCE": NCELoss(),
    "LDR-KL": LDRLoss(lam=10),
    "CE_eps": EpsCELoss(m=1e3, tau=0),
}
# The conditions of the catalog in its own words; a new wording must be read anew.
CONDITIONS = {
    "yes": lambda _: "yes",
    "no": lambda _: "no",
    "no, with these scores": lambda _: "no",
    "if $q = 1$": lambda x: "yes" if x.q == 1 else "no",
    r"if $q = 1$ and $\tau = 0$": lambda x: "yes" if (x.q, x.tau) == (1, 0) else "no",
    r"if $q < 1$ and $\tau = 0$": lambda x: "yes" if x.q < 1 and not x.tau else "no",
    "if $a = 0$": lambda x: "no" if x.a else "yes",
    "if $a > 0$": lambda x: "yes" if x.a > 0 else "no",
    r"if $\tau = 0$ and $q_1$ leads by more than $m/(m + 1)$": (
        lambda x: "no" if x.tau else "if (10.3)"
    ),
}


def printed():
    "Rows of the chapter's table, as its cell has printed them."
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    texts = [
        "".join(out.get("text", ""))
        for cell in cells
        for out in cell.get("outputs", [])
        if "all-k" in "".join(out.get("text", ""))
    ]
    return {name: marks for name, *marks in ROW.findall("\n".join(texts))}


def from_catalog(loss):
    "The two marks of a loss with its parameters, by the catalog."
    entry = catalogue()[type(loss).__name__]
    return [CONDITIONS[words](loss) for words in (entry.symmetric, entry.all_k)]


def test_the_table_has_the_ten_losses():
    assert list(printed()) == list(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_chapter_and_catalog_agree(name):
    assert printed()[name] == from_catalog(LOSSES[name])


def test_a_floor_or_another_parameter_changes_the_mark():
    assert from_catalog(GCELoss(q=1)) == ["yes", "no"]
    assert from_catalog(SCELoss(a=0, b=1)) == ["yes", "no"]
    assert from_catalog(AGCELoss(a=0.6, q=1))[0] == "yes"
    assert from_catalog(EpsCELoss(m=1e3))[1] == "no"
