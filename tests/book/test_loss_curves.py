"""The figure that compares the curves of losses, driven in a real browser."""

import math

import pytest
import torch

from epsbook import losses
from epsbook.figures import interactive

CHIPS = {
    "CE": lambda: losses.CELoss(),
    "MAE": lambda: losses.MAELoss(),
    "GCE": lambda q: losses.GCELoss(q=q),
    "truncated GCE": lambda q, k: losses.TruncatedGCELoss(q=q, k=k),
    "Taylor": lambda t: losses.TaylorCELoss(order=int(t)),
    "JS": lambda pi: losses.JSLoss(pi=pi),
    "focal": lambda gamma: losses.FocalLoss(gamma=gamma),
    "clipped": lambda most: losses.ClippedCELoss(max_loss=most),
    "SCE": lambda a, b: losses.SCELoss(a=a, b=b),
    "AGCE": lambda a, q: losses.AGCELoss(a=a, q=q),
    "AUL": lambda a, q: losses.AULLoss(a=a, q=q),
    "AEL": lambda a: losses.AELLoss(a=a),
    "CEε": lambda m: losses.EpsCELoss(m=m),
    "α CEε + β MAE": lambda a, b, m: a * losses.EpsCELoss(m=m) + b * losses.MAELoss(),
    "MSE": lambda: losses.MSELoss(),
    "NCE": lambda: losses.NCELoss(),
    "α NCE + β MAE": lambda a, b: a * losses.NCELoss() + b * losses.MAELoss(),
    "smoothing": lambda r: losses.GLSLoss(r=r),
    "noise adaptation": lambda r: losses.NoiseAdaptationLoss(
        noise_rate=r, inclusive=True
    ),
    "NLNL": lambda: losses.NLNLLoss(),
    "bootstrapping": lambda beta: losses.BootstrapLoss(beta=beta),
}
# These look at all probabilities, and have a curve where the others are equal.
LINE = {"MSE", "NCE", "α NCE + β MAE", "smoothing", "NLNL", "bootstrapping"}
# Largest w/p over the smallest, for K = 10 and the parameters it begins with.
SPREADS = {"MAE": "1", "AUL": "1.49", "AEL": "1.49", "AGCE": "1.48", "Taylor": "6"}


FIRST = ("CE", "MAE", "GCE")


def choose(page, name):
    if page.get_by_role("button", name=name, exact=True).count() == 0:
        page.get_by_role("button", name="more …").click()
    page.get_by_role("button", name=name, exact=True).click()


def choose_all(page):
    for name in CHIPS:
        if name not in FIRST:
            choose(page, name)


def library_weight(page, name):
    """What the library says the weight at p is, for a label that is hit or not."""
    figure = page.locator(".eps-curves")
    numbers, k = (figure.get_attribute(f"data-{x}") for x in ("numbers", "k"))
    loss = CHIPS[name](*[float(x) for x in numbers.split(",") if x])
    if name not in LINE:
        curve = loss.curve(int(k))
        return lambda p, top: curve.grad_weight(p.log(), torch.full(p.shape, top))

    def weight(p, top):
        others = ((1 - p) / (int(k) - 1)).log()[:, None].expand(-1, int(k) - 1)
        logits = torch.cat([p.log()[:, None], others], 1).requires_grad_()
        cost = loss.per_sample(logits, torch.zeros(len(p), dtype=torch.int64))
        (slope,) = torch.autograd.grad(cost.sum(), logits)
        return -slope[:, 0] / (1 - p)

    return weight


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("keys", ["", "3 ArrowRight", "1 Home", "1 End"])
def test_weights_are_those_of_the_library(load, name, keys):
    page = load("loss_curves")
    if name != "GCE":  # the one that is chosen first
        choose(page, name)
    for slider in page.locator(".eps-par:not([hidden]) input").all():
        times, _, key = keys.partition(" ")
        for _ in range(int(times or 0)):
            slider.press(key)
    weight = library_weight(page, name)
    p = torch.tensor(
        [1e-5, 7e-4, 0.02, 0.1, 0.3, 0.45, 0.7, 0.999], dtype=torch.float64
    )
    for top in (False, True):
        drawn = page.evaluate(
            "([name, ps, top]) => ps.map(p => "
            "document.querySelector('.eps-curves').weight(name, p, top))",
            [name, p.tolist(), top],
        )
        want = weight(p, top)
        torch.testing.assert_close(
            torch.tensor(drawn, dtype=torch.float64), want, rtol=1e-9, atol=1e-12
        )


def test_two_numbers_stand_beside_each_curve(load):
    page = load("loss_curves")
    choose_all(page)
    rows = page.locator("tbody tr").all()
    found = {
        r.locator("th").text_content(): r.locator("td").all_text_contents()
        for r in rows
    }
    assert list(found) == list(CHIPS)
    for name, (pull, spread) in found.items():
        want = SPREADS.get(name)
        if want:
            assert spread == want
        choose(page, name)
        at = torch.tensor([0.1], dtype=torch.float64)
        weight = library_weight(page, name)(at, False).item()
        assert float(pull) == pytest.approx(weight, rel=0.05)
    # w/p = 1 / (p + c/s) runs from s/c down to 1 / (1 + c/s).
    ratio = 0.3 / 10 / 0.7
    assert float(found["noise adaptation"][1]) == pytest.approx(1 + 1 / ratio, abs=0.05)
    # The floor's cut at 0.001: 2 β there, and 2 β + α / 0.001 beyond it.
    assert found["α CEε + β MAE"][1] == "2"
    assert all(
        found[name][1] == "∞"
        for name in ("CE", "GCE", "truncated GCE", "JS", "focal", "clipped", "CEε")
    )
    assert all(found[name][1] == "–" for name in LINE)


def test_a_line_is_where_the_weight_says(load):
    page = load("loss_curves")
    choose(page, "noise adaptation")
    weight = library_weight(page, "noise adaptation")
    lines = page.locator(".eps-lines path").all()
    path = lines[-1].get_attribute("d")
    points = [tuple(map(float, pair.split())) for pair in path[1:].split("L")]
    assert len(points) > 100
    for x, y in points[::20]:
        p = 10 ** (5 * (x - 56) / 332 - 5)
        w = weight(torch.tensor([p]).double(), False)
        assert y == pytest.approx(292 - 262 * (math.log10(w.item()) + 4) / 6, abs=0.3)


def test_choosing_by_key(load):
    page = load("loss_curves")
    pressed = page.locator(".eps-which [aria-pressed=true]")
    assert pressed.all_text_contents() == ["CE", "MAE", "GCE"]
    agce = page.get_by_role("button", name="AGCE", exact=True)
    agce.focus()
    agce.press("Enter")
    assert pressed.all_text_contents() == ["CE", "MAE", "GCE", "AGCE"]
    assert page.locator(".eps-par:not([hidden])").count() == 2
    slider = page.locator(".eps-par input").first
    before = page.locator(".eps-lines path").nth(3).get_attribute("d")
    slider.focus()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "a = 0.65"
    assert page.locator(".eps-lines path").nth(3).get_attribute("d") != before
    agce.press("Enter")
    assert pressed.all_text_contents() == ["CE", "MAE", "GCE"]
    choose(page, "AGCE")
    assert page.locator(".eps-par output").first.text_content() == "0.65"
    for name in ("CE", "CE", "MAE", "MAE", "GCE", "GCE", "AGCE", "AGCE"):
        choose(page, name)
    assert pressed.count() == 1  # the last one stays


@pytest.mark.parametrize("press", [[], ["w/p"], ["log"], ["w/p", "log"]])
def test_lines_stay_inside_of_the_axes(load, press):
    page = load("loss_curves")
    choose_all(page)
    for name in press:
        choose(page, name)
    for count in (0, 9):
        page.locator(".eps-k").fill(str(count))
        for line in page.locator(".eps-lines path").all():
            text = line.get_attribute("d").replace("M", "L")
            pairs = [tuple(map(float, x.split())) for x in text.split("L") if x]
            assert all(56 <= x <= 388 and 30 <= y <= 292 for x, y in pairs)


def test_words_and_label_follow(load):
    page = load("loss_curves")
    said = page.locator(".eps-say")
    assert "At p = 1/10" in said.text_content()
    assert said.text_content().endswith(
        "w = 0.2 under GCE. Its w/p varies without bound."
    )
    choose(page, "MAE")
    page.locator(".eps-k").fill("6")
    assert "At p = 1/100" in said.text_content()
    assert said.text_content().endswith("Its w/p is flat: wrong labels cancel.")
    label = page.locator("svg").get_attribute("aria-label")
    assert label.startswith("Curves of CE, MAE, GCE") and label.endswith(
        said.text_content()
    )


def test_first_drawing_needs_no_script(load):
    name = "loss_curves"
    still, live = load(name, java_script_enabled=False), load(name)
    drawings = [page.locator(".eps-fig").inner_html() for page in (still, live)]
    again = f"copy the first drawing from a browser to epsbook/assets/{name}.html"
    assert drawings[0] == drawings[1], again
    assert not still.locator(".eps-k").is_visible()
    live.emulate_media(media="print")
    assert live.locator("svg").is_visible()
    assert not live.locator(".eps-k").is_visible()


def test_it_begins_with_what_is_asked(show):
    page = show(interactive("loss_curves", shown="CE,AUL").data * 2)
    first, second = (page.locator(".eps-curves").nth(n) for n in (0, 1))
    first.get_by_role("button", name="MAE", exact=True).click()
    pressed = ".eps-which [aria-pressed=true]"
    assert first.locator(pressed).all_text_contents() == ["CE", "MAE", "AUL"]
    assert second.locator(pressed).all_text_contents() == ["CE", "AUL"]
    assert second.locator(".eps-par:not([hidden])").count() == 2


@pytest.mark.parametrize("width", [358, 688, 720])  # pages of 390, 1280 and 1100
def test_nothing_sticks_out_of_the_column(show, width):
    box = f'<div id="box" style="overflow:auto;width:{width}px">'
    page = show(box + interactive("loss_curves").data)
    choose_all(page)
    assert page.evaluate("box.scrollWidth - box.clientWidth") == 0


def test_a_weight_below_0_has_its_place(show):
    page = show(interactive("loss_curves", shown="CE,MAE,smoothing", linear=True).data)
    ticks = page.locator(".eps-y text").all_text_contents()
    assert [float(x.replace("−", "-")) for x in ticks] == [-2, -1, 0, 1, 2]
    line = page.locator(".eps-lines path").last.get_attribute("d")
    points = [tuple(map(float, x.split())) for x in line[1:].split("L")]
    zero = 1 - 0.4 * 0.9  # 1 - r (1 - 1/K) / (1 - p) is 0 at this p
    above = [x for x, y in points if y < 161]
    assert max(above) == pytest.approx(56 + 332 * zero, abs=4)
    assert "drawn where the others are equal" in page.locator(".eps-say").text_content()


def test_the_rarer_losses_come_with_a_button(load):
    page = load("loss_curves")
    chips = page.locator(".eps-which button:visible")
    few = chips.all_text_contents()
    assert few == ["CE", "MAE", "GCE", "AGCE", "CEε", "α CEε + β MAE", "more …"]
    more = page.get_by_role("button", name="more …")
    more.press("Enter")
    assert more.get_attribute("aria-expanded") == "true"
    assert chips.all_text_contents() == [*CHIPS, "more …"]
    choose(page, "JS")
    more.click()
    assert "JS" in chips.all_text_contents()  # what is drawn stays in reach
    choose(page, "JS")
    assert chips.all_text_contents() == few
