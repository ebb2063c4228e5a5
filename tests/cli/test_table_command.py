"""`epsbook table`: what it prints in each form, and what it refuses."""

import csv
import io

import pytest
from typer.testing import CliRunner

from epsbook.cli import app
from epsbook.runs import record
from epsbook.runs.plan import Plan

TABLE = "wang2024eps_table2"


def invoke(*arguments):
    return CliRunner().invoke(app, ["table", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    "One record of ours, half a point from the paper's 58.46."
    plan = Plan("cifar10", "symmetric:0.4", "ce", "paper")
    protocol = plan.protocol.resolved("cpu").to_dict()
    accuracy = {"last": 0.58, "best": 0.83, "validated": None}
    made = {"seed": 1, "protocol": protocol, "accuracy": accuracy, "seconds": 1.0}
    record.write_record(plan.head | made, tmp_path)
    return tmp_path


def test_without_a_name_the_cells_of_all_tables_are_counted():
    shown = invoke()
    assert shown.exit_code == 0, shown.output
    first, _, *rows = shown.output.splitlines()
    assert "reproduced" in first and rows[-1].startswith("| all")
    assert any(row.startswith(f"| {TABLE} ") for row in rows)


def test_a_table_stands_under_its_counts(folder):
    shown = invoke(TABLE, "--records", folder).output
    assert "58.46 ± 0.21 / 58.00 ≠" in shown
    assert "| all " in shown and "Rank correlation" not in shown


def test_csv_is_one_line_a_cell(folder):
    shown = invoke(TABLE, "--format", "csv", "--records", folder).output
    rows = list(csv.DictReader(io.StringIO(shown)))
    (ours,) = [r for r in rows if r["ours"]]
    assert len(rows) == 270
    assert (ours["method"], ours["ours"], ours["state"]) == ("ce", "58.0", "apart")
    assert ours["records"] == "cifar10_symmetric_0.4-ce-seed1.json"


def test_latex_is_tabulars(folder):
    shown = invoke(TABLE, "--format", "latex", "--records", folder).output
    assert shown.count(r"\begin{tabular}") == shown.count(r"\end{tabular}") == 2
    assert r"58.46 $\pm$ 0.21 / 58.00 $\neq$" in shown


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["table2"], "no published table 'table2'; known: wang2024eps_table2"),
        (["--format", "html"], "must be one of markdown, latex, csv"),
        (["--records", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(asked, says):
    result = invoke(*asked)
    assert isinstance(result.exception, ValueError)
    assert says in str(result.exception)
