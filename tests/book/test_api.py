"""The reference: every public name has its place, and every example is true."""

import doctest
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
import torch

import epsbook
from epsbook.losses.catalog import loss_classes

for needed in ("matplotlib", "myst_parser", "sklearn"):
    pytest.importorskip(needed, reason="needs what the chapters draw and render with")
mpl, plt = map(importlib.import_module, ("matplotlib", "matplotlib.pyplot"))

NBS = Path(__file__).resolve().parents[2] / "nbs"
PAGES = {path.stem: path.read_text("utf-8") for path in sorted(NBS.glob("api/*.md"))}
FOUND = [found.name for found in pkgutil.walk_packages(epsbook.__path__, "epsbook.")]
IMPORTED = {name: importlib.import_module(name) for name in FOUND}
MODULES = {name: mod for name, mod in IMPORTED.items() if hasattr(mod, "__all__")}

MAIN = {"__name__": "__main__"}  # as at the prompt, for what is defined there


# --- examples -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty folder to work in; seeds and styles are put back afterwards."
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(), mpl.rc_context():
        mpl.use("agg")
        torch.manual_seed(0)
        yield tmp_path
    plt.close("all")


def examples(name, text):
    "The examples of a page as one test; the fences around them are no output."
    plain = re.sub(r"^```.*$", "", text, flags=re.M)
    return doctest.DocTestParser().get_doctest(plain, MAIN, name, f"{name}.md", 0)


def docstrings(name, thing):
    "The examples in the docstrings of a module or a class, one test for each."
    return [test for test in doctest.DocTestFinder().find(thing, name) if test.examples]


def complaints(test):
    "What doctest says of the examples; empty if all of them are true."
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", PAGES)
def test_examples_of_pages(name, folder):
    test = examples(name, PAGES[name])
    assert test.examples, f"nbs/api/{name}.md has no example. Add one, with >>>."
    assert not (said := complaints(test)), said
    left = [path.name for path in folder.iterdir()]
    assert not left, f"nbs/api/{name}.md leaves {left} behind: TemporaryDirectory."


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name, folder):
    said = [complaints(test) for test in docstrings(name, MODULES[name])]
    assert not any(said), "".join(said)


@pytest.mark.parametrize("name", ["noise", "theory"])
def test_a_wrong_output_is_seen(name, folder):
    outputs = [e for e in examples(name, PAGES[name]).examples if e.want]
    for output in outputs:
        wrong = PAGES[name].replace(output.want, "something else\n")
        assert complaints(examples(name, wrong)).count("Failed example") == 1


def test_a_wrong_docstring_is_seen():
    class Sum:
        """One and one.

        >>> 1 + 1
        3
        """

    (test,) = docstrings("Sum", Sum)
    assert "Expected:\n    3\n" in complaints(test)


# --- places -------------------------------------------------------------------------

CONF = 'extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]'


class Entry(NamedTuple):
    """A signature on a page."""

    page: str
    module: str
    name: str
    parameters: list[str]

    @property
    def key(self):
        "Name and identity: the same wherever a thing is imported to."
        return self.name, id(getattr(MODULES[self.module], self.name, None))


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    "Every function, class and constant that Sphinx puts on the pages."
    folder = tmp_path_factory.mktemp("reference")
    for name, text in {"index": "# Pages", **PAGES}.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    (folder / "conf.py").write_text(CONF)
    command = [sys.executable, "-m", "sphinx", "-Q", "-b", "xml", ".", "xml"]
    env = os.environ | {"PYTHONUTF8": "1", "NO_COLOR": "1"}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    trees = {name: ElementTree.parse(folder / "xml" / f"{name}.xml") for name in PAGES}
    return [
        Entry(name, entry.get("module"), entry.get("fullname"), parameters(entry))
        for name, tree in trees.items()
        for entry in tree.iter("desc_signature")
    ]


def parameters(entry):
    "Names of the parameters in a signature; the bare `*` has none."
    found = [p.find("desc_sig_name") for p in entry.iter("desc_parameter")]
    return [name.text for name in found if name is not None]


def notebook(module):
    "The notebook that a module is exported from."
    source = inspect.getsource(MODULES[module])
    return re.search(r"File to edit: \S*?nbs/(\S+\.ipynb)\.", source)[1]


def homes():
    "Every public thing by its key, with the module that is its home."
    found = {}
    for module in MODULES.values():
        for name in module.__all__:
            thing = getattr(module, name)
            origin = getattr(thing, "__module__", None)
            home = origin if origin in MODULES else module.__name__
            found[name, id(thing)] = home
    return found


def methods(thing):
    "Names of the public methods a class defines, or has from a private base."
    kinds = types.FunctionType, classmethod, staticmethod, property
    for base in inspect.getmro(thing):
        if base is thing or base.__name__.startswith("_"):
            names = {n for n, value in vars(base).items() if isinstance(value, kinds)}
            yield from (f"{thing.__name__}.{n}" for n in names if not n.startswith("_"))


def misplaced(entries):
    "What is on no page, on two, or on one without being public; with the fix."
    public, pages = homes(), {}
    for entry in (entry for entry in entries if "." not in entry.name):
        pages.setdefault(entry.key, []).append(entry.page)
        if entry.key not in public:
            yield f"nbs/api/{entry.page}.md: {entry.name} is not public. Remove it."
    paged = {entry.module for entry in entries}
    for key, home in public.items():
        where = pages.get(key, [])
        if home in paged and not where:
            yield f"{home}.{key[0]} is on no page: give it a docstring or an entry."
        if len(where) > 1:
            yield f"{home}.{key[0]} is on {where}: use :ignore-module-all: on all but one."
    for module in sorted(set(public.values()) - paged):
        yield (
            f"{module} is on no page: nbs/api/{module.split('.')[1]}.md needs a sentence, "
            f"an example with >>> and `.. automodule:: {module}`; api.md needs a row."
        )


def unlisted(entries, overview):
    "Rows that nbs/api.md lacks: module, page and chapter."
    for page, module in sorted({(entry.page, entry.module) for entry in entries}):
        chapter = notebook(module)
        number = re.match(r"0?(\d*)", chapter)[1] or chapter.split("/")[0]
        start, end = f"| [`{module}`](api/{page}.md) | ", f" | [{number}]({chapter}) |"
        rows = [row for row in overview.splitlines() if row.startswith(start)]
        if [row.endswith(end) for row in rows] != [True]:
            yield f"nbs/api.md needs one row '{start}what it is for{end}'."


def hidden(entries):
    "Public methods of the classes on the pages that are not there with them."
    names = {(entry.module, entry.name) for entry in entries}
    for entry in entries:
        thing = getattr(MODULES[entry.module], entry.name, None)
        for method in sorted(methods(thing)) if inspect.isclass(thing) else ():
            if (entry.module, method) not in names:
                page = f"nbs/api/{entry.page}.md"
                yield f"{page}: {method} is not there. Use :inherited-members:."


def untrue(entries):
    "Signatures written by hand that are not those of the function."
    for entry in entries:
        thing = getattr(MODULES[entry.module], entry.name, None)
        if inspect.isfunction(thing):
            wanted = list(inspect.signature(thing).parameters)
            if entry.parameters != wanted:
                yield f"nbs/api/{entry.page}.md: {entry.name} takes {wanted}. Say so."


def test_every_public_name_is_on_one_page(entries):
    problems = [*misplaced(entries), *hidden(entries), *untrue(entries)]
    assert not problems, "\n" + "\n".join(problems)


def test_the_overview_lists_every_module(entries):
    problems = list(unlisted(entries, (NBS / "api.md").read_text("utf-8")))
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda e: [x for x in e if x.module != "epsbook.noise.draw"],
            "epsbook.noise.draw is on no page",
        ),
        (lambda e: [x for x in e if x.name != "INK"], "figures.INK is on no page"),
        (
            lambda e: [*e, *(x for x in e if x.name == "load")],
            "use :ignore-module-all:",
        ),
        (lambda e: [*e, Entry("cli", "epsbook.cli", "gone", [])], "gone is not public"),
    ],
)
def test_a_thing_out_of_place_is_seen(entries, change, sentence):
    new = set(misplaced(change(entries))) - set(misplaced(entries))
    assert len(new) == 1 and sentence in new.pop()


def test_a_missing_row_and_a_wrong_signature_are_seen(entries):
    overview = (NBS / "api.md").read_text("utf-8")
    draws = [entry for entry in entries if entry.module == "epsbook.noise.draw"]
    assert not list(unlisted(draws, overview))
    assert list(unlisted(draws, overview.replace("noise/draw", "noise/spec")))
    assert len(list(untrue([draws[0]._replace(parameters=["x"])]))) == 1


def test_a_hidden_method_is_seen(entries):
    rest = [entry for entry in entries if entry.name != "NoiseSpec.corrupt"]
    (problem,) = set(hidden(rest)) - set(hidden(entries))
    assert "noise.md: NoiseSpec.corrupt is not there" in problem


# --- the catalog of the losses ------------------------------------------------------


def rowless(text):
    "Losses without a row that leads to their chapter in the catalog."
    rows = set(re.findall(r"^\| \[`(\w+)`\]\((\S+\.ipynb)\)<br>", text, re.M))
    for name, loss in loss_classes().items():
        row = name, notebook(loss.__module__)
        if row not in rows:
            yield "the table of nbs/losses.ipynb lacks '| [`{}`]({})<br>…'.".format(
                *row
            )


def catalog():
    "The table that the page prints."
    cells = json.loads((NBS / "losses.ipynb").read_text("utf-8"))["cells"]
    outputs = [o for c in cells for o in c.get("outputs", []) if "data" in o]
    return "".join("".join(o["data"].get("text/markdown", "")) for o in outputs)


def test_the_catalog_has_every_loss():
    problems = list(rowless(catalog()))
    assert not problems, "\n" + "\n".join(problems)


def test_a_missing_loss_is_seen():
    without = catalog().replace("| [`MAELoss`]", "| [`OtherLoss`]")
    assert len(list(rowless(without))) == 1
