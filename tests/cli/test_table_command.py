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
    shown = invoke(TABLE, "--records", folder)
    assert "58.46 ± 0.21 / 58.00 ≠" in shown.output and not shown.stderr
    assert "Rank correlation" not in shown.output


def test_the_sum_over_all_tables_is_not_printed_of_one(folder):
    one = invoke(TABLE, "--records", folder).output
    assert one.count("| 270 ") == 1 and "| all " not in one
    whole = invoke("wang2024eps_table5", "--records", folder).output
    assert "_top5" not in whole and "| all " not in whole
    assert "| all " in invoke("wang2024eps", "--records", folder).output


def test_a_folder_without_a_record_of_the_tables_is_said_to_be_so(folder):
    other = invoke("wang2024eps_table8", "--records", folder)
    assert other.exit_code == 0
    assert other.stderr == f"no record in {folder} is of these tables\n"
    listed = invoke("wang2024eps_table8", "--records", folder, "--format", "csv")
    assert listed.stdout.startswith("table,") and listed.stderr == other.stderr
    assert not invoke("wang2024eps_table3").stderr


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
        (
            ["table2"],
            "no published table begins with 'table2'; known: wang2024eps_table2",
        ),
        (["--format", "html"], "must be one of markdown, latex, csv"),
        (["--records", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(asked, says):
    result = invoke(*asked)
    assert isinstance(result.exception, ValueError)
    assert says in str(result.exception)
