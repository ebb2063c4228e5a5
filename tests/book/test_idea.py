"""What a page shows of an exported cell, and what folds away."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "_ext"))
import epsbook_pages as pages
from epsbook_idea import idea

LOSS = '''class PowerLoss(CurveLoss):
    """One minus a power of the probability.

    Args:
        q: the power.
    """

    ranges = {"q": "(0, 1]"}

    def __init__(self, *, q: float, **options) -> None:
        super().__init__(**options)
        self.q = q

    def phi(self, log_py, top):
        "The loss."
        check_finite(log_py)
        if self.q > 1:
            raise ValueError("q must be at most 1")
        return -torch.expm1(self.q * log_py) / self.q

    def grad_weight(self, log_py, top):
        return (self.q * log_py).exp()
'''


def test_docstrings_checks_and_declarations_fold():
    lines = idea(LOSS).splitlines()
    assert [x.strip() for x in lines if x.strip()] == [
        "class PowerLoss(CurveLoss):",
        '"""One minus a power of the probability."""',
        "def phi(self, log_py, top):",
        '"The loss."',
        "return -torch.expm1(self.q * log_py) / self.q",
        "def grad_weight(self, log_py, top):",
        "return (self.q * log_py).exp()",
    ]
    compile("\n".join(lines), "idea", "exec")


def test_names_choose_what_stays():
    short = idea(LOSS, {"grad_weight"})
    assert "def grad_weight" in short and "def phi" not in short
    assert short.startswith("class PowerLoss(CurveLoss):")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"names \['gradient'\]"):
        idea(LOSS, {"gradient"})


def test_imports_alone_leave_nothing():
    assert idea("from a import b\nimport c\n_all_ = ['b']\n") is None


@pytest.mark.parametrize(
    "source",
    ["def f(x):\n    return x + 1\n", "def f(x):\n    'Adds.'\n    return x + 1\n"],
)
def test_what_would_save_little_stays_whole(source):
    assert idea(source) == source


def test_a_check_with_another_way_out_stays():
    source = 'def f(x):\n    """Long.\n\n    Long.\n\n    Long.\n    """\n'
    source += "    if x:\n        raise ValueError\n    else:\n        return 2\n"
    assert "return 2" in idea(source)


# --- the page -----------------------------------------------------------------------


def page(*sources, tags=()):
    "Cells of a page made of code cells, each with these tags."
    meta = {"tags": list(tags)}
    cells = [
        {"cell_type": "code", "id": str(i), "metadata": meta, "source": source}
        | {"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}
        for i, source in enumerate(sources)
    ]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return pages.fold_exports(pages.strip_directives(nb))["cells"]


def test_an_exported_cell_is_shown_twice_and_its_outputs_once():
    short, whole = page("#| export\n" + LOSS)
    assert short["source"] == idea(LOSS) and whole["source"].strip() == LOSS.strip()
    assert "idea" in short["metadata"]["tags"] and not short["outputs"]
    assert "hide-input" in whole["metadata"]["tags"] and whole["outputs"]
    assert short["id"] != whole["id"]
    lines = LOSS.count("\n")
    assert whole["metadata"]["mystnb"] == {"code_prompt_show": f"All {lines} lines"}


def test_the_directive_names_the_idea():
    short, whole = page("#| export\n#| idea: grad_weight\n" + LOSS)
    assert "def phi" not in short["source"] and "def phi" in whole["source"]
    assert "idea:" not in short["source"] + whole["source"]


def test_a_cell_that_its_author_folds_has_one_fold():
    (cell,) = page("#| export\n" + LOSS, tags=["hide-cell"])
    assert cell["source"].strip() == LOSS.strip() and cell["outputs"]
    assert {"hide-input"} == set(cell["metadata"]["tags"]) & {"hide-input", "hide-cell"}


def test_imports_only_fold():
    (cell,) = page("#| export\nfrom a import b\nfrom c import d\n")
    assert "hide-input" in cell["metadata"]["tags"]


@pytest.mark.parametrize("source", [LOSS, "#| export\n#| echo: false\n" + LOSS])
def test_other_cells_stay_one(source):
    assert len(page(source)) == 1


def test_modules_hold_no_word_of_it():
    root = Path(__file__).parents[2] / "epsbook"
    assert not [p for p in root.rglob("*.py") if "#| idea" in p.read_text("utf-8")]
