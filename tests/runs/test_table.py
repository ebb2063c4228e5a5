"""Published cells and records: which record counts, what the verdict is, the order."""

import csv
import io
import itertools
import math
import shutil
import subprocess

import pytest
from scipy.stats import spearmanr

from epsbook.runs import record, table, typeset
from epsbook.runs.plan import Plan
from epsbook.runs.table import STATES, Cell, Ours, board, counts, orders, published

TABLE = "wang2024eps_table2"
CELL = (TABLE, "cifar10", "symmetric:0.4", "ce", 58.0, 0.5)  # of three runs


def run(plan, seed, last, best=None, **other):
    "A record as the plan makes it, of a run that nobody did."
    protocol = plan.protocol.resolved("cpu").to_dict()
    accuracy = {"last": last, "best": best or last, "validated": None}
    made = {"seed": seed, "protocol": protocol, "accuracy": accuracy, "seconds": 1.0}
    return plan.head | made | other


def find(cells, dataset, noise, method):
    (found,) = [
        c for c in cells if (c.dataset, c.noise, c.method) == (dataset, noise, method)
    ]
    return found


@pytest.fixture
def keep(tmp_path):
    def write(*made):
        for r in made:
            record.write_record(r, tmp_path)
        return tmp_path

    return write


# --- the rule -------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("away", "state"), [(1.0, "reproduced"), (1.01, "apart")])
def test_one_run_agrees_within_twice_the_papers_deviation(sign, away, state):
    cell = Cell(*CELL, Ours((58 + sign * away,), ()))
    assert (cell.pooled(), cell.state) == (0.5, state)


def test_the_deviation_of_several_runs_is_pooled():
    ours = Ours((57.0, 59.0, 61.0, 63.0), ())  # variance 20 / 3
    pooled = math.sqrt((2 * 0.25 + 3 * 20 / 3) / 5)
    cell = Cell(*CELL[:4], 60 - 2 * pooled, 0.5, ours)
    assert cell.pooled() == pytest.approx(pooled)
    assert cell.state == "reproduced"
    assert Cell(*CELL[:4], 59.99 - 2 * pooled, 0.5, ours).state == "apart"


def test_without_a_deviation_of_the_paper_there_is_no_verdict():
    several = Ours((58.0, 58.1), ())
    assert Cell(*CELL[:5], None, several).state == "no verdict"


def test_a_known_difference_of_protocol_leaves_no_verdict():
    human = ("wang2024eps_table4", "cifar10", "cifar10n-worse", "ce_eps+mae")
    assert Cell(*human, 83.74, 0.43, Ours((83.7,), ())).state == "no verdict"


def test_states_without_a_run_of_the_protocol():
    assert Cell(*CELL).state == "open"
    assert Cell(*CELL, None, Ours((58.0,), ())).state == "laptop only"
    assert tuple(counts([])) == STATES


# --- which record counts --------------------------------------------------------------

ASKED = ("cifar10", "symmetric:0.4", "ce")


def state_of(folder, start=TABLE, asked=ASKED):
    return find(board(start, folder), *asked).state


def test_without_a_record_every_cell_is_open(tmp_path):
    cells = board("", tmp_path)
    assert counts(cells)["open"] == len(cells) > 500


def test_seeds_of_the_published_protocol_count_once_each(keep, tmp_path):
    plan = Plan(*ASKED, "paper")
    keep(run(plan, 1, 0.58), run(plan, 2, 0.59))
    record.append_record(run(plan, 2, 0.11), tmp_path / "runs.jsonl")
    record.append_record(run(plan, 3, 0.60), tmp_path / "runs.jsonl")
    cell = find(board(TABLE, tmp_path), *ASKED)
    assert cell.ours.accuracies == pytest.approx((58, 59, 60))
    names = ["ce-seed1.json", "ce-seed2.json"]
    wanted = (*(f"cifar10_symmetric_0.4-{n}" for n in names), "runs.jsonl")
    assert cell.ours.files == wanted
    assert (cell.ours.mean, cell.ours.spread) == pytest.approx((59, 1))


def test_records_of_other_runs_do_not_count(keep):
    short = Plan(*ASKED, "paper", changes={"epochs": 15})
    plan = Plan(*ASKED, "paper")
    other = plan.protocol.resolved("cpu").to_dict() | {"epochs": 15}
    gce = Plan("cifar10", "symmetric:0.4", "gce", "paper")
    folder = keep(
        run(short, 1, 0.58),  # says so in its name
        run(plan, 1, 0.58, protocol=other),  # does not
        run(gce, 1, 0.82, terms=[{"loss": "GCELoss", "q": 0.5, "tau": 1e-8}]),
        run(Plan(*ASKED, "laptop"), 2, 0.58),
        run(Plan("cifar10", "asymmetric:0.4", "ce", "paper"), 1, 0.75),
    )
    assert counts(board(TABLE, folder))["open"] == 270


def test_asymmetric_is_what_the_released_code_drew(keep):
    ten = ("cifar10", "in_place:0.4", "ce"), ("cifar10", "asymmetric:0.4", "ce")
    hundred = ("cifar100", "blocks:0.4", "ce"), ("cifar100", "asymmetric:0.4", "ce")
    folder = keep(*(run(Plan(*a, "paper"), 1, 0.5) for a, _ in (ten, hundred)))
    assert [state_of(folder, TABLE, asked) for _, asked in (ten, hundred)] == [
        "apart",
        "apart",
    ]


def test_last_and_best_epoch_are_not_mixed(keep):
    name = "cifar10n-worse"
    changes = published()["wang2024eps_table4"]["changes"]
    human = Plan("cifar10", name, "ce", "paper", changes=changes)
    folder = keep(run(Plan(*ASKED, "paper"), 1, 0.58, 0.83), run(human, 1, 0.66, 0.77))
    cells = board("wang2024eps", folder)
    assert find([c for c in cells if c.table == TABLE], *ASKED).ours.mean == 58
    best = [c for c in cells if c.table == "wang2024eps_table4"]
    assert find(best, "cifar10", name, "ce").ours.mean == 77


def test_the_usual_protocol_does_not_count_where_the_table_has_its_own(keep):
    folder = keep(run(Plan("cifar10", "cifar10n-worse", "ce", "paper"), 1, 0.77))
    assert counts(board("wang2024eps_table4", folder))["open"] == 119


def test_a_table_that_does_not_say_which_epoch_is_not_compared(keep):
    folder = keep(run(Plan("cifar10", "symmetric:0.6", "ce", "paper"), 1, 0.75))
    cells = board("wei2022smooth", folder)
    assert counts(cells)["open"] == len(cells)


def test_a_row_without_a_recipe_goes_by_its_name(keep):
    own = [{"loss": "GCELoss", "q": 0.3}]
    plan = Plan("cifar100", "symmetric:0.4", "gce@q=0.3", "paper", own=own)
    folder = keep(run(plan, 1, 0.39))
    asked = "cifar100", "symmetric:0.4", "gce@q=0.3"
    assert state_of(folder, "wang2024eps_table6", asked) == "no verdict"


def test_a_column_of_a_laptop_has_one_noise(keep):
    def small(noise, method, last):
        return run(Plan("cifar10_patches", noise, method, "laptop"), 1, last)

    one = small("in_place:0.4", "ce", 0.6)
    two = [small("asymmetric:0.4", m, 0.7) for m in ("ce", "gce")]
    asked = "cifar10", "asymmetric:0.4", "ce"
    folder = keep(one)
    as_drawn = find(board(TABLE, folder), *asked).laptop
    assert (as_drawn.mean, as_drawn.noise) == (60, "in_place:0.4")
    keep(*two)
    as_written = find(board(TABLE, folder), *asked).laptop
    assert (as_written.mean, as_written.noise) == (70, "asymmetric:0.4")
    assert state_of(folder, TABLE, asked) == "laptop only"


def test_tables_that_are_not_there_are_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match="no published table begins with 'two'; known: wang2024eps"
    ):
        board("two")


def test_a_whole_name_is_one_table_and_a_beginning_is_all_that_begin_so():
    assert table.table_names("wang2024eps_table5") == ["wang2024eps_table5"]
    both = ["wang2024eps_table5", "wang2024eps_table5_top5"]
    assert table.table_names("wang2024eps_table5_") == both[1:]
    assert set(both) < set(table.table_names("wang2024eps_table"))
    assert table.table_names() == table.table_names("w") == list(published())


# --- the order ------------------------------------------------------------------------


def small_column(pairs):
    methods = ("ce", "fl", "gce", "sce", "ldr", "nce+mae", "nce+rce", "nce+agce")
    return [
        Cell(TABLE, "cifar10", "clean", m, a, None, None, Ours((b,), ()))
        for m, (a, b) in zip(methods, pairs, strict=False)
    ]


def test_the_correlation_is_scipys_and_its_interval_holds_it():
    pairs = [(90, 5), (80, 4), (70, 4), (60, 6), (50, 1)]
    (found,) = orders(small_column(pairs))
    assert found.correlation == pytest.approx(spearmanr(pairs).statistic)
    assert found.methods == 5 and found.low < found.correlation < found.high


def test_runs_that_are_equal_in_every_bit_are_one_method(keep):
    def small(method, seed, last, weights):
        plan = Plan("cifar10_patches", "symmetric:0.8", method, "laptop")
        return run(plan, seed, last, weights_sha256=weights)

    twins = "ce_eps+mae", "fl_eps+mae"
    others = [("ce", 0.2), ("gce", 0.3), ("sce", 0.4)]
    made = [small(m, 1, last, m) for m, last in others]
    folder = keep(*made, *(small(m, 1, 0.5, "same") for m in twins))
    keep(small(twins[0], 2, 0.6, "of another seed"))  # the other has one seed
    (found,) = orders(board(TABLE, folder))
    pairs = [(18.95, 20), (25.82, 30), (25.88, 40), (58.96, 55)]
    assert (found.methods, found.noise) == (4, "symmetric:0.8")
    assert found.correlation == pytest.approx(spearmanr(pairs).statistic)
    keep(small(twins[1], 1, 0.5, "its own"))
    (apart,) = orders(board(TABLE, folder))
    assert apart.methods == 5


def test_methods_without_a_checksum_are_not_taken_for_equal():
    (found,) = orders(small_column([(i, 1 + i % 2) for i in range(6)]))
    assert found.methods == 6


def test_three_methods_are_too_few_for_an_order():
    assert not orders(small_column([(1, 1), (2, 2), (3, 3)]))


def test_a_perfect_order_has_an_interval_that_narrows_with_more_methods():
    low = []
    for n in (4, 6, 8):
        (found,) = orders(small_column([(i, i) for i in range(n)]))
        assert found.correlation == 1 and found.high < 1
        low.append(found.low)
    assert low == sorted(low) and low[0] < 0 < low[-1]


def test_the_interval_covers_a_correlation_as_often_as_it_says():
    "All orders of seven methods: without correlation about 95 % of intervals hold 0."
    n, hold, every = 7, 0, 0
    for order in itertools.permutations(range(n)):
        d = sum((i - x) ** 2 for i, x in enumerate(order))
        low, high = table.interval(1 - 6 * d / (n * (n * n - 1)), n)
        hold, every = hold + (low <= 0 <= high), every + 1
    assert 0.93 < hold / every < 0.97


# --- as text --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells():
    return board("wang2024eps_table2")


def test_csv_has_a_line_a_cell_and_nothing_rounded_away(cells):
    rows = list(csv.DictReader(io.StringIO(typeset.as_csv(cells))))
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert float(row["paper"]) == cell.mean
        assert (row["state"], row["method"]) == (cell.state, cell.method)
        assert bool(row["ours"]) == (cell.ours is not None)
        assert bool(row["records"]) == (cell.state != "open")


def test_markdown_has_as_many_columns_in_each_line(cells):
    text = typeset.as_markdown(cells, orders(cells))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {11}
    assert len(lines) == 2 * (15 + 2)


def test_a_difference_of_protocol_is_said():
    text = typeset.as_markdown(board("wang2024eps_table4"))
    assert "No verdict: the learning rate" in text


SPECIAL = set("_%#&$~^{}±≠")


def test_latex_has_a_row_a_method_and_no_bare_special_sign(cells):
    one = Cell(*CELL, Ours((57.0, 58.5), ()))
    text = typeset.as_latex([one, *board("wang2024eps_table6")])
    rows = [x for x in text.splitlines() if x.endswith(r"\\")]
    assert len(rows) == 2 + 13
    for row in rows:
        bare = row.removesuffix(r"\\").replace(r"\_", "").replace(r"\%", "")
        for known in (r"$\pm$", r"$\neq$", "$=$", " & "):
            bare = bare.replace(known, "")
        assert not SPECIAL & set(bare), row


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles(cells, tmp_path):
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}\tiny"
    body = (
        typeset.as_latex(cells) + "\n\n" + typeset.latex_grid(*typeset.overview(cells))
    )
    file = tmp_path / "table.tex"
    file.write_text(f"{head}\n{body}\n\\end{{document}}\n", "utf-8")
    command = ["pdflatex", "-halt-on-error", file.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_methods_that_all_end_alike_have_no_order(recwarn):
    ours = [Ours((10.0,), ("a.json",), weights=(str(i),)) for i in range(5)]
    cells = [
        Cell("t", "d", "n", f"m{i}", float(i), None, laptop=x)
        for i, x in enumerate(ours)
    ]
    (found,) = orders(cells)
    assert found.methods == 5 and not recwarn.list
    assert all(math.isnan(x) for x in (found.correlation, found.low, found.high))
