"""The interactive figure of chapter 08, driven in a real browser."""

import functools
import math
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from epsbook.figures import interactive
from epsbook.losses.epsilon import eps_softmax, epsilon

FRAGMENT = interactive("eps_simplex").data
PAGE = '<!doctype html><meta charset="utf-8"><body style="margin:16px">'
BOOK = Path(__file__).parents[2] / "_build" / "html"
SIDE, TOP = 320, 36  # the triangle, in the drawing's units
HEIGHT = SIDE * math.sqrt(3) / 2
# How to bring p to a place: a button, then keys. The second and third are ties.
PLACES = {
    "corner": ("corner", []),
    "center": ("center", []),
    "tie 1 = 2": ("center", ["ArrowDown"] * 3),
    "third of 2": ("tie", ["ArrowRight"] * 12 + ["Shift+ArrowDown"]),
    "edge": ("corner", ["ArrowLeft"] * 15),
}


def missing(reason):
    """Skip, or fail where a browser is required."""
    (pytest.fail if os.environ.get("EPSBOOK_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
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
def load(browser):
    """Open the fragment `n` times on one page; anything it reports is an error."""
    contexts, reports = [], []

    def open_page(n=1, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        for event in ("console", "pageerror", "request"):
            page.on(event, lambda e, event=event: reports.append(f"{event}: {e}"))
        page.set_content(PAGE + FRAGMENT * n)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not reports


def numbers(page, name, n=0):
    text = page.locator(".eps-simplex").nth(n).get_attribute(f"data-{name}")
    return torch.tensor([float(x) for x in text.split(",")], dtype=torch.float64)


def middle(page, selector):
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drawn(page):
    """Barycentric coordinates of the disc f."""
    disc = page.locator(".eps-f")
    x, y = (float(disc.get_attribute(name)) for name in ("cx", "cy"))
    first = (TOP + HEIGHT - y) / HEIGHT
    third = (x - 40) / SIDE - first / 2
    return torch.tensor([first, 1 - first - third, third], dtype=torch.float64)


def check_slider(page):
    figure, slider = page.locator(".eps-simplex"), page.locator(".eps-m")
    before = figure.locator("svg").inner_html(), float(figure.get_attribute("data-m"))
    slider.focus()
    slider.press("ArrowRight")
    assert float(figure.get_attribute("data-m")) > before[1]
    assert figure.locator("svg").inner_html() != before[0]


@pytest.mark.parametrize("step", [0, 4, 24, 80])
@pytest.mark.parametrize("place", PLACES)
def test_drawing_equals_library(load, place, step):
    page = load()
    button, keys = PLACES[place]
    page.get_by_role("button", name=button).click()
    page.locator(".eps-p").focus()
    for key in keys:
        page.keyboard.press(key)
    page.locator(".eps-m").fill(str(step))
    p, f, m = numbers(page, "p"), numbers(page, "f"), numbers(page, "m").item()
    want = eps_softmax(p.log(), m)
    torch.testing.assert_close(f, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn(page), want, rtol=0, atol=1e-6)
    eps, dist = numbers(page, "eps").item(), numbers(page, "dist").item()
    assert eps == pytest.approx(epsilon(m, 3), abs=1e-12)
    nearest = (want - torch.eye(3, dtype=torch.float64)).norm(dim=1).min().item()
    assert dist == pytest.approx(nearest, abs=1e-6)
    assert dist <= eps + 1e-12
    assert (dist == pytest.approx(eps, abs=1e-12)) == (place == "center")
    assert m == {0: 0, 24: 3, 80: 100}.get(step, m)


def test_slider_by_key(load):
    check_slider(load())


def test_handle_by_key(load):
    page = load()
    page.keyboard.press("Tab")
    for key, gains in {"Up": 0, "Left": 1, "Right": 2}.items():
        before = numbers(page, "p")
        page.keyboard.press(f"Arrow{key}")
        after = numbers(page, "p")
        assert after[gains] > before[gains]
        assert after.sum().item() == pytest.approx(1)


def test_drag_projects_onto_the_simplex(load):
    page = load()
    x, y = middle(page, ".eps-dot")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y - 20)
    assert middle(page, ".eps-dot") == pytest.approx((x + 40, y - 20), abs=1)
    left, right = (middle(page, f".eps-name >> nth={k}")[0] for k in (1, 2))
    page.mouse.move((left + right) / 2 + 30, 4000)  # below: onto the bottom side
    bottom = numbers(page, "p")
    assert middle(page, ".eps-dot")[0] == pytest.approx((left + right) / 2 + 30, abs=2)
    assert bottom[0] == 0 and bottom[2] > bottom[1] > 0
    page.mouse.move(-4000, 4000)
    assert numbers(page, "p").tolist() == [0, 1, 0]
    page.mouse.up()
    page.mouse.move(x, y)
    assert numbers(page, "p").tolist() == [0, 1, 0]


def test_drag_by_touch_does_not_scroll(load):
    page = load(2, viewport={"width": 390, "height": 700}, has_touch=True)
    (x, y), touch = middle(page, ".eps-dot"), page.context.new_cdp_session(page)
    before = numbers(page, "p")
    for kind, dy in [("Start", 0), *(("Move", -10 * k) for k in range(1, 9))]:
        point = {"type": f"touch{kind}", "touchPoints": [{"x": x + 15, "y": y + dy}]}
        touch.send("Input.dispatchTouchEvent", point)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("scrollY") == 0
    assert numbers(page, "p")[0] > before[0] + 0.2


def test_two_on_a_page_are_independent(load):
    page = load(2)
    page.locator(".eps-m").nth(1).fill("80")
    page.get_by_role("button", name="center").first.click()
    assert [numbers(page, "m", n).item() for n in (0, 1)] == [3, 100]
    assert numbers(page, "p", 0).tolist() == [1 / 3] * 3
    assert numbers(page, "p", 1).tolist() == [0.46, 0.36, 0.18]


def test_first_drawing_needs_no_script(load):
    still, live = load(java_script_enabled=False), load()
    drawings = [page.locator(".eps-simplex").inner_html() for page in (still, live)]
    assert drawings[0] == drawings[1]
    assert still.locator("svg").is_visible()
    assert not still.locator(".eps-m").is_visible()
    assert live.locator(".eps-m").is_visible()


def test_fits_a_phone(load):
    page = load(viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    scale = page.locator("svg").bounding_box()["width"] / 400
    assert scale * float(page.locator(".eps-p").get_attribute("r")) >= 24
    size = "els => Math.min(...els.map(e => parseFloat(getComputedStyle(e).fontSize)))"
    assert scale * page.locator("svg text").evaluate_all(size) >= 15


@pytest.mark.parametrize("width", [358, 688, 720])  # pages of 390, 1280 and 1100
def test_nothing_sticks_out_of_the_column_of_the_book(browser, width):
    page = browser.new_page()
    box = f'<div id="box" style="overflow:auto;width:{width}px">'
    page.set_content(PAGE + box + FRAGMENT)
    assert page.evaluate("box.scrollWidth - box.clientWidth") == 0
    inner = page.locator("table").bounding_box()
    outer = page.locator("#box").bounding_box()
    # The head of the last column is slanted and leans out of its cell.
    assert outer["x"] + outer["width"] - inner["x"] - inner["width"] >= 4
    page.close()


def test_classes_are_numbered_as_in_the_other_figures(load):
    page = load()
    assert page.locator(".eps-name").all_text_contents() == ["0", "1", "2"]
    rows = page.locator("th[scope=row]").all_text_contents()
    assert rows[:3] == ["class 0", "class 1", "class 2"]
    said = page.locator(".eps-say")
    assert said.text_content().startswith("p is in the third of class 0")
    assert said.text_content().endswith("goes to corner 1.")
    page.get_by_role("button", name="tie").click()
    assert said.text_content().startswith("A tie, p₀ = p₁:")
    assert "goes to corner 0." in said.text_content()


def test_slider_in_the_book(browser):
    chapter = next(BOOK.rglob("08_eps_softmax.html"), None)
    if chapter is None:
        missing("the book is not built: _build/html has no 08_eps_softmax.html")
    handler = functools.partial(Quiet, directory=str(BOOK))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        where = chapter.relative_to(BOOK).as_posix()
        page.goto(f"http://127.0.0.1:{server.server_port}/{where}")
        check_slider(page)
        page.close()
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
