"""What the book's extension makes of a notebook, and what it leaves alone."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mdit_py_plugins", reason="Jupyter Book is not installed")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "_ext"))

import epsbook_pages as pages  # noqa: E402
import epsbook_ties as ties  # noqa: E402
from docutils import nodes  # noqa: E402

SVG = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="432pt" height="244.8pt"
 viewBox="0 0 432 244.8" xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><rdf:RDF>a date</rdf:RDF></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><!-- a -> b -->
  <defs><clipPath id="p1"><rect width="9" height="9"/></clipPath><path id="m1"/></defs>
  <use xlink:href="#m1" style="stroke: #333333; fill: #0072B2"/>
  <g clip-path="url(#p1)" style="fill: #333333"/>
 </g>
</svg>
"""
ALT = 'Loss against "m": it falls, then stays < 1.'


def text(source):
    return {"cell_type": "markdown", "id": "t", "metadata": {}, "source": source}


def code(source, outputs=(), tags=None, cell_id="c"):
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": cell_id,
        "metadata": {"tags": tags} if tags else {},
        "outputs": list(outputs),
        "source": source,
    }


def figure(alt=ALT, kind="image/svg+xml"):
    metadata = {kind: {"alt": alt}} if alt is not None else {}
    data = {kind: SVG, "text/plain": "<Figure>"}
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def notebook(*cells, **metadata):
    return {
        "cells": list(cells),
        "metadata": metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


# --- code cells -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("#| hide", ["remove-cell"]),
        ("#|hide", ["remove-cell"]),
        ("#| include: false", ["remove-cell"]),
        ("#| echo: false", ["remove-input"]),
        ("#| output: false", ["remove-output"]),
        ("#| code-fold: true", ["hide-input"]),
        ("#| eval: false", ["skip-execution"]),
        ("#| export", ["exported"]),
        ("#| exporti", ["exported"]),
        ("#| export core", ["exported"]),
        ("#| export\n#| code-fold: true", ["exported", "hide-input"]),
        ("\n#| hide\n\n# NBVAL_SKIP", ["remove-cell"]),
        ("# NBVAL_IGNORE_OUTPUT", []),
        ("#| echo: true", []),
        ("#| slow", []),
    ],
)
def test_directives_become_tags(header, tags):
    (cell,) = pages.strip_directives(notebook(code(f"{header}\nx = 1")))["cells"]
    assert cell["source"] == "x = 1"
    assert cell["metadata"]["tags"] == tags


def test_tags_of_the_author_stay():
    nb = notebook(code("#| export\nx = 1", tags=["hide-cell"]))
    (cell,) = pages.strip_directives(nb)["cells"]
    assert cell["metadata"]["tags"] == ["exported", "hide-cell"]


def test_cells_of_directives_alone_go():
    nb = notebook(code("#| default_exp losses.core"), text("#| a title"), code(""))
    assert [c["source"] for c in pages.strip_directives(nb)["cells"]] == ["#| a title"]


@pytest.mark.parametrize(
    "source",
    [
        'text = """\n#| hide\n"""',
        's = "#| export"  # NBVAL_SKIP',
        "x = 1\n#| hide",
        "# A comment\n# NBVAL_SKIP\nx = 1",
        "#: | x",
    ],
)
def test_what_only_looks_like_a_directive_stays(source):
    (cell,) = pages.strip_directives(notebook(code(source)))["cells"]
    assert cell["source"] == source
    assert cell["metadata"]["tags"] == []


def test_language_is_put_back_and_never_replaced():
    cleaned = pages.add_language(notebook(kernelspec={"name": "python3"}))
    assert cleaned["metadata"]["language_info"]["name"] == "python"
    assert cleaned["metadata"]["kernelspec"] == {"name": "python3"}
    own = notebook(language_info={"name": "julia"})
    assert pages.add_language(own)["metadata"]["language_info"] == {"name": "julia"}


# --- figures --------------------------------------------------------------------


def inlined(*outputs, cell_id="c"):
    nb = pages.inline_figures(notebook(code("show(fig)", outputs, cell_id=cell_id)))
    return [output["data"] for output in nb["cells"][0]["outputs"]]


def test_a_figure_says_what_it_shows_and_takes_the_ink_of_the_page():
    (data,) = inlined(figure())
    assert list(data) == ["text/html"]
    svg = data["text/html"]
    assert svg.startswith('<svg role="img" aria-label="Loss against &quot;m&quot;: it ')
    assert "stays &lt; 1." in svg
    assert "#333333" not in svg
    assert svg.count("currentColor") == 2
    assert "fill: #0072B2" in svg


def test_a_figure_scales():
    head = inlined(figure())[0]["text/html"].partition(">")[0]
    assert 'viewBox="0 0 432 244.8"' in head
    assert "max-width:432pt" in head and "height:auto" in head
    assert not re.search(r"\b(width|height)=", head)


def test_a_figure_brings_nothing_that_reaches_beyond_it():
    svg = inlined(figure())[0]["text/html"]
    assert not re.search(r"<\?xml|<!|<style|<metadata", svg)
    assert svg.endswith("</svg>")


def test_ids_are_unique_on_the_page_and_still_found():
    twice = inlined(figure(), figure()) + inlined(figure(), cell_id="d")
    ids = [set(re.findall(r'\bid="([^"]+)"', data["text/html"])) for data in twice]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 9
    for own, data in zip(ids, twice, strict=True):
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', data["text/html"])
        assert len(used) == 2 and set(used) <= own


@pytest.mark.parametrize(
    "output", [figure(alt=None), figure(alt=" "), figure(kind="image/png")]
)
def test_a_figure_without_words_is_refused(output):
    with pytest.raises(ValueError, match=r"must be an SVG with alt text.*show\(fig"):
        inlined(output)


def test_a_percent_sign_stays_with_its_number():
    assert pages.tie_percents("at 40 % of") == "at 40\u00a0% of"
    for other in ("`40 %`", "$40 %$", "a % b"):
        assert pages.tie_percents(other) == other


def test_html_outputs_lead_to_pages():
    html = '<a href="04_x.ipynb#lemma-4-1">L</a> <a href="https://e.org/a.ipynb">e</a>'
    table = {"output_type": "display_data", "data": {"text/html": [html]}}
    made = pages.link_pages(table)["data"]["text/html"]
    assert made == html.replace("04_x.ipynb", "04_x.html")


def test_other_outputs_stay():
    stream = {"output_type": "stream", "name": "stdout", "text": "#333333"}
    table = {"output_type": "display_data", "data": {"text/html": "<svg>"}}
    nb = notebook(code("x", [stream, table]))
    assert pages.inline_figures(nb) == nb


# --- text -----------------------------------------------------------------------

THEOREM = r"""Before it.

> **Theorem 8.1** (Lemma 1 of [Wang et al. 2024](references.bib#wang2024eps), for
> all $m$ (even 0)). For every $p$:
>
> 1. it is near,
> 2. and more exactly
>
>    $$\lVert f - e_t \rVert
>    \le \varepsilon. \tag{8.2}$$
>
> A second paragraph, which `> **Theorem 9.9**` does not end.
>
> ~~~~
> tildes
> ~~~~

<details><summary>Proof</summary>

By (8.2).

</details>"""


def test_a_theorem_becomes_a_numbered_box():
    before, fence, rest = pages.convert_text(THEOREM).partition("~~~~~{admonition} ")
    body, end, after = rest.partition("\n~~~~~\n")
    assert fence and end
    assert before.strip() == "Before it."
    head, _, statement = body.partition("\n\n")
    assert head.splitlines() == [
        "Theorem 8.1 (Lemma 1 of {cite:t}`wang2024eps`, for all $m$ (even 0))",
        ":class: theorem",
        ":name: theorem-8-1",
    ]
    assert statement.startswith("For every $p$:\n\n1. it is near,\n2. and more exactly")
    assert "\n   (equation-8-2)=\n   $$\\lVert f - e_t" in statement
    assert "\n   \\le \\varepsilon. \\tag{8.2}$$\n" in statement
    assert "`> **Theorem 9.9**`" in statement
    assert statement.endswith("~~~~\ntildes\n~~~~")
    assert "By [(8.2)](#equation-8-2).\n\n</details>" in after


@pytest.mark.parametrize(
    ("quote", "title", "body"),
    [
        ("> **Remark 8.3.** Short.", "Remark 8.3", "Short."),
        ("> **Definition A.1** (Loss). A\n> map.", "Definition A.1 (Loss)", "A\nmap."),
        ("> **Lemma 2.4**\n>\n> Below.", "Lemma 2.4", "Below."),
        ("> **Corollary 2.5** (lazy). One\ntwo.", "Corollary 2.5 (lazy)", "One\ntwo."),
        (">**Proposition 3.1** (a (b (c))) x", "Proposition 3.1 (a (b (c)))", "x"),
    ],
)
def test_forms_of_a_statement(quote, title, body):
    made = pages.box_theorems(quote)
    kind, number = title.split()[:2]
    assert f"~~~~{{admonition}} {title}\n:class: theorem {kind.lower()}\n" in made
    assert f":name: {kind.lower()}-{number.lower().replace('.', '-')}\n" in made
    assert f"\n\n{body}\n~~~~" in made


def test_two_statements_in_one_cell():
    made = pages.box_theorems("> **Lemma 8.1.** a\n\n> **Lemma 8.2.** b\n\nend")
    assert re.findall(r":name: (\S+)", made) == ["lemma-8-1", "lemma-8-2"]
    assert made.endswith("\nend")


@pytest.mark.parametrize(
    "source",
    [
        "> **2 s on a laptop · no data.** Afterwards you can.",
        "> An ordinary quotation of Theorem 8.1.",
        "```\n> **Theorem 8.1** (in code). No.\n```",
        "$$\na\n> **Theorem 8.1** b\n$$",
        "**Theorem 8.1** without a quotation mark.",
        "- item\n\n  > **Theorem 8.1** inside a list",
    ],
)
def test_what_is_no_statement_stays(source):
    assert pages.box_theorems(source) == source


LINK = "[Wang\net al. 2024](references.bib#wang2024eps)"


@pytest.mark.parametrize(
    ("source", "made"),
    [
        (f"As {LINK} and {LINK} say.", "As {cite:t}`w` and {cite:t}`w` say."),
        (f"`code` {LINK}", "`code` {cite:t}`w`"),
        (f"$x$ and $y$: {LINK}", "$x$ and $y$: {cite:t}`w`"),
        (f"`{LINK}`", None),
        (f"``a ` {LINK}``", None),
        (f"```md\n{LINK}\n```", None),
        (f"~~~~\n~~~\n{LINK}\n~~~~", None),
        ("[the file](references.bib)", None),
    ],
)
def test_citations(source, made):
    expected = made.replace("`w`", "`wang2024eps`") if made else source
    assert pages.cite(source) == expected


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("$$a \\tag{8.1}$$", "\n(equation-8-1)=\n$$a \\tag{8.1}$$"),
        (
            "$$\na\n$$\n\n$$b \\tag{8.1}$$",
            "$$\na\n$$\n\n\n(equation-8-1)=\n$$b \\tag{8.1}$$",
        ),
        ("> $$a \\tag{8.1}$$", "> \n> (equation-8-1)=\n> $$a \\tag{8.1}$$"),
        ("$$a$$ and \\tag{8.1}$", None),
        ("`$$a \\tag{8.1}$$`", None),
        ("```\n$$a \\tag{8.1}$$\n```", None),
    ],
)
def test_equations_are_anchored(source, made):
    assert pages.anchor_equations(source) == (made or source)


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("By (8.1).", "By [(8.1)](#equation-8-1)."),
        ("By (8.2): no such equation here.", None),
        ("f(8.1), $f (8.1)$, $$f (8.1)$$, `f (8.1)`, (8.1)x, (18.1), (8.1", None),
        ("[(8.1)](#equation-8-1) by hand, [as (8.1)](x.ipynb)", None),
    ],
)
def test_numbers_of_equations_are_links(source, made):
    assert pages.link_equations(source, {"8.1"}) == (made or source)


def test_an_equation_is_linked_from_any_cell_of_its_page():
    nb = notebook(text("See (8.1)."), code("(8.1)"), text("$$a \\tag{8.1}$$"))
    first, second, _ = (c["source"] for c in pages.convert_prose(nb)["cells"])
    assert first == "See [(8.1)](#equation-8-1)."
    assert second == "(8.1)"


def test_exercises_are_anchored():
    made = pages.anchor_exercises(
        "**Exercise 8.1** (★). *Why?*\n\nAs **Exercise 8.2**."
    )
    assert made.startswith("(exercise-8-1)=\n**Exercise 8.1** (★)")
    assert made.count(")=") == 1


def test_a_draft_says_so_under_its_title():
    cells = text("# 8 · Title\n\n> What it holds."), text("Text")
    draft = pages.announce_draft(notebook(*cells, epsbook={"draft": True}))
    title, notice, rest = draft["cells"][0]["source"].partition("This page is a draft")
    assert title.startswith("# 8 · Title\n\n~~~~{admonition} ") and notice
    assert rest.endswith("\n~~~~\n\n> What it holds.")
    final = notebook(*cells, epsbook={"draft": False})
    assert pages.announce_draft(final) == final


def test_the_notebook_itself_is_not_changed():
    cells = (
        text(["# T\n", "\n", "(8.2)\n"]),
        text(THEOREM),
        code("#| hide\nx", [figure()]),
    )
    nb = notebook(*cells, epsbook={"draft": True})
    before = copy.deepcopy(nb)
    assert pages.convert_notebook(nb) != before
    assert nb == before


@pytest.mark.parametrize(
    ("written", "tied"),
    [
        ("Of $a$, ($b$", ["$a$,", "($b$"]),
        ("CE$_e$+MAE ends", ["CE$_e$+MAE"]),
        ("$a$-$b$ or\n$c$", ["$a$-$b$"]),
        ("$a$\u00a0% and $b$ \u00a0", ["$a$\u00a0%"]),
        ("so $a$ is $b$", []),
        ("$a$", []),
    ],
)
def test_a_formula_is_tied_to_what_touches_it(written, tied):
    parts = [p for p in re.split(r"(\$[^$]*\$)", written) if p]
    made = [nodes.math("", p) if p[0] == "$" else nodes.Text(p) for p in parts]
    paragraph = nodes.paragraph("", "", *made)
    ties.tie(paragraph)
    assert paragraph.astext() == written
    assert [e.astext() for e in paragraph.findall(nodes.inline)] == tied


def test_a_formula_is_not_tied_to_a_link():
    link = nodes.reference("", "here")
    paragraph = nodes.paragraph("", "", link, nodes.math("", "a"), nodes.Text(" too"))
    ties.tie(paragraph)
    assert not list(paragraph.findall(nodes.inline)) and paragraph[0] is link


# --- through Sphinx -------------------------------------------------------------

CONF = """
extensions = ["myst_nb", "sphinxcontrib.bibtex", "epsbook_sphinx"]
html_theme = "sphinx_book_theme"
nb_execution_mode = "off"
exclude_patterns = ["jupyter_execute"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
"""
BIB = "@misc{wang2024eps, author={Wang, A and B, B and C, C}, title={T}, year={2024}}"
INDEX = """# One
See [the theorem](two.ipynb#theorem-8-1), [a section](two.ipynb#a-section),
[an exercise](two.ipynb#exercise-8-1) and [a page](https://a.org/two.html#theorem-8-1).

```{toctree}
two
works
```
"""
WORKS = """# Works
For [the theorem](two.ipynb#theorem-8-1).

```{bibliography}
```
"""


EXERCISE = """**Exercise 8.1** (★). *Find*

$$x < y.$$

<details><summary>Hint</summary>

A step.

</details>"""
CARD = re.compile(r'<template data-card="([^"]*)">(.*?)</template>', re.S)


def build(folder, index=INDEX, outputs=()):
    """Write a book of three pages and build it; exit code and messages."""
    two = notebook(text("# Two"), text(THEOREM), text("## A section"))
    two["cells"] += code("#| export\nshow(fig)", outputs), text(EXERCISE)
    files = {"conf.py": CONF, "references.bib": BIB, "index.md": index}
    files |= {"two.ipynb": json.dumps(two), "works.md": WORKS}
    files |= {"settings.ini": (ROOT / "settings.ini").read_text(encoding="utf-8")}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return run_sphinx(folder)


def run_sphinx(folder):
    """Build what has changed, all warnings errors; exit code and messages."""
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", ".", "html"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "_ext"), "PYTHONUTF8": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout + run.stderr


def test_a_book_of_three_pages(tmp_path):
    status, said = build(tmp_path, outputs=[figure()])
    assert status == 0, said
    one = (tmp_path / "html/index.html").read_text(encoding="utf-8")
    two = (tmp_path / "html/two.html").read_text(encoding="utf-8")
    assert 'href="two.html#theorem-8-1"' in one
    assert 'href="two.html#a-section"' in one
    assert re.search(r'<div class="theorem admonition" id="theorem-8-1">', two)
    assert re.search(r'<div class="math[^>]*id="equation-8-2"', two)
    assert 'href="works.html#id' in two, "the citation leads to the bibliography"
    assert "<details><summary>Proof</summary>" in two
    assert "tag_exported" in two and "#| export" not in two
    assert '<svg role="img" aria-label="Loss against' in two
    assert "<title>One &#8212; epsbook" in one, "named in settings.ini"


@pytest.mark.parametrize(
    ("index", "outputs", "message"),
    [
        (
            "[t](two.ipynb#theorem-9-9)",
            (),
            r"local id not found in doc 'two': 'theorem-9",
        ),
        ("[t](#theorem-9-9)", (), "cross-reference target not found: 'theorem-9-9'"),
        ("[N 1900](references.bib#n1900)", (), "could not find bibtex key .n1900"),
        ("text", [figure(alt="")], "two: a figure must be an SVG with alt text"),
    ],
)
def test_what_is_broken_stops_the_build(tmp_path, index, outputs, message):
    status, said = build(tmp_path, f"{INDEX}\n{index}\n", outputs)
    assert status != 0
    assert re.search(message, said), said


def cards(folder, page):
    """Address -> HTML of each card on a built page."""
    built = (folder / "html" / f"{page}.html").read_text(encoding="utf-8")
    assert built.count("<template") == len(CARD.findall(built))
    return dict(CARD.findall(built))


def test_a_page_holds_what_its_links_lead_to(tmp_path):
    status, said = build(tmp_path)
    assert status == 0, said
    other = cards(tmp_path, "index")
    assert list(other) == ["two.html#theorem-8-1", "two.html#exercise-8-1"]
    theorem, exercise = other.values()
    assert '<p class="admonition-title">Theorem 8.1 (Lemma 1 of ' in theorem
    assert "[2024]" in theorem and r"\lVert f - e_t \rVert" in theorem
    assert "<strong>Exercise 8.1</strong>" in exercise and "x &lt; y" in exercise
    assert "Hint" not in exercise and "A step" not in exercise
    (where, entry), (formula, equation) = cards(tmp_path, "two").items()
    assert re.fullmatch(r"works\.html#id\d+", where)
    assert entry.replace("\xa0", " ") == "<p>A Wang, B B, and C C. T. 2024.</p>\n"
    assert formula == "#equation-8-2"
    assert r"\le \varepsilon. \tag{8.2}" in equation and "Theorem" not in equation


def test_the_bibliography_says_everything_once(tmp_path):
    build(tmp_path)
    works = (tmp_path / "html/works.html").read_text(encoding="utf-8")
    assert len(re.findall("<p>A.Wang, B.B, and C.C. T. 2024.</p>", works)) == 1


def test_a_card_has_no_link_and_no_id(tmp_path):
    build(tmp_path)
    every = "".join((cards(tmp_path, "index") | cards(tmp_path, "two")).values())
    assert "Theorem 8.1" in every
    assert re.findall(r"<a\b|\bid=", every) == []


def test_a_formula_on_a_card_is_typeset_where_the_page_has_none(tmp_path):
    build(tmp_path)
    works = (tmp_path / "html/works.html").read_text(encoding="utf-8")
    assert 'class="math' in works and 'class="math' not in CARD.sub("", works)
    assert re.search(r"<script[^>]+mathjax", works)


@pytest.mark.parametrize(
    ("file", "old", "new", "page"),
    [
        ("two.ipynb", "it is near,", "it is far,", "works"),
        ("references.bib", "{T}", "{Another title}", "two"),
    ],
)
def test_a_card_changes_with_its_source(tmp_path, file, old, new, page):
    build(tmp_path)
    before = "".join(cards(tmp_path, page).values())
    source = tmp_path / file
    changed = source.read_text(encoding="utf-8").replace(old, new)
    source.write_text(changed, encoding="utf-8")
    status, said = run_sphinx(tmp_path)
    assert status == 0, said
    shown = new.strip("{}")
    assert shown not in before and shown in "".join(cards(tmp_path, page).values())
