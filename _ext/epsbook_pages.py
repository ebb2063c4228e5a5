"""From a notebook to a page of the book, in memory.

A notebook is written to read well on its own, in Jupyter and in Colab. What the
book adds (numbered theorem boxes, citations, figures that follow the theme) is
made here. Each step maps a notebook, or a text, to a new one; Sphinx calls
`convert_notebook` and `convert_text` (see `epsbook_sphinx`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from epsbook_idea import idea
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

DIRECTIVE = re.compile(r"\s*#\s*\|\s*([\w-]+):?\s*(.*)")
HEADER = re.compile(rf"\s*$|{DIRECTIVE.pattern}|\s*#\s*NBVAL_\w+\s*$")
EXPORTS = {"export", "exports", "exporti"}
TAGS = {
    ("hide", ""): "remove-cell",
    ("include", "false"): "remove-cell",
    ("echo", "false"): "remove-input",
    ("output", "false"): "remove-output",
    ("code-fold", "true"): "hide-input",
    ("eval", "false"): "skip-execution",
}

KINDS = "Definition|Theorem|Lemma|Proposition|Corollary|Remark"
NUMBER = r"\w+\.\d+"
NAME = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"  # parentheses, nested twice
STATEMENT = re.compile(rf"\*\*({KINDS}) ({NUMBER})\.?\*\*\s*({NAME})?\.?\s*")
EXERCISE = re.compile(rf"^(?=\*\*Exercise ({NUMBER})\.?\*\*)", re.M)
CITATION = re.compile(r"\[[^\]]*\]\((?:\.\./)*references\.bib#([^\s)]+)\)")
EQUATION = re.compile(rf"(?<![\w\[\]])\(({NUMBER})\)(?![\w(\]])")
NOTEBOOK_LINK = re.compile(r'href="([\w/]+)\.ipynb')
PERCENT = re.compile(r"(?<=\d) %")
TAG = re.compile(rf"\\tag\{{({NUMBER})\}}")
FENCE = r"^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence)[`~]*$"
CODE = r"(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
MATH = r"\$\$.*?\$\$"
VERBATIM = re.compile(rf"{FENCE}|{CODE}|{MATH}|\$[^$\n]+\$", re.M | re.S)
DISPLAYED = re.compile(
    rf"{FENCE}|{CODE}|^(?P<indent>[ >]*)(?P<formula>{MATH})", re.M | re.S
)

DRAFT = """
~~~~{admonition} This page is a draft
:class: draft
What stands here has been checked, but the text is not finished.
~~~~
"""


def map_cells(nb: dict, kind: str, change: Callable[[dict], dict | None]) -> dict:
    """The notebook with each cell of one kind changed; None takes a cell out."""
    cells = [change(c) if c["cell_type"] == kind else c for c in nb["cells"]]
    return {**nb, "cells": [cell for cell in cells if cell is not None]}


# --- code and figures -----------------------------------------------------------


def split_cell(source: str) -> tuple[dict[str, str], str]:
    """Directives (name -> value) at the top of a cell, and the code below them."""
    directives, lines = {}, source.splitlines(keepends=True)
    while lines and HEADER.match(lines[0]):
        if found := DIRECTIVE.match(lines.pop(0)):
            directives[found[1]] = found[2].strip()
    return directives, "".join(lines)


def strip_directives(nb: dict) -> dict:
    """Directives become tags that Jupyter Book knows; a cell of nothing else goes."""

    def strip(cell: dict) -> dict | None:
        directives, code = split_cell("".join(cell["source"]))
        tags = {TAGS[item] for item in directives.items() if item in TAGS}
        tags |= {"exported"} if EXPORTS & directives.keys() else set()
        tags |= set(cell["metadata"].get("tags", []))
        metadata = {**cell["metadata"], "tags": sorted(tags)}
        if "idea" in directives:
            metadata["idea"] = directives["idea"]
        return {**cell, "source": code, "metadata": metadata} if code else None

    return map_cells(nb, "code", strip)


def fold_exports(nb: dict) -> dict:
    """An exported cell as two: the lines that are its idea, and all, folded."""

    def fold(cell: dict) -> list[dict]:
        tags = cell["metadata"].get("tags", [])
        if "exported" not in tags or {"remove-cell", "remove-input"} & set(tags):
            return [cell]
        keep = set(re.findall(r"\w+", cell["metadata"].get("idea", "")))
        short, whole = idea(cell["source"], keep), cell["source"].strip("\n")
        if short == cell["source"]:
            return [cell]
        prompt = {"code_prompt_show": f"All {whole.count(chr(10)) + 1} lines"}
        whole_tags = {*tags, "hide-input", "whole"} - {"hide-cell"}
        metadata = {"tags": sorted(whole_tags), "mystnb": prompt}
        folded = {**cell, "metadata": {**cell["metadata"], **metadata}}
        if short is None or "hide-cell" in tags:  # nothing of it is shown
            return [folded]
        shown = {"tags": sorted({*tags, "idea"})}
        first = {**cell, "id": cell["id"] + "-idea", "source": short, "outputs": []}
        return [{**first, "metadata": shown}, folded]

    cells = [fold(c) if c["cell_type"] == "code" else [c] for c in nb["cells"]]
    return {**nb, "cells": [cell for some in cells for cell in some]}


def inline_svg(svg: str, alt: str, prefix: str) -> str:
    """An SVG document as an HTML element that scales and follows the theme.

    Args:
        svg: the document; its ink is `#333333`.
        alt: what the figure shows, for those who do not see it.
        prefix: put before every id, so that no two figures share one.
    """
    head, body = re.search(r"<svg\b([^>]*)>(.*)", svg, re.S).groups()
    size = dict(re.findall(r'\b(width|viewBox)="([^"]*)"', head))
    body = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub("#333333", "currentColor", body, flags=re.I)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", body)
    style = f"width:100%;max-width:{size['width']};height:auto;stroke-linejoin:round"
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="{size["viewBox"]}" style="{style}">{body.strip()}'
    )


def inline_figure(output: dict, prefix: str) -> dict:
    """A figure as inline SVG; any other output as it is.

    Raises:
        ValueError: the figure has no alt text, or is not an SVG.
    """
    data = output.get("data", {})
    images = [kind for kind in data if kind.startswith("image/")]
    if not images:
        return output
    alt = output["metadata"].get("image/svg+xml", {}).get("alt", "").strip()
    if images != ["image/svg+xml"] or not alt:
        raise ValueError(
            "a figure must be an SVG with alt text; end its cell with "
            f'show(fig, "what it shows"). Found {images} with alt text {alt!r}'
        )
    svg = inline_svg("".join(data["image/svg+xml"]), alt, prefix)
    return {**output, "data": {"text/html": svg}}


def link_pages(output: dict) -> dict:
    """HTML whose links to notebooks lead to their pages."""
    page = "".join(output.get("data", {}).get("text/html", ""))
    linked = NOTEBOOK_LINK.sub(r'href="\1.html', page)
    return output if linked == page else {**output, "data": {"text/html": linked}}


def inline_figures(nb: dict) -> dict:
    """Every figure as inline SVG, and HTML outputs that lead to pages."""

    def inline(cell: dict) -> dict:
        outputs = enumerate(map(link_pages, cell["outputs"]))
        return {
            **cell,
            "outputs": [inline_figure(o, f"fig-{cell['id']}-{i}-") for i, o in outputs],
        }

    return map_cells(nb, "code", inline)


# --- text -----------------------------------------------------------------------


def in_prose(pattern: re.Pattern, replace: str | Callable, text: str) -> str:
    """`pattern.sub(replace, text)`, but not inside code or mathematics."""
    parts, end = [], 0
    for verbatim in VERBATIM.finditer(text):
        parts += pattern.sub(replace, text[end : verbatim.start()]), verbatim[0]
        end = verbatim.end()
    return "".join(parts) + pattern.sub(replace, text[end:])


def anchor(kind: str, number: str) -> str:
    """Name by which a link finds a numbered thing, e.g. `theorem-8-1`."""
    return f"{kind}-{number}".lower().replace(".", "-")


def cite(text: str) -> str:
    """Links to `references.bib#key` become citations."""
    return in_prose(CITATION, r"{cite:t}`\1`", text)


def tie_percents(text: str) -> str:
    """No line ends between a number and its percent sign."""
    return in_prose(PERCENT, "\u00a0%", text)


def link_equations(text: str, tags: set[str]) -> str:
    """`(8.1)` becomes a link if the page has an equation of that number."""

    def link(found: re.Match) -> str:
        known = found[1] in tags
        return f"[{found[0]}](#{anchor('equation', found[1])})" if known else found[0]

    return in_prose(EQUATION, link, text)


def anchor_exercises(text: str) -> str:
    """A target before each exercise, e.g. `exercise-8-1`."""
    return in_prose(EXERCISE, lambda m: f"({anchor('exercise', m[1])})=\n", text)


def anchor_equations(text: str) -> str:
    r"""A target before each displayed formula that carries a `\tag{8.1}`."""

    def name(found: re.Match) -> str:
        indent, formula = found["indent"], found["formula"]
        if not formula or not (tag := TAG.search(formula)):
            return found[0]
        label = f"({anchor('equation', tag[1])})="
        return f"{indent}\n{indent}{label}\n{indent}{formula}"

    return DISPLAYED.sub(name, text)


def box(quote: str) -> str | None:
    """A theorem's blockquote as an admonition; None if it holds no theorem."""
    if not (found := STATEMENT.match(quote)):
        return None
    kind, number, name = found.groups()
    title = " ".join(f"{kind} {number} {name or ''}".split())
    classes = " ".join(dict.fromkeys(["theorem", kind.lower()]))
    fence = "~" * max([4, *(len(run) + 1 for run in re.findall("~+", quote))])
    return (
        f"\n{fence}{{admonition}} {title}\n:class: {classes}\n"
        f":name: {anchor(kind, number)}\n\n{quote[found.end() :].strip()}\n{fence}\n"
    )


def box_theorems(text: str) -> str:
    """Blockquotes that begin `> **Theorem 8.1**` become numbered boxes."""
    lines = text.splitlines()
    tokens = MarkdownIt("commonmark").use(dollarmath_plugin).parse(text)
    quotes = [t.map for t in tokens if t.type == "blockquote_open" and t.level == 0]
    for start, stop in reversed(quotes):
        inner = [re.sub(r"^ {0,3}> ?", "", line) for line in lines[start:stop]]
        lines[start:stop] = [box("\n".join(inner)) or "\n".join(lines[start:stop])]
    return "\n".join(lines)


def convert_text(text: str, tags: set[str] | None = None) -> str:
    """All of the above; `tags` are the numbers of the page's equations."""
    tags = set(TAG.findall(text)) if tags is None else tags
    text = tie_percents(anchor_exercises(link_equations(cite(text), tags)))
    return box_theorems(anchor_equations(text))


def convert_prose(nb: dict) -> dict:
    """`convert_text` for every markdown cell."""
    prose = [c["source"] for c in nb["cells"] if c["cell_type"] == "markdown"]
    tags = set(TAG.findall("\n".join("".join(source) for source in prose)))
    return map_cells(
        nb,
        "markdown",
        lambda cell: {**cell, "source": convert_text("".join(cell["source"]), tags)},
    )


def announce_draft(nb: dict) -> dict:
    """Say so, under the title, when the notebook's metadata call it a draft."""
    if not nb["metadata"].get("epsbook", {}).get("draft"):
        return nb
    title, *rest = nb["cells"]
    first, _, others = "".join(title["source"]).partition("\n")
    return {**nb, "cells": [{**title, "source": first + "\n" + DRAFT + others}, *rest]}


def add_language(nb: dict) -> dict:
    """Put back the language, which `nbdev_clean` takes out."""
    info = {"name": "python", "pygments_lexer": "ipython3"}
    return {**nb, "metadata": {"language_info": info, **nb["metadata"]}}


def convert_notebook(nb: dict) -> dict:
    """A notebook as the book shows it."""
    nb = fold_exports(strip_directives(inline_figures(nb)))
    return add_language(announce_draft(convert_prose(nb)))
