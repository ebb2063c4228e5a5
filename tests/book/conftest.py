"""A real browser for the figures one can drag."""

import os
import shutil

import pytest

from epsbook.figures import interactive

PAGE = '<!doctype html><meta charset="utf-8"><body style="margin:16px">'


@pytest.fixture(scope="session")
def missing():
    """Skip, or fail where a browser is required."""
    return pytest.fail if os.environ.get("EPSBOOK_REQUIRE_BROWSER") else pytest.skip


@pytest.fixture(scope="module")
def browser(missing):
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        missing("playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=flags)
        except Error as error:
            missing(f"no Chromium: {error.message.splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser):
    """Open a page with this in it; anything it reports is an error."""
    contexts, reports = [], []

    def open_page(html, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        for event in ("console", "pageerror", "request"):
            page.on(event, lambda e, event=event: reports.append(f"{event}: {e}"))
        page.set_content(PAGE + html)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not reports


@pytest.fixture
def load(show):
    """Open figures on one page."""

    def open_page(*names, **options):
        return show("".join(interactive(name).data for name in names), **options)

    return open_page
