"""Cards: what a link leads to, on the page that holds the link.

A citation, or a link to a numbered thing, shows its target beside it: `book.js`
does that in the browser. A page that is opened as a file cannot fetch another one,
so each page brings the texts that its links show, in `<template>` elements.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from urllib.parse import urljoin

from docutils import nodes
from sphinx import addnodes
from sphinxcontrib.bibtex.nodes import bibliography
from sphinxcontrib.bibtex.transforms import BibliographyTransform

HREF = re.compile(r'href="([\w./]*#[^"]+)"')


def statement(target: nodes.Element, name: str) -> list[nodes.Node]:
    """The nodes that a card shows of a target; none if it is a heading, say."""
    if name.startswith("exercise-"):  # up to its folds
        rest = target.parent[target.parent.index(target) :]
        return list(takewhile(lambda node: not isinstance(node, nodes.raw), rest))
    return [target] if isinstance(target, nodes.admonition | nodes.math_block) else []


def statements(builder, docname: str) -> dict[str, list[nodes.Node]]:
    """What cards show of the numbered things of a page, by id."""
    doctree = builder.env.get_doctree(docname)
    for part in list(doctree.findall(bibliography)):
        part.parent.remove(part)  # resolved twice, it would say everything twice
    builder.env.resolve_references(doctree, docname, builder)
    elements = doctree.findall(nodes.Element)
    return {name: statement(e, name) for e in elements for name in e["ids"]}


def entries(builder, docname: str) -> dict[str, list[nodes.Node]]:
    """What cards show of the bibliography on a page, by id."""
    paragraph = BibliographyTransform.backend.paragraph
    return {
        citation.citation_id: [paragraph(citation.formatted_entry)]
        for citation in builder.env.get_domain("cite").citations
        if citation.bibliography_key.docname == docname
    }


@cache
def targets(builder, docname: str) -> dict[str, list[nodes.Node]]:
    """What cards show of a page: nodes, by the id that a link names."""
    return statements(builder, docname) | entries(builder, docname)


def plain(node: nodes.Node) -> nodes.Node:
    """A copy without links, which a tooltip must not hold, and without ids."""
    copy = node.deepcopy()
    for link in list(copy.findall(nodes.reference)):
        link.parent.replace(link, link.children)
    for element in copy.findall(nodes.Element):
        element["ids"] = []
    return copy


def addresses(doctree: nodes.document) -> list[str]:
    """Where the links of a page lead, as their `href` says it, each once."""
    links = doctree.findall(nodes.reference)
    every = [link.get("refuri", f"#{link.get('refid', '')}") for link in links]
    for raw in doctree.findall(nodes.raw):  # tables that a cell has written
        every += HREF.findall(raw.astext())
    return list(dict.fromkeys(every))


def cards(builder, pagename: str, doctree) -> Iterator[tuple[str, str]]:
    """Address and HTML of each card of a page."""
    pages = {builder.get_target_uri(name): name for name in builder.env.found_docs}
    for address in addresses(doctree):
        where = urljoin(builder.get_target_uri(pagename), address)
        uri, _, name = where.partition("#")
        shown = targets(builder, pages[uri]).get(name) if uri in pages else None
        if shown:
            parts = (builder.render_partial(plain(node)) for node in shown)
            yield address, "".join(part["fragment"] for part in parts)


def on_page(app, pagename, templatename, context, doctree) -> None:
    """Put the cards at the end of a page."""
    if doctree is None:  # an index, or the search
        return
    for address, card in cards(app.builder, pagename, doctree):
        head = f'<template data-card="{html.escape(address)}">'
        context["body"] += f"{head}{card}</template>\n"
        if 'class="math' in card:  # a page without formulas would lack MathJax
            app.env.get_domain("math").data["has_equations"][pagename] = True


def sources(app, link: addnodes.pending_xref) -> list[str]:
    """Files that decide what the card of a link says."""
    if link.get("refdomain") == "doc":
        return [app.env.doc2path(link["reftarget"])]
    return app.config.bibtex_bibfiles if link.get("refdomain") == "cite" else []


def on_doctree_read(app, doctree) -> None:
    """Build a page again when what its cards say has changed."""
    for link in doctree.findall(addnodes.pending_xref):
        for path in sources(app, link):
            app.env.note_dependency(path)


def setup(app) -> dict[str, bool]:
    """Register with Sphinx; the cards come before MathJax asks for formulas."""
    app.connect("doctree-read", on_doctree_read)
    app.connect("html-page-context", on_page, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
