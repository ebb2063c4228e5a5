"""The built book in a browser: every page typeset, reachable, and at home offline."""

import configparser
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build" / "html"
PAGES = sorted(
    path.relative_to(BUILT / "nbs").with_suffix("").as_posix()
    for path in BUILT.glob("nbs/**/*.html")
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
KINDS = "Definition|Theorem|Lemma|Proposition|Corollary|Remark"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SMALL = {"width": 360, "height": 780}


def needs(present, reason):
    "Skip this file unless `present`; where a browser is required, fail."
    if not present and os.environ.get("EPSBOOK_REQUIRE_BROWSER"):
        raise RuntimeError(reason)
    if not present:
        pytest.skip(reason, allow_module_level=True)


needs(PAGES, "the book is not built: run `make book`")
needs(BROWSER, "no chromium on this machine")
needs(importlib.util.find_spec("playwright"), "playwright is not installed")
api = importlib.import_module("playwright.sync_api")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def home():
    "Address of the book, served from this machine."
    handler = functools.partial(Quiet, directory=BUILT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, address, **options):
    "A page when all is loaded and typeset, with what it asked for and complained of."
    page = browser.new_page(viewport=DESK, **options)
    seen = SimpleNamespace(page=page, requests=[], errors=[])
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on(
        "console",
        lambda said: (
            said.type in ("error", "warning") and seen.errors.append(said.text)
        ),
    )
    page.goto(address, wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    return seen


# `make test` looks at these; all others, which are made of the same parts, are long.
SOME = {"index", "01_wrong_labels", "08_eps_softmax", "api/losses"}


LONG = pytest.mark.long
MARKED = [p if p in SOME else pytest.param(p, marks=LONG) for p in PAGES]


@pytest.fixture(scope="module", params=MARKED)
def visit(request, home, browser):
    "Each page of the book, opened once for all tests of pages."
    seen = open_page(browser, f"{home}/nbs/{request.param}.html")
    seen.name, seen.home = request.param, home
    yield seen
    seen.page.close()


@pytest.fixture
def open_chapter(home, browser):
    "Opens a chapter afresh, for tests that change the page."
    opened = []

    def open_one(name, at=home, **options):
        opened.append(open_page(browser, f"{at}/nbs/{name}.html", **options).page)
        return opened[-1]

    yield open_one
    for page in opened:
        page.close()


def settings():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def prose(name):
    "Text cells of a notebook as its author wrote them; none if it is no notebook."
    path = ROOT / "nbs" / f"{name}.ipynb"
    cells = (
        json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    )
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


# --- every page -----------------------------------------------------------------


def test_no_error_is_reported(visit):
    assert visit.errors == []


def test_nothing_is_asked_of_another_host(visit):
    hosts = {urlsplit(url).netloc for url in visit.requests if url.startswith("http")}
    assert hosts == {urlsplit(visit.home).netloc}


def test_mathematics_is_typeset(visit):
    formulas = visit.page.locator(".math")
    typeset = visit.page.locator(".math:has(mjx-container)")
    assert typeset.count() == formulas.count()
    assert visit.page.locator("mjx-merror").all_inner_texts() == []
    if any("$" in re.sub(r"`.*?`", "", cell) for cell in prose(visit.name)):
        assert formulas.count() > 0


def test_no_markup_is_left_to_be_seen(visit):
    words = visit.page.evaluate("""() => {
        const article = document.querySelector("article").cloneNode(true);
        const set = "pre, code, .sig, mjx-container, script, style, svg";
        article.querySelectorAll(set).forEach(e => e.remove());
        return article.textContent;
    }""")
    raw = r"\$\$|\\[(\[a-zA-Z]|\$[^$\n]+\$|\{cite|:::|~~~|^#\||NBVAL_|\]\(|\*\*"
    assert re.findall(f"(?m).*(?:{raw}).*", words) == []
    assert visit.page.locator('a[href*="references.bib"]').count() == 0


def test_pictures_are_described(visit):
    every = visit.page.locator("img").evaluate_all("all => all.map(e => e.alt)")
    assert every, "the logo at least"
    assert [alt for alt in every if len(alt) < 15] == []


def test_figures_are_described(visit):
    labels = visit.page.locator("svg[role=img]:not(.svg-inline--fa)").evaluate_all(
        "all => all.map(e => e.getAttribute('aria-label') || '')"
    )
    assert [label for label in labels if len(label) < 30] == []
    assert visit.page.locator(".cell_output :is(img, object, embed)").count() == 0


def test_ids_are_unique(visit):
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert sorted(i for i in set(ids) if ids.count(i) > 1) == []


def test_links_within_the_page_lead_somewhere(visit):
    lost = visit.page.locator('article a[href^="#"]').evaluate_all(
        "all => all.map(a => a.getAttribute('href').slice(1))"
        ".filter(id => id && !document.getElementById(decodeURIComponent(id)))"
    )
    assert lost == []


def test_statements_are_numbered_boxes(visit):
    pattern = rf"^> ?\*\*({KINDS}) (\w+\.\d+)"
    written = re.findall(pattern, "\n".join(prose(visit.name)), re.M)
    boxes = visit.page.locator(".admonition.theorem")
    titles = boxes.locator("> .admonition-title").all_inner_texts()
    assert [tuple(title.split()[:2]) for title in titles] == written
    anchors = boxes.evaluate_all("all => all.map(e => e.id)")
    assert anchors == [f"{k}-{n}".lower().replace(".", "-") for k, n in written]


def test_colab_opens_the_notebook(visit):
    links = visit.page.locator('a[href^="https://colab"]')
    addresses = links.evaluate_all("all => all.map(a => a.href)")
    if not prose(visit.name):
        assert addresses == []
        return
    home = settings()["git_url"].removeprefix("https://github.com/")
    path = f"{home}/blob/{settings()['branch']}/nbs/{visit.name}.ipynb"
    assert addresses == [f"https://colab.research.google.com/github/{path}"]


TOO_WIDE = """() => ["html", "main", "article"].map(name => {
    const e = document.querySelector(name);
    return [name, e.scrollWidth, e.clientWidth];
}).filter(([, needed, given]) => needed > given)"""


@pytest.mark.parametrize("size", [PHONE, SMALL], ids=["390", "360"])
def test_a_phone_never_scrolls_sideways(visit, size):
    visit.page.set_viewport_size(size)
    try:
        visit.page.evaluate(
            "document.querySelectorAll('details').forEach(d => d.open = 1)"
        )
        # Formulas in what was folded are set one by one: wait for the last layout.
        for _ in range(20):
            if not (widths := visit.page.evaluate(TOO_WIDE)):
                break
            visit.page.wait_for_timeout(250)
        assert widths == []
    finally:
        visit.page.set_viewport_size(DESK)


def test_the_title_names_page_and_book(visit):
    title = visit.page.title()
    heading = visit.page.locator("article h1").first.inner_text().rstrip("#").strip()
    assert title == f"{heading} — {settings()['title']}"


# --- cards: what a link leads to ---------------------------------------------------

CARD = "#reference-card"
EQUATION = 'article a[href="#equation-8-1"]:visible'
CITATION = "article .bibtex-citation:visible"
OPEN_FOLDS = "document.querySelectorAll('details').forEach(d => d.open = true)"
IN_WINDOW = f"""() => {{
    const {{ left, top, right, bottom }} =
        document.querySelector("{CARD}").getBoundingClientRect();
    return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
}}"""


@pytest.fixture
def eps_softmax(open_chapter):
    "Opens chapter 8 as a file, without a server."
    return functools.partial(open_chapter, "08_eps_softmax", at=BUILT.as_uri())


def first_name(page):
    "Where a citation begins, before its link: a point in the window."
    return page.locator(CITATION).first.evaluate("""e => {
        e.scrollIntoView({ block: "center", behavior: "instant" });
        const { left, top, height } = e.getClientRects()[0];
        return [left + 3, top + height / 2];
    }""")


def card_addresses(page):
    templates = page.locator("template[data-card]")
    return templates.evaluate_all("all => all.map(e => e.dataset.card)")


def test_every_reference_has_a_card(visit):
    links = visit.page.locator("article a[href*='#']")
    addresses = set(links.evaluate_all("all => all.map(a => a.getAttribute('href'))"))
    kinds = rf"({KINDS}|Equation|Exercise)-\w+-\d+".lower()
    numbered = rf"(\.\./)*((\w+\.html)?#{kinds}|references\.html#id\d+)"
    wanted = sorted(a for a in addresses if re.fullmatch(numbered, a))
    assert sorted(card_addresses(visit.page)) == wanted


# Focus each link in turn and look at its card, in the page: thousands of cards.
FAULTY_CARDS = f"""async () => {{
    const card = document.querySelector("{CARD}"), faults = [];
    const isOpen = () => card.checkVisibility({{ visibilityProperty: true }});
    const inWindow = {IN_WINDOW};
    const soon = async (holds) => {{
        for (let i = 0; i < 600 && !holds(); i++)
            await new Promise(requestAnimationFrame);
        return holds();
    }};
    for (const {{ dataset }} of document.querySelectorAll("template[data-card]")) {{
        const link = document.querySelector(`article a[href="${{dataset.card}}"]`);
        const check = (holds, what) => holds || faults.push([dataset.card, what]);
        link.focus();
        check(await soon(isOpen), "does not open");
        check(await soon(inWindow), "is not in the window");
        check(!card.querySelector("[id], a"), "has an id or a link");
        for (const formula of card.querySelectorAll(".math")) check(
            formula.querySelector("mjx-container:not(:has(mjx-merror))"),
            "has a formula that is not typeset",
        );
        link.blur();
        check(!isOpen(), "stays open");
    }}
    return faults;
}}"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_card_is_typeset_in_the_window(visit, size):
    visit.page.evaluate(OPEN_FOLDS)
    visit.page.set_viewport_size(size)
    try:
        assert visit.page.evaluate(FAULTY_CARDS) == []
    finally:
        visit.page.set_viewport_size(DESK)


def test_a_citation_shows_its_entry_and_leads_to_it(eps_softmax):
    page = eps_softmax()
    page.mouse.move(*first_name(page))
    card, link = page.locator(CARD), page.locator(CITATION).first.locator("a")
    card.wait_for()
    shown, address = card.inner_text(), link.get_attribute("href")
    assert not link.get_attribute("title"), "it would cover the card"
    link.click()
    page.wait_for_url(f"file://**/nbs/{address}")
    assert page.locator(f"#{address.partition('#')[2]}").inner_text() == shown


def test_an_equation_is_shown_where_it_is_named(eps_softmax):
    page = eps_softmax()
    page.locator(EQUATION).first.hover()
    page.locator(CARD).wait_for()
    formula = "mjx-container mjx-math"
    shown = page.locator(f"{CARD} {formula}").inner_html()
    strip = functools.partial(re.sub, r' id="[^"]*"', "")
    assert strip(shown) == strip(page.locator(f"#equation-8-1 {formula}").inner_html())


def test_a_card_stands_over_a_link_at_the_foot_of_the_window(eps_softmax):
    page = eps_softmax()
    link = page.locator(EQUATION).first
    link.evaluate("e => e.scrollIntoView({block: 'end', behavior: 'instant'})")
    link.hover()
    page.locator(CARD).wait_for()
    assert page.evaluate(IN_WINDOW)


def test_the_pointer_may_rest_on_a_card(eps_softmax):
    page = eps_softmax()
    card = page.locator(CARD)
    page.locator(EQUATION).first.hover()
    card.wait_for()
    card.hover()
    page.wait_for_timeout(600)
    assert card.is_visible()
    page.locator("article h1").hover()
    card.wait_for(state="hidden")


def test_a_card_serves_the_keyboard(eps_softmax):
    page = eps_softmax()
    link, card = page.locator(EQUATION).first, page.locator(CARD)
    link.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    card.wait_for()
    assert card.get_attribute("role") == "tooltip"
    assert link.get_attribute("aria-describedby") == card.get_attribute("id")
    page.keyboard.press("Escape")
    assert not card.is_visible()
    assert link.get_attribute("aria-describedby") is None
    assert link.evaluate("e => e === document.activeElement")
    page.keyboard.press("Enter")
    page.wait_for_url("**#equation-8-1")


def test_a_first_tap_shows_a_second_follows(eps_softmax):
    page = eps_softmax(has_touch=True)
    page.set_viewport_size(PHONE)
    link, card, before = page.locator(EQUATION).first, page.locator(CARD), page.url
    page.touchscreen.tap(*first_name(page))
    card.wait_for()
    page.locator("article h1").tap()
    assert not card.is_visible()
    link.tap()
    card.wait_for()
    assert page.url == before
    link.tap()
    page.wait_for_url("**#equation-8-1")
    assert not card.is_visible()


def test_a_card_is_not_printed(eps_softmax):
    page = eps_softmax()
    page.locator(EQUATION).first.hover()
    page.locator(CARD).wait_for()
    page.emulate_media(media="print")
    assert not page.locator(CARD).is_visible()


def test_a_card_moves_only_if_motion_is_welcome(eps_softmax):
    moves = {}
    for motion in ("reduce", "no-preference"):
        page = eps_softmax(reduced_motion=motion)
        name = "e => getComputedStyle(e).animationName"
        moves[motion] = page.locator(CARD).evaluate(name)
    assert moves == {"reduce": "none", "no-preference": "reference-card"}


def test_a_card_takes_the_theme(eps_softmax):
    style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    shades = {}
    for scheme in ("light", "dark"):
        page = eps_softmax(color_scheme=scheme)
        both = page.locator(CARD).evaluate(style)
        shades[scheme] = [[*map(int, re.findall(r"\d+", color))] for color in both]
    (ink, paper), (chalk, board) = shades["light"], shades["dark"]
    assert min(paper) > 240 and max(ink) < 80
    assert max(board) < 60 and min(chalk) > 180


def test_without_scripts_links_are_links(eps_softmax):
    page = eps_softmax(java_script_enabled=False)
    assert page.locator(CARD).count() == 0
    assert [t for t in page.locator("template").all() if t.is_visible()] == []
    link = page.locator(f"{CITATION} a").first
    assert link.get_attribute("title")
    link.click()
    page.wait_for_url("**/references.html#id*")


# --- the book as a whole ----------------------------------------------------------


def test_search_works_offline(open_chapter, home):
    page = open_chapter("index")
    elsewhere = []
    page.on("request", lambda request: elsewhere.append(request.url))
    page.locator(".bd-sidebar-primary .search-button-field").click()
    page.keyboard.type("softmax")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=softmax*")
    found = page.locator("#search-results a[href*='08_eps_softmax.html']")
    found.first.wait_for()
    assert [url for url in elsewhere if not url.startswith(home)] == []


def test_the_page_can_be_dark(open_chapter):
    page = open_chapter("index", color_scheme="light")
    root = page.locator("html")
    paper = "getComputedStyle(document.body).backgroundColor"
    shades = {root.get_attribute("data-theme"): page.evaluate(paper)}
    for _ in range(3):
        page.locator(".theme-switch-button").first.click()
        shades[root.get_attribute("data-theme")] = page.evaluate(paper)
    assert set(shades) == {"light", "dark"}
    light, dark = (
        [*map(int, re.findall(r"\d+", shades[k]))] for k in ("light", "dark")
    )
    assert min(light) > 240 and max(dark) < 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_and_outputs_take_the_theme(open_chapter, scheme):
    name = next(name for name in PAGES if "<svg role=" in html(name))
    page = open_chapter(name, color_scheme=scheme)
    figure = page.locator(".cell_output svg[role=img]").first
    ink = figure.evaluate("e => getComputedStyle(e).color")
    text = page.locator("article p").first.evaluate("e => getComputedStyle(e).color")
    behind = figure.evaluate("e => getComputedStyle(e.parentElement).backgroundColor")
    assert ink == text
    assert behind == "rgba(0, 0, 0, 0)"


def html(name):
    return (BUILT / "nbs" / f"{name}.html").read_text(encoding="utf-8")


def test_a_page_asks_for_no_other_host_in_any_file():
    "Also what is fetched on a click: no address of a script, style or font is remote."
    remote = r"""(?:src|data-src)=["']?https?://|<link[^>]+stylesheet[^>]+https?://"""
    assert {name for name in PAGES if re.search(remote, html(name))} == set()
