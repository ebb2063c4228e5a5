"""The Sphinx side: when each page is converted, and what settings.ini decides."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

from epsbook_pages import convert_notebook, convert_text
from sphinx.errors import ExtensionError


def on_source_read(app, docname: str, source: list[str]) -> None:
    """Convert a page on its way from the file to the parser."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        source[0] = convert_text(source[0])
        return
    try:
        source[0] = json.dumps(convert_notebook(json.loads(source[0])))
    except ValueError as error:
        raise ExtensionError(f"{docname}: {error}", modname=__name__) from error


def on_doctree_read(app, doctree) -> None:
    """Let `other.ipynb#theorem-8-1` find theorems: MyST looks for headings only."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for name, explicit in doctree.nametypes.items():
        if explicit and doctree.nameids.get(name):
            slugs.setdefault(name, (0, doctree.nameids[name], name))


def on_config(app, config) -> None:
    """Name, author and addresses of the book, from `settings.ini`."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(Path(app.srcdir) / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    config.project = config.html_title = settings["title"]
    config.author = settings["author"]
    config.copyright = settings["copyright"]
    config.html_baseurl = settings["doc_host"] + settings["doc_baseurl"]
    config.html_theme_options["repository_url"] = settings["git_url"]
    config.html_theme_options["repository_branch"] = settings["branch"]


def drop_thebe(app, config) -> None:
    """Take out Jupyter Book's live cells: not used, and their script is remote."""
    listeners = [one for some in app.events.listeners.values() for one in some]
    for listener in listeners:
        if listener.handler.__module__ == "sphinx_thebe":
            app.disconnect(listener.id)
    styles = app.registry.css_files
    styles[:] = [style for style in styles if style[0] != "sphinx-thebe.css"]


def on_page(app, pagename, templatename, context, doctree) -> None:
    """A menu with one entry becomes a button: Colab is one click away."""
    for button in context.get("header_buttons", []):
        if button["type"] == "group" and len(button["buttons"]) == 1:
            (only,) = button.pop("buttons")
            button.clear()
            button.update(only, text=f"Open in {only['text']}")


def setup(app) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("epsbook_cards")
    app.setup_extension("epsbook_ties")
    app.connect("config-inited", on_config)
    app.connect("config-inited", drop_thebe)
    app.connect("source-read", on_source_read)
    app.connect("doctree-read", on_doctree_read)
    app.connect("html-page-context", on_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
