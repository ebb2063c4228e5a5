"""The interactive figures of chapters 08 and 09, driven in a real browser."""

import functools
import math
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from epsbook.figures import interactive
from epsbook.losses import CELoss, EpsCELoss, MAELoss
from epsbook.losses.epsilon import eps_softmax, epsilon
from epsbook.noise import NoiseSpec
from epsbook.theory.risk import simplex_minimum

FIGURES = ["eps_simplex", "noisy_risk"]
FIRST = {"eps_simplex": [0.46, 0.36, 0.18], "noisy_risk": [0.9, 0.07, 0.03]}
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


def numbers(page, name, n=0):
    text = page.locator(".eps-fig").nth(n).get_attribute(f"data-{name}")
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


def check_risk_slider(page):
    figure, slider = page.locator(".eps-risk"), page.locator(".eps-eta")
    before = figure.locator("svg").inner_html(), figure.get_attribute("data-best")
    slider.focus()
    slider.press("ArrowRight")
    assert figure.get_attribute("data-best") != before[1]
    assert figure.locator("svg").inner_html() != before[0]


@pytest.mark.parametrize("step", [0, 4, 24, 80])
@pytest.mark.parametrize("place", PLACES)
def test_drawing_equals_library(load, place, step):
    page = load("eps_simplex")
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
    check_slider(load("eps_simplex"))


def point(page, n=0):
    "What the handle says of itself."
    text = page.locator(".eps-p").nth(n).get_attribute("aria-label")
    found = [float(x) for x in text[5:-1].split(", ")]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", FIGURES)
def test_handle_by_key(load, name):
    page = load(name)
    page.keyboard.press("Tab")
    for key, gains in {"Up": 0, "Left": 1, "Right": 2}.items():
        page.keyboard.press("Shift+ArrowDown")
        before = point(page)
        page.keyboard.press(f"Arrow{key}")
        after = point(page)
        assert after[gains] > before[gains]
        assert after.sum().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", FIGURES)
def test_drag_projects_onto_the_simplex(load, name):
    page = load(name)
    x, y = middle(page, ".eps-dot")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 60)
    assert middle(page, ".eps-dot") == pytest.approx((x + 20, y + 60), abs=1)
    left, right = (middle(page, f".eps-name >> nth={k}")[0] for k in (1, 2))
    page.mouse.move((left + right) / 2 + 30, 4000)  # below: onto the bottom side
    bottom = point(page)
    assert middle(page, ".eps-dot")[0] == pytest.approx((left + right) / 2 + 30, abs=2)
    assert bottom[0] == 0 and bottom[2] > bottom[1] > 0
    page.mouse.move(-4000, 4000)
    assert point(page).tolist() == [0, 1, 0]
    page.mouse.up()
    page.mouse.move(x, y)
    assert point(page).tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", FIGURES)
def test_drag_by_touch_does_not_scroll(load, name):
    page = load(name, name, viewport={"width": 390, "height": 700}, has_touch=True)
    for _ in range(6):
        page.locator(".eps-p").first.press("Shift+ArrowDown")
    (x, y), touch = middle(page, ".eps-dot"), page.context.new_cdp_session(page)
    before = point(page)
    for kind, dy in [("Start", 0), *(("Move", -10 * k) for k in range(1, 9))]:
        finger = {"type": f"touch{kind}", "touchPoints": [{"x": x + 15, "y": y + dy}]}
        touch.send("Input.dispatchTouchEvent", finger)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("scrollY") == 0
    assert point(page)[0] > before[0] + 0.2


@pytest.mark.parametrize("name", FIGURES)
def test_figures_on_a_page_are_independent(load, name):
    page = load(name, *FIGURES, name)
    page.locator(".eps-p").first.press("Shift+ArrowDown")
    page.locator(".eps-fig").last.locator(".eps-m").evaluate(
        "e => { e.value = 80; e.dispatchEvent(new Event('input')); }"
    )
    assert point(page, 0)[0].item() == pytest.approx(FIRST[name][0] - 1 / 15, abs=1e-3)
    for n, other in enumerate([*FIGURES, name], 1):
        assert point(page, n).tolist() == FIRST[other]
    assert page.locator(".eps-m").evaluate_all("es => es.map(e => +e.value)") == [
        *(24 if x == "eps_simplex" else 50 for x in (name, *FIGURES)),
        80,
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_first_drawing_needs_no_script(load, name):
    still, live = load(name, java_script_enabled=False), load(name)
    drawings = [page.locator(".eps-fig").inner_html() for page in (still, live)]
    again = f"copy the first drawing from a browser to epsbook/assets/{name}.html"
    assert drawings[0] == drawings[1], again
    assert still.locator("svg").is_visible()
    assert not still.locator(".eps-m").is_visible()
    assert live.locator(".eps-m").is_visible()
    live.emulate_media(media="print")
    assert live.locator("svg").is_visible()
    assert not live.locator(".eps-m").is_visible()


@pytest.mark.parametrize("name", FIGURES)
def test_fits_a_phone(load, name):
    page = load(name, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    scale = page.locator("svg").bounding_box()["width"] / 400
    assert scale * float(page.locator(".eps-p").get_attribute("r")) >= 24
    size = "els => Math.min(...els.map(e => parseFloat(getComputedStyle(e).fontSize)))"
    assert scale * page.locator("svg text").evaluate_all(size) >= 15


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [358, 688, 720])  # pages of 390, 1280 and 1100
def test_nothing_sticks_out_of_the_column_of_the_book(show, width, name):
    box = f'<div id="box" style="overflow:auto;width:{width}px">'
    page = show(box + interactive(name).data)
    assert page.evaluate("box.scrollWidth - box.clientWidth") == 0
    inner = page.locator("table").bounding_box()
    outer = page.locator("#box").bounding_box()
    # The head of the last column is slanted and leans out of its cell.
    assert outer["x"] + outer["width"] - inner["x"] - inner["width"] >= 4


def test_classes_are_numbered_as_in_the_other_figures(load):
    page = load("eps_simplex")
    assert page.locator(".eps-name").all_text_contents() == ["0", "1", "2"]
    rows = page.locator("th[scope=row]").all_text_contents()
    assert rows[:3] == ["class 0", "class 1", "class 2"]
    said = page.locator(".eps-say")
    assert said.text_content().startswith("p is in the third of class 0")
    assert said.text_content().endswith("goes to corner 1.")
    page.get_by_role("button", name="tie").click()
    assert said.text_content().startswith("A tie, p₀ = p₁:")
    assert "goes to corner 0." in said.text_content()


# --- the noisy risk -----------------------------------------------------------------

LOSSES = ["CE", "MAE", "CE_ε", "sum"]
# Which loss, steps of the sliders for η, m and α, keys that bring q to its place.
SETTINGS = [
    ("CE", 24, 50, 0, []),
    ("CE", 54, 50, 0, ["Shift+ArrowDown"] * 5),
    ("MAE", 39, 50, 0, []),
    ("MAE", 41, 50, 0, []),
    ("CE_ε", 0, 2, 0, []),
    ("CE_ε", 12, 30, 0, ["Shift+ArrowDown"] * 4 + ["Shift+ArrowLeft"] * 3),
    ("CE_ε", 24, 50, 0, []),
    ("CE_ε", 0, 50, 0, []),
    ("CE_ε", 24, 78, 0, ["Shift+ArrowDown"] * 2),
    ("sum", 24, 50, 0, []),
    ("sum", 24, 50, 6, []),
    ("sum", 36, 50, 9, ["Shift+ArrowDown"] * 6 + ["Shift+ArrowLeft"] * 3),
    ("sum", 30, 40, 5, ["Shift+ArrowDown"] * 3 + ["Shift+ArrowRight"] * 2),
    ("sum", 48, 60, 7, ["Shift+ArrowDown"] * 4),
]


def show_risk(load, loss, eta, m, alpha, keys=()):
    page = load("noisy_risk")
    page.locator("button").nth(LOSSES.index(loss)).click()
    for name, step in {"eta": eta, "m": m, "alpha": alpha}.items():
        if page.locator(f".eps-{name}").is_enabled():
            page.locator(f".eps-{name}").fill(str(step))
    for key in keys:
        page.locator(".eps-p").press(key)
    return page


def library_loss(page, loss):
    m, alpha = (numbers(page, name).item() for name in ("m", "alpha"))
    eps = EpsCELoss(m=m)
    every = CELoss(), MAELoss(), eps, alpha * eps + 5 * MAELoss()
    return every[LOSSES.index(loss)]


def answers(n=400):
    "Answers spread evenly over the triangle, none a tie."
    g = torch.Generator().manual_seed(0)
    cuts = torch.rand(n, 2, generator=g, dtype=torch.float64).sort(dim=1).values
    ends = torch.zeros(n, 1).double(), torch.ones(n, 1).double()
    return torch.cat([ends[0], cuts, ends[1]], dim=1).diff(dim=1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_noisy_risk_and_its_minimum_are_those_of_the_library(load, setting):
    page = show_risk(load, *setting)
    loss, q, eta = (
        library_loss(page, setting[0]),
        numbers(page, "q"),
        numbers(page, "eta"),
    )
    noisy = q @ torch.tensor(NoiseSpec.symmetric(eta.item()).transition(3))
    torch.testing.assert_close(numbers(page, "noisy"), noisy, rtol=0, atol=1e-12)
    p = answers()
    drawn = page.evaluate(
        "ps => ps.map(document.querySelector('.eps-fig').risk)", p.tolist()
    )
    want = loss.per_class(p.log()) @ noisy
    torch.testing.assert_close(
        torch.tensor(drawn, dtype=torch.float64), want, rtol=0, atol=1e-6
    )
    grid = simplex_minimum(loss, noisy, 150)
    assert numbers(page, "best").sub(grid.answer).abs().max() <= 1e-2
    least = numbers(page, "risk").item()
    assert grid.risk - grid.gap - 1e-9 <= least <= grid.risk + 1e-9
    assert least <= want.min()


@pytest.mark.parametrize("setting", [SETTINGS[k] for k in (0, 2, 5, 8, 10)])
def test_a_stronger_shade_costs_less_and_covers_an_eighth(load, setting):
    page, p = show_risk(load, *setting), answers()
    corners = [[200, TOP], [40, TOP + HEIGHT], [360, TOP + HEIGHT]]
    where = p @ torch.tensor(corners, dtype=torch.float64)
    depth, risk = page.evaluate(
        """([where, ps]) => {
          const bands = [...document.querySelectorAll(".eps-bands path")];
          const over = ([x, y]) => bands.filter(b => b.isPointInFill({ x, y })).length;
          return [where.map(over), ps.map(document.querySelector(".eps-fig").risk)];
        }""",
        [where.tolist(), p.tolist()],
    )
    depth, risk = torch.tensor(depth), torch.tensor(risk, dtype=torch.float64)
    spread = risk.quantile(0.9) - risk.quantile(0.1)
    for k in range(7):  # lines are drawn between the points of a grid
        strong, weak = risk[depth > k], risk[depth <= k]
        assert not len(strong) or strong.max() <= weak.min() + 0.02 * spread
    if setting[0] != "CE_ε":  # where there are steps, shades fall together
        assert depth.bincount(minlength=8).sub(50).abs().max() <= 20


SAYINGS = [
    (("CE", 24, 50, 0), "The best answer is the noisy posterior q̃ itself."),
    (("CE", 40, 50, 0), "posterior q̃ itself. At η = 2/3 all labels are equally likely"),
    (("MAE", 39, 50, 0), "The best answer is the corner of class 0."),
    (("MAE", 40, 50, 0), "Every answer costs the same. At η = 2/3"),
    (
        ("MAE", 41, 50, 0),
        "corner of class 2. Above η = 2/3 the wrong labels win: class 0",
    ),
    (
        ("MAE", 24, 50, 0, ["ArrowRight"] * 2 + ["Shift+ArrowDown"] * 12),
        "the corners of classes 1 and 2",
    ),
    (("CE_ε", 0, 50, 0), "A tie: the best answer gives classes 0 and 1 the same"),
    (("CE_ε", 24, 50, 0), "A tie: the best answer gives classes 0, 1 and 2 the same"),
    (("CE_ε", 24, 78, 0), "The best answer is the corner of class 0."),
    (("sum", 24, 50, 0), "The best answer is the corner of class 0."),
    (("sum", 24, 50, 6), "The best answer keeps class 0 ahead, with probability 0.870"),
]


@pytest.mark.parametrize(("setting", "want"), SAYINGS)
def test_a_sentence_says_what_is_seen(load, setting, want):
    page = show_risk(load, *setting)
    said = page.locator(".eps-say").text_content()
    assert want in said
    assert page.locator("svg").get_attribute("aria-label").endswith(said)
    assert page.locator(".eps-best").get_attribute("d").count("M") == (
        0 if "Every" in said else 2 if "corners" in said else 1
    )


def test_sliders_are_live_where_the_loss_has_the_number(load):
    page = load("noisy_risk")
    for n, live in enumerate([(), (), ("m",), ("m", "alpha")]):
        page.locator("button").nth(n).click()
        pressed = page.locator("button[aria-pressed=true]")
        assert pressed.count() == 1
        found = [x for x in ("m", "alpha") if page.locator(f".eps-{x}").is_enabled()]
        assert found == list(live)
    page.locator(".eps-eta").focus()
    before = numbers(page, "noisy")
    page.keyboard.press("ArrowRight")
    assert numbers(page, "noisy").max() < before.max()
    page.locator(".eps-m").fill("80")
    assert page.locator(".eps-m").get_attribute("aria-valuetext") == "m = 100,000,000"


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(*colors):
    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("paper", "ink"), [(255, 34), (18, 206)])
def test_ink_is_legible_on_every_shade(load, paper, ink):
    page = load("noisy_risk")
    page.evaluate(
        f"document.body.style = 'background:rgb({paper},{paper},{paper});"
        f"color:rgb({ink},{ink},{ink})'"
    )
    style = "(e, name) => getComputedStyle(e)[name]"
    for words in (".eps-say", "output", ".eps-ticks span", "td:not(:empty)"):
        color = page.locator(words).first.evaluate(style, "color")
        assert color == f"rgb({ink}, {ink}, {ink})"
    band = page.locator(".eps-bands path").first
    fill = [int(x) / 255 for x in band.evaluate(style, "fill")[4:-1].split(",")]
    opacity = float(band.evaluate(style, "fillOpacity"))
    shade, shades = [paper / 255] * 3, []
    for _ in range(7):
        shade = [a + opacity * (b - a) for a, b in zip(shade, fill, strict=True)]
        shades.append(shade)
        assert contrast(shade, [ink / 255] * 3) >= 4
    assert contrast(shades[0], [paper / 255] * 3) >= 1.1


CHAPTERS = {"08_eps_softmax": check_slider, "09_excess_risk": check_risk_slider}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_slider_in_the_book(browser, missing, chapter):
    found = next(BOOK.rglob(f"{chapter}.html"), None)
    if found is None:
        missing(f"the book is not built: _build/html has no {chapter}.html")
    handler = functools.partial(Quiet, directory=str(BOOK))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        where = found.relative_to(BOOK).as_posix()
        page.goto(f"http://127.0.0.1:{server.server_port}/{where}")
        CHAPTERS[chapter](page)
        page.close()
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
