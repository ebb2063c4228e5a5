"""The published tables: whole rows, percentages, and names that the library knows."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from epsbook import data
from epsbook.losses.recipes import known_recipes
from epsbook.runs.named import named_noise

TEXT = files("epsbook.assets").joinpath("published.toml").read_text("utf-8")
TABLES = tomllib.loads(TEXT)
SAID = "source metric accuracy runs noises drawn changes differs".split()

# Not in the library: methods without a recipe, data sets and the noise of the web.
METHODS = """nlnl forward t_revision peer f_div nls ls volminnet coteaching+ jocor elr+
    dividemix cores* cal pes_semi sop+ proto_semi ce_eps+mae_semi gls
    ce_temperature+mae""".split()
DATASETS = ["webvision", "ilsvrc12", "clothing1m", "splice"]


def rows():
    "Table, data set, its noises, method and cells of each row."
    for name, table in TABLES.items():
        for dataset in [k for k in table if k not in SAID]:
            noises = table["noises"]
            noises = noises[dataset] if isinstance(noises, dict) else noises
            for method, cells in table[dataset].items():
                yield name, dataset, noises, method, cells


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_where_it_is_from_and_what_it_reports(name):
    table = TABLES[name]
    assert table["source"] and table.get("accuracy", "last") in ("last", "best")
    assert table.get("runs", 1) > 0
    bib = Path(__file__, "../../../nbs/references.bib").resolve()
    assert "{" + name.split("_")[0] in bib.read_text("utf-8")


def test_a_row_has_a_cell_a_noise_each_a_mean_or_mean_and_deviation_in_percent():
    for name, dataset, noises, method, cells in rows():
        assert len(cells) == len(noises), (name, dataset, method)
        for cell in cells:
            mean, deviation = cell if isinstance(cell, list) else (cell, 0.0)
            assert 0 <= mean <= 100 and 0 <= deviation < 10, (name, method)


def test_names_are_the_librarys_or_listed_here_as_not_in_it():
    methods = {r.method for r in known_recipes()}
    used = set()
    for _, dataset, noises, method, _ in rows():
        base = re.sub("@.*", "", method)
        used |= {base, dataset}
        assert (base in methods) != (base in METHODS), base
        assert (dataset in data.DATASETS) != (dataset in DATASETS), dataset
        for noise in noises if dataset in data.DATASETS else ():
            named_noise(noise, dataset)
    assert used >= {*METHODS, *DATASETS}


def test_tables_3_and_6_disagree_in_three_cells():
    "The count that the file states of the two tables of the ablation."
    three, six = (TABLES[f"wang2024eps_table{k}"] for k in (3, 6))
    apart = [
        three["noises"][i]
        for method in three["cifar100"].keys() & six["cifar100"].keys()
        for i, cell in enumerate(three["cifar100"][method])
        if cell != six["cifar100"][method][i]
    ]
    assert apart == ["symmetric:0.4"] * 3
