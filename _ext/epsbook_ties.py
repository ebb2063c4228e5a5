"""No line ends between a formula and the word or the mark that it belongs to.

Browsers may break a line before and after every typeset formula: a comma would begin
the next line, a bracket be left at the end of this one, the name of a loss torn from
its index. What touches a formula is put into one element with it, which is not broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from docutils import nodes

BLANKS = re.compile(r"([ \t\n]+)")  # not the space that ties already


def pieces(parent: nodes.Element) -> Iterator[nodes.Node]:
    """The children, each text as its words and the blanks between them."""
    for child in parent.children:
        if isinstance(child, nodes.Text):
            yield from (nodes.Text(part) for part in BLANKS.split(child) if part)
        else:
            yield child


def is_tied(piece: nodes.Node) -> bool:
    """Is it a formula, or a word that belongs to what it touches?"""
    word = isinstance(piece, nodes.Text) and not BLANKS.fullmatch(piece)
    return word or isinstance(piece, nodes.math)


def tie(parent: nodes.Element) -> None:
    """Put each formula of an element together with the words that touch it."""
    children = []
    for tied, run in groupby(pieces(parent), is_tied):
        together = list(run)
        has_formula = any(isinstance(piece, nodes.math) for piece in together)
        if tied and has_formula and len(together) > 1:
            together = [nodes.inline("", "", *together, classes=["tied"])]
        children += together
    parent.children = []
    parent += children


def on_doctree_read(app, doctree: nodes.document) -> None:
    """Tie every formula of a page."""
    for element in list(doctree.findall(nodes.TextElement)):
        if any(isinstance(child, nodes.math) for child in element):
            tie(element)


def setup(app) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", on_doctree_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
