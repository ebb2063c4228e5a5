"""Every loss under hostile input: huge logits, half precision, wrong arguments."""

import copy
import math
import pickle
import re
from functools import partial
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import exp, fsum, log, log1p, mpf, sqrt, workdps
from torch.func import grad, vmap

import epsbook.losses as el
from epsbook.losses.catalog import loss_classes
from epsbook.losses.options import COUNT, COUNT_OR_NONE, SWITCH

DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64


def cases(names):
    return pytest.mark.parametrize("name", names)


def random(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=g, dtype=torch.float64)


# ---- the losses, their largest value, and their formula ---------------------


class PlacedELR(el.ELRLoss):
    "Has a memory, and looks up sample i of the batch at place i."

    def __init__(self, *, num_classes, **options):
        super().__init__(num_samples=24, num_classes=num_classes, **options)
        self.eval().targets.copy_(random(24, num_classes, seed=1).softmax(1))

    def _every(self, logits, **batch):
        return super()._every(logits, **batch | {"index": torch.arange(len(logits))})


def tempered(t1, t2, z, y):
    "Tempered softmax by bisection, then the formula."
    u, q, most = mpf(t2) - 1, 1 - mpf(t1), max(z)
    at = lambda b: [(1 + u * (b + most - x)) ** (-1 / u) for x in z]
    low, high = mpf(0), (len(z) ** u - 1) / u
    for _ in range(200):
        b = (low + high) / 2
        low, high = (b, high) if fsum(at(b)) > 1 else (low, b)
    p = at(low)
    if q == 0:
        return -log(p[y])
    return (1 - p[y] ** q) / q - (1 - fsum(x ** (1 + q) for x in p)) / (1 + q)


def js(pi, p, y):
    "Class by class, from the definition."
    pi = mpf(pi)
    label = [mpf(i == y) for i in range(len(p))]
    m = [pi * a + (1 - pi) * b for a, b in zip(label, p, strict=True)]
    far = lambda a: fsum(x * log(x / t) for x, t in zip(a, m, strict=True) if x)
    return (pi * far(label) + (1 - pi) * far(p)) / (-(1 - pi) * log(1 - pi))


def ldr(c, lam, z, y):
    # The softplus of torch, and so of the released code, is the line beyond 20.
    s = share([x if x > 20 else log1p(exp(x)) for x in z])
    ahead = [(c * (i != y) + len(z) * (x - s[y])) / mpf(lam) for i, x in enumerate(s)]
    return lam * log(fsum(map(exp, ahead)) / len(s))


dense = lambda k: 0.7 * torch.eye(k).double() + 0.3 * random(k, k).softmax(1)
pairs = lambda k: 0.7 * torch.eye(k).double() + 0.3 * torch.eye(k).double().roll(1, 0)
tiny = lambda k: 1e-60 * torch.eye(k).double() + torch.eye(k)[:1]
share = lambda z: [x / fsum(z) for x in z]
amse = lambda a, p, y: fsum((q - a * (i == y)) ** 2 for i, q in enumerate(p)) / len(p)
norm = lambda z: sqrt(fsum(x * x for x in z))
lack = lambda loss, p, y: 1 - share([max(loss(mpf(TAU)) - loss(q), 0) for q in p])[y]
top = lambda m, p, y: m * (p.index(max(p)) == y)
eps = lambda m, p, y: max((p[y] + top(m, p, y)) / (mpf(m) + 1), TAU * mpf(m > 0))
focal = lambda q, gamma: -((1 - q) ** gamma) * log(q)
A, TAU = math.log(1e-4), 1e-8
most_clip = lambda t: lambda k: math.log1p((k - 1) * math.exp(t * (k / (k - 1)) ** 0.5))
most_js = lambda t: 1 + t * math.log(t) / ((1 - t) * math.log1p(-t))
rest = lambda k, c, t: (k - 2) * math.exp(-k / t) + math.exp(-(c + k) / t)
most_ldr = lambda c, t: lambda k: c + k + t * math.log((1 + rest(k, c, t)) / k)
TABLE = {
    "CELoss()": (inf, lambda q: -log(q)),
    "MAELoss()": (2, lambda q: 2 * (1 - q)),
    "MSELoss()": (2, lambda p, y, z: fsum(q * q for q in p) + 1 - 2 * p[y]),
    "FocalLoss()": (inf, lambda q: focal(q, 0.5)),
    "FocalLoss(gamma=2, detach_factor=True)": (inf, None),
    "ClippedCELoss(max_loss=3)": (3, lambda q: min(-log(q), 3)),
    "GCELoss()": (1 / 0.7, lambda q: (1 - q**0.7) / 0.7),
    "GCELoss(q=0)": (inf, lambda q: -log(q)),
    "GCELoss(tau=1e-8)": (1 / 0.7, lambda q: (1 - max(q, mpf(TAU)) ** 0.7) / 0.7),
    "RCELoss()": (-A, lambda q: -A * (1 - q)),
    "SCELoss(a=0.1, b=1)": (inf, lambda q: -0.1 * log(q) - A * (1 - q)),
    "NCELoss()": (1, lambda p, y, z: share([log(q) for q in p])[y]),
    "NFLLoss()": (1, lambda p, y, z: share([focal(q, 0.5) for q in p])[y]),
    "NNCELoss()": (1, lambda p, y, z: lack(lambda q: -log(q), p, y)),
    "NNFLLoss()": (1, lambda p, y, z: lack(lambda q: focal(q, 0.5), p, y)),
    "AGCELoss(a=1e-5, q=2)": (0.50001, lambda q: (1.00002 - 2e-5 * q - q**2) / 2),
    "AGCELoss(a=1, q=0.5)": (0.829, lambda q: 2 * (sqrt(2) - sqrt(q + 1))),
    "AULLoss(a=1.5, q=3)": (13 / 12, lambda q: ((1.5 - q) ** 3 - 0.125) / 3),
    "AULLoss(a=1.125, q=0.5)": (1.415, lambda q: 2 * (sqrt(1.125 - q) - sqrt(0.125))),
    "AELLoss(a=2.5)": (1, lambda q: exp(-q / 2.5)),
    "TaylorCELoss(order=1)": (1, lambda q: 1 - q),
    "TaylorCELoss(order=6)": (
        2.45,
        lambda q: fsum((1 - q) ** i / mpf(i) for i in range(1, 7)),
    ),
    "JSLoss(pi=0.3)": (most_js(0.3), lambda p, y, z: js(0.3, p, y)),
    "JSLoss(pi=1e-6)": (most_js(1e-6), lambda p, y, z: js(1e-6, p, y)),
    "JSLoss(pi=0.999)": (most_js(0.999), lambda p, y, z: js(0.999, p, y)),
    "BoundedVariationCELoss(a=0.5)": (
        math.log(3),
        lambda q: log(1.5 / (q + 0.5)),
    ),
    "BoundedVariationCELoss(a=1e-40)": (
        math.log1p(1e40),
        lambda q: log((1 + mpf(1e-40)) / (q + mpf(1e-40))),
    ),
    "TruncatedGCELoss(q=0.7, k=0.4)": (
        (1 - 0.4**0.7) / 0.7,
        lambda q: (1 - max(q, mpf(0.4)) ** 0.7) / 0.7,
    ),
    "TemperatureCELoss(temperature=0.5)": (
        inf,
        lambda p, y, z: -log(share([exp(2 * x) for x in z])[y]),
    ),
    "TemperatureCELoss(temperature=1, unit=True)": (
        most_clip(1),
        lambda p, y, z: -log(share([exp(x / norm(z)) for x in z])[y]),
    ),
    "BiTemperedLoss(t1=0.5, t2=1.5)": (2, lambda p, y, z: tempered(0.5, 1.5, z, y)),
    "BiTemperedLoss(t1=0, t2=4)": (1, lambda p, y, z: tempered(0, 4, z, y)),
    "BiTemperedLoss(t1=1, t2=1.2)": (inf, lambda p, y, z: tempered(1, 1.2, z, y)),
    "BiTemperedLoss(t1=0.3, t2=1)": (
        1 / 0.7,
        lambda p, y, z: (1 - p[y] ** 0.7) / 0.7 - (1 - fsum(q**1.7 for q in p)) / 1.7,
    ),
    "AMSELoss(a=0.5)": (lambda k: 1.25 / k, lambda p, y, z: amse(0.5, p, y)),
    "AMSELoss(a=30)": (lambda k: 901 / k, lambda p, y, z: amse(30, p, y)),
    "SparsityLoss(p=0.1)": (
        lambda k: k**0.9,
        lambda p, y, z: fsum(q ** mpf(0.1) for q in p),
    ),
    "SparsityLoss(p=0.01, temperature=0.5, unit=True)": (lambda k: k**0.99, None),
    "SparsityLoss(p=0.01, tau=1e-7)": (
        lambda k: k**0.99 * (1 + (k - 1) * 1e-7) ** 0.01,
        lambda p, y, z: fsum(max(q, mpf(1e-7)) ** mpf(0.01) for q in p),
    ),
    "EpsCELoss(m=1e3)": (-math.log(TAU), lambda p, y, z: -log(eps(1e3, p, y))),
    "EpsCELoss(m=0, tau=0)": (inf, lambda p, y, z: -log(eps(0, p, y))),
    "EpsFocalLoss(m=10)": (-math.log(TAU), lambda p, y, z: focal(eps(10, p, y), 0.1)),
    "LDRLoss()": (most_ldr(0.1, 1), lambda p, y, z: ldr(0.1, 1, z, y)),
    "LDRLoss(margin=1, lam=0.05)": (most_ldr(1, 0.05), None),
    "LogitClipLoss(max_norm=1)": (most_clip(1), None),
    "LogitClipLoss.as_released(delta=2)": (most_clip(2), None),
    "GLSLoss(r=0.25)": (inf, None),
    "GLSLoss(r=-1)": (inf, None),
    "ForwardLoss(transition=dense(k))": (lambda k: -math.log(dense(k).min()), None),
    "ForwardLoss(transition=pairs(k))": (inf, None),
    "BackwardLoss(transition=dense(k))": (inf, None),
    "NoiseAdaptationLoss(noise_rate=0.5, inclusive=True)": (
        lambda k: math.log(2 * k),
        lambda p, y, z: -log(1 / mpf(2 * len(p)) + p[y] / 2),
    ),
    "BootstrapLoss(beta=0.8)": (inf, None),
    "BootstrapLoss(beta=0.8, hard=True)": (inf, None),
    "PlacedELR(num_classes=k)": (inf, None),
    "NLNLLoss(num_draws=3, generator=g)": (inf, None),
    "NLNLLoss(num_draws=None)": (
        inf,
        lambda p, y, z: (
            -sum(log(sum(p[:j] + p[j + 1 :])) for j in range(len(p)) if j != y)
            / (len(p) - 1)
        ),
    ),
    "PeerLoss(alpha=0.5, generator=g)": (inf, None),
}


def build(call, k=5, **options):
    "The loss of `call`, its random numbers seeded anew."
    here = {"options": options, "k": k, "g": torch.Generator().manual_seed(0)}
    return eval(call.replace("(", "(**options, ", 1), NAMES, here)


NAMES = globals() | vars(el)
CASES = {call: partial(build, call) for call in TABLE}
DETERMINED = [name for name in CASES if "generator" not in name]
STATELESS = [name for name in DETERMINED if "ELR" not in name]


def bounds(name, k):
    "The smallest and the largest loss for k classes."
    loss, high = build(name, k), TABLE[name][0]
    high = high(k) if callable(high) else high
    if isinstance(loss, el.LDRLoss):
        return -loss.lam * math.log(k), high
    free = isinstance(loss, el.BackwardLoss | el.PeerLoss | el.ELRLoss)
    return -inf if free or getattr(loss, "r", 0) < 0 else 0, high


def test_every_loss_has_a_case_and_every_claimed_bound_is_known():
    kinds = {type(CASES[name]()): bounds(name, 5)[1] for name in CASES}
    names = {kind.__mro__[kind is PlacedELR].__name__ for kind in kinds}
    # One number a batch: see test_batch.py.
    assert names - {"_Released"} == set(loss_classes()) - {"DMILoss"}
    for kind, high in kinds.items():
        claims = kind.properties.bounded
        assert (high == inf) >= (claims == "no" or claims == "open"), kind
        assert (high < inf) >= (claims != "no" and " if " not in claims), kind


def make(batch, name, dtype=torch.float64):
    "Logits, labels and the number of classes; flat for ELR, which needs it."
    shape, kind, scale, seed = batch
    dim, g = int(len(shape) > 1), torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1
    high = (x == x.amax(dim, keepdim=True)).double()
    kinds = dict(equal=0 * x + 1, ties=x.round(), high=high, low=-high)
    x = (scale * kinds.get(kind, x)).to(dtype)
    y = torch.randint(shape[dim], x.select(dim, 0).shape, generator=g)
    return (*(flat(x, y) if "ELR" in name else (x, y)), shape[dim])


def flat(x, y):
    return x.movedim(int(x.ndim > 1), -1).reshape(y.numel(), -1), y.flatten()


def batches(scale=1e4, kinds=("any", "equal", "ties", "high", "low")):
    shapes = [(2,), (5,), (6, 2), (4, 9), (3, 4, 2), (2, 5, 3, 2)]
    parts = [st.sampled_from(shapes), st.sampled_from(kinds)]
    return st.tuples(*parts, st.floats(1e-3, scale), st.integers(0, 99))


def hostile(names=CASES, **strategies):
    quiet = settings(max_examples=50, deadline=None, derandomize=True)
    return lambda test: cases(names)(quiet(given(**strategies)(test)))


def slope(value, x, **options):
    return torch.autograd.grad(value.sum(), x, **options)[0]


def close(a, b, size=1e-9):
    torch.testing.assert_close(a, b, rtol=size, atol=size, equal_nan=True)


def small(name, **options):
    return random(6, 5).requires_grad_(), torch.arange(6) % 5, CASES[name](**options)


# ---- numbers ----------------------------------------------------------------


def check_numbers(name, x, y, k):
    "Finite, within the bounds, of the dtype of cross-entropy."
    value = CASES[name](k).per_sample(x.requires_grad_(), y)
    gradient = slope(value, x)
    assert value.isfinite().all() and gradient.isfinite().all()
    assert value.dtype == F.cross_entropy(x, y).dtype and gradient.dtype == x.dtype
    slack, (low, high) = 4 * torch.finfo(x.dtype).eps, bounds(name, k)
    assert value.min() >= low - slack * max(1, abs(low))
    assert value.max() <= high * (1 + slack)


@hostile(batch=batches(), dtype=st.sampled_from(DTYPES))
def test_finite_and_within_the_bounds(name, batch, dtype):
    check_numbers(name, *make(batch, name, dtype))


@cases(CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_classes(name, dtype):
    shape = 2, 300 if "transition" in name else 100_000
    for kind, scale in (("any", 10), ("any", 1e4), ("equal", 1), ("high", 1e4)):
        check_numbers(name, *make((shape, kind, scale, 0), name, dtype))


@hostile(batch=batches(), dtype=st.sampled_from(DTYPES))
def test_nan_stays_nan(name, batch, dtype):
    x, y, k = make(batch, name, dtype)
    x[(0, batch[3] % k) if x.ndim > 1 else 0] = nan
    assert CASES[name](k)(x, y).isnan()


def exact(name, z, y):
    "The loss of exact logits, and its gradient."
    f = TABLE[name][1]
    value = lambda z, p: f(p[y]) if f.__code__.co_argcount == 1 else f(p, y, z)
    moved = lambda i, h: [x + (i == j) * mpf(h) for j, x in enumerate(z)]
    at = lambda i, h: value(moved(i, h), share([exp(x) for x in moved(i, h)]))
    return [at(0, 0), *((at(i, 1e-20) - at(i, -1e-20)) / 2e-20 for i in range(len(z)))]


@cases([name for name in CASES if TABLE[name][1]])
def test_value_and_gradient_are_exact(name):
    "Within 1e-12, and where both are small within the rounding of 1 - p."
    x = torch.cat([scale * random(4, 4, seed=1) for scale in (0.1, 2, 20, 300)])
    x.requires_grad_()
    value = CASES[name](4).per_sample(x, torch.arange(16) % 4)
    got = torch.cat([value[:, None], slope(value, x)], 1).tolist()
    with workdps(50):
        for i in range(16):
            want = exact(name, [mpf(t) for t in x[i].tolist()], i % 4)
            for a, b in zip(got[i], want, strict=True):
                assert abs(a - b) <= 1e-12 * max(abs(b), 0.02), x[i]


HARD = [
    "LDRLoss(margin=1, lam=0.05)",
    "AULLoss(a=1.1, q=40)",
    "AGCELoss(a=1e-10, q=1e-3)",
    "GCELoss(q=1e-60)",
    "ClippedCELoss(max_loss=1e60)",
    "LogitClipLoss(max_norm=1e60)",
    "ForwardLoss(transition=tiny(k))",
]


@pytest.mark.parametrize("name", [*(n for n in STATELESS if "lam" not in n), *HARD])
def test_float32_is_float64_but_for_rounding(name):
    x = torch.cat([scale * random(8, 4) for scale in (0, 0.1, 0.5, 2, 40)]).float()
    y = torch.where(torch.arange(40) % 2 == 0, x.argmax(1), torch.arange(40) % 4)
    results = []
    for logits in (x.requires_grad_(), x.detach().double().requires_grad_()):
        value = build(name, 4).per_sample(logits, y)
        results.append((value.double(), slope(value, logits).double()))
    for one, other in zip(*results, strict=True):
        close(one, other, 1e-4)
        assert other.isfinite().all()


# ---- the same loss, asked differently ---------------------------------------


MOVED = [n for n in CASES if not re.search("LDR|Clip|unit=True", n)]


@hostile(MOVED, batch=batches(100))
def test_a_number_added_to_all_logits_changes_nothing(name, batch):
    x, y, k = make(batch, name)
    y = x.argmax(int(x.ndim > 1)) if batch[1] == "ties" else y
    close(CASES[name](k).per_sample(x + 300, y), CASES[name](k).per_sample(x, y))


@hostile(DETERMINED, batch=batches(1e3, ["any"]))
def test_the_order_of_classes_does_not_matter(name, batch):
    x, y, k = make(batch, name)
    loss, order = CASES[name](k), random(k).argsort(0)
    want = loss.per_sample(x, y)
    for buffer in ("transition", "targets"):
        if hasattr(loss, buffer):
            old = getattr(loss, buffer)[:, order]
            setattr(loss, buffer, old if buffer == "targets" else old[order])
    x = x.index_select(int(x.ndim > 1), order)
    close(loss.per_sample(x, order.argsort()[y]), want)


@hostile(DETERMINED, batch=batches())
def test_one_hot_probabilities_are_labels_and_dense_is_flat(name, batch):
    x, y, k = make(batch, name)
    loss, dim = CASES[name](k, weight=random(k).abs()), int(x.ndim > 1)
    want, hot = loss.per_sample(x, y), F.one_hot(y, k).movedim(-1, dim).to(x)
    close(loss.per_sample(x, hot), want)
    close(loss.per_sample(*flat(x, y)), want.flatten())
    if not isinstance(loss, el.GLSLoss):  # each class has its own weight
        close((loss.per_class(x) * hot).sum(dim) * loss.weight[y], want)


@hostile(batch=batches(), ignore=st.sampled_from([-1, 1]), cut=st.sampled_from([1, -9]))
def test_weights_and_ignored_labels(name, batch, ignore, cut):
    "As torch: a mean divides by the weights of what it keeps, all ignored is NaN."
    x, y, k = make(batch, name)
    y = y.masked_fill(random(*y.shape, seed=batch[3]) > cut, ignore)
    w, ignored = random(k).abs(), y == ignore
    loss = lambda **o: CASES[name](k, ignore_index=ignore, **o)
    scale = w[y.clamp_min(0)] * ~ignored
    want = loss(reduction="none")(x, y) * scale
    if name in DETERMINED:
        close(want, CASES[name](k).per_sample(x, y.clamp_min(0)) * scale)
    if "GLS" in name:  # each class has its own weight: label_smoothing of torch
        kept, part = y.clamp_min(0), loss().r / k
        hot = F.one_hot(kept, k).movedim(-1, int(x.ndim > 1)).double()
        share = (1 - loss().r) * hot + part
        shape = [-1 if i == int(x.ndim > 1) else 1 for i in range(x.ndim)]
        each = -share * w.view(shape) * x.log_softmax(int(x.ndim > 1))
        want = each.sum(int(x.ndim > 1)) * ~ignored
    x = x.masked_fill(ignored.unsqueeze(int(x.ndim > 1)), nan)
    close(loss(weight=w, reduction="none")(x, y), want)
    close(loss(weight=w, reduction="sum")(x, y), want.sum())
    close(loss(weight=w)(x, y), want.sum() / scale.sum())


# ---- masked classes -----------------------------------------------------------

MASKED = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]).bool()
SHARES = [[0.5, 0.2, 0, 0.3, 0], [0, 0.6, 0.2, 0.1, 0.1], [1, 0, 0, 0, 0]]
# Infinite where a class is masked, whatever the label: they ask all classes.
ASKS_ALL = "GLSLoss(", "BackwardLoss(transition=dense", "PeerLoss("
# Logits have a length, or the softmax a heavy tail: far below is still somewhere.
NOWHERE = [n for n in CASES if re.search("LogitClip|unit=True|t2=4", n)]


@cases(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_masked_class_is_one_that_is_far_below(name, dtype):
    x = random(3, 5).to(dtype)
    for y in (torch.tensor([3, 1, 0]), torch.eye(5)[[3, 1, 0]], torch.tensor(SHARES)):
        for options in ({}, {"weight": random(5).abs()}, {"reduction": "sum"}):
            found = []
            for low in (-inf, -1e6):
                far = x.masked_fill(MASKED, low).requires_grad_()
                value = CASES[name](5, **options)(far, y)
                found += [value, slope(value, far)]
            asks = name.startswith(ASKS_ALL)
            assert not found[0].isnan() or (asks and y.is_floating_point())
            assert found[1].isfinite().all() or asks
            if asks or name in NOWHERE:
                continue
            close(found[0], found[2], 1e-5)
            close(found[1], found[3], 1e-5)


@cases(NOWHERE)
def test_a_masked_class_is_one_that_is_not_there(name):
    x = random(3, 5).masked_fill(torch.arange(5) == 2, -inf)
    kept, y = x[:, [0, 1, 3, 4]], torch.tensor([3, 1, 0])
    close(
        CASES[name](5).per_sample(x, y),
        CASES[name](4).per_sample(kept, y - (y > 2).long()),
    )


def test_what_no_class_gives_costs_infinity_and_has_no_slope():
    x = torch.tensor([[0.0, -inf, -inf]], requires_grad=True)
    pair = 0.8 * torch.eye(3) + 0.2 * torch.eye(3).roll(1, 1)
    loss = el.ForwardLoss(transition=pair)
    want = torch.tensor([[-math.log(0.8), -math.log(0.2), inf]])
    close(loss.per_class(x), want, 1e-6)
    value = loss(x, torch.tensor([[0.5, 0.5, 0]]))
    close(value, want[0, :2].mean(), 1e-6)
    assert slope(value, x).isfinite().all()
    plain = el.BackwardLoss(transition=torch.eye(3))
    close(plain.per_class(x), torch.tensor([[0.0, inf, inf]]))
    assert el.BootstrapLoss(beta=0)(x, torch.eye(3)[:1]) == 0
    for zero in (el.SCELoss(a=0, b=1), 0 * el.CELoss() + el.MAELoss()):
        assert zero(x, torch.eye(3)[:1]).isfinite()


def off(loss):
    loss.coefs[0] = 0
    return loss


# Whose logarithms are infinite, and what is left of them by a factor of 0.
OFF = {
    "sce": (el.SCELoss(a=0, b=1), el.RCELoss()),
    "set to 0": (off(el.CELoss() + el.MAELoss()), el.MAELoss()),
    "first": (0 * el.CELoss() + el.MAELoss(), el.MAELoss()),
    "last": (el.MAELoss() - 0 * el.CELoss(), el.MAELoss()),
    "no curve": (0 * el.GLSLoss(r=0.1) + el.MAELoss(), el.MAELoss()),
    "no curves": (0 * el.GLSLoss(r=0.1) + el.MSELoss(), el.MSELoss()),
    "all": (0 * el.CELoss() + 0 * el.GCELoss(q=0), 0 * el.MAELoss()),
}


@cases(OFF)
def test_a_factor_of_zero_takes_an_infinite_term_out(name):
    x = random(3, 5).masked_fill(torch.arange(5) == 1, -inf).requires_grad_()
    loss, left = OFF[name]
    for y in (torch.tensor([1, 0, 1]), torch.eye(5).double()[[1, 0, 1]]):
        for options in ({}, {"weight": random(5).abs()}, {"reduction": "none"}):
            got, want = (f.with_options(**options)(x, y) for f in (loss, left))
            assert want.isfinite().all()
            close(got, want)
            close(slope(got.sum(), x), slope(want.sum(), x))
    close(loss.per_class(x), left.per_class(x))


def test_a_term_of_factor_zero_is_still_told_of_the_batch():
    x, y = random(6, 5), torch.arange(6) % 5
    learned = el.ForwardLoss.learned(transition=0.8 * torch.eye(5) + 0.04)
    both = 0 * learned + el.CELoss()
    both(x.float(), y).backward()
    assert learned.scores.grad is not None and not learned.scores.grad.any()
    alone, beside = (el.ELRLoss(num_samples=6, num_classes=5) for _ in range(2))
    alone(x, y, index=torch.arange(6))
    (0 * beside + el.CELoss())(x, y, index=torch.arange(6))
    assert alone.state_dict().keys() == beside.state_dict().keys()
    for a, b in zip(alone.buffers(), beside.buffers(), strict=True):
        close(a, b)
    value = (0 * el.MSELoss())(x.requires_grad_(), y)
    assert value == 0 and not slope(value, x).any()


@cases(CASES)
def test_a_weight_of_zero_takes_a_masked_label_out(name):
    if name.startswith(ASKS_ALL):
        return
    w = torch.tensor([1.0, 1, 0, 1, 1]).double()
    x, y = random(3, 5).masked_fill(torch.arange(5) == 2, -inf), torch.tensor([3, 2, 0])
    loss = CASES[name](5, weight=w)
    assert loss(x, y).isfinite()


# ---- precision -----------------------------------------------------------------


@cases(CASES)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_autocast_changes_the_dtype_alone(name, dtype):
    x, q = random(6, 5).to(dtype), random(6, 5, seed=1).softmax(1).to(dtype)
    for target in (q.argmax(1), q):
        want = CASES[name](reduction="none")(x.float(), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = CASES[name](reduction="none")(x, target)
            assert got.dtype == F.cross_entropy(x, target).dtype
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@cases({name.split("(")[0]: name for name in STATELESS}.values())
def test_compiles_without_a_break(name):
    torch.compiler.reset()
    x, y, loss = small(name)
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y)
    close(got, loss(x, y))
    close(slope(got, x), slope(loss(x, y), x))


class Called(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, x, y):
        return self.loss(x, y)


KINDS = {name.split("(")[0]: name for name in CASES if "PlacedELR" not in name}


@pytest.mark.filterwarnings("ignore")
@cases([*KINDS.values(), "sum"])
def test_is_exported_for_any_batch(name):
    "Also for batches beyond the sizes at which eager code goes another way."
    loss = 2 * el.EpsCELoss(m=10) - el.CELoss() if name == "sum" else CASES[name]()
    n, g = torch.export.Dim("n"), torch.Generator().manual_seed(0)
    for part in loss.modules():
        part.generator = None
    for soft in (False, True):
        x, y = torch.randn(200_000, 5, generator=g), torch.arange(200_000) % 5
        target = x.softmax(1) if soft else y
        how = {"dynamic_shapes": ({0: n}, {0: n}), "strict": False}
        made = torch.export.export(Called(loss), (x[:8], target[:8]), **how).module()
        for size in (3, len(x)):
            got = made(x[:size], target[:size])
            assert got.isfinite()
            if name in DETERMINED or name == "sum":
                close(got, loss(x[:size], target[:size]), 1e-5)


@cases(STATELESS)
def test_gradients_per_sample(name, weight=None):
    x, y, loss = small(name, weight=weight)
    got = vmap(grad(lambda x, y: loss.per_sample(x, y)))(x.detach(), y)
    close(got, slope(loss.per_sample(x, y), x))


@cases(STATELESS)
def test_weighted_gradients_per_sample(name):
    test_gradients_per_sample(name, random(5).abs())


@cases(CASES)
def test_copies_and_a_graph_used_twice(name):
    x, y, loss = small(name, weight=random(5).abs())
    want, other = loss(x, y), small(name, weight=torch.ones(5).double())[2]
    first = slope(want, x, retain_graph=True).clone()
    assert torch.equal(first, slope(want, x, retain_graph=True))
    loss = small(name, weight=random(5).abs())[2]
    other.load_state_dict(loss.state_dict())
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), other):
        assert torch.equal(twin(x, y), want)


# ---- bad input --------------------------------------------------------------

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])
BAD = [
    (X.long(), Y, TypeError, "logits must be a floating-point tensor, got torch.int64"),
    (X, Y.tolist(), TypeError, "target must be a tensor, got list"),
    (X, Y.int(), TypeError, r"int64, got torch.int32: use target.long\(\)"),
    (X, Y[1:], ValueError, r"need labels of shape \(4,\), got \(3,\)"),
    (X, X[:, 1:], ValueError, r"need probabilities of shape \(4, 3\), got \(4, 2\)"),
    (X[:, :1], Y * 0, ValueError, r"at least 2 classes, got \(4, 1\)"),
    (X, Y + 1, ValueError, "labels must lie in 0..2 or equal ignore_index=-100, got 3"),
    (X, Y.to("meta"), ValueError, r"move target with target.to\(logits.device\)"),
    (X.to("meta"), Y, ValueError, "target is on cpu, logits on meta"),
    (X[:0], Y[:0], ValueError, "empty batch has no mean"),
]


HOT, Q = torch.eye(3)[Y], X.softmax(1)
BAD += [
    (X.numpy(), Y, TypeError, "tensor, got ndarray: torch.as_tensor makes one"),
    (X, Y.numpy(), TypeError, "target must be a tensor, got ndarray: torch.as_tensor"),
    (X, HOT.bool(), ValueError, r"use target.argmax\(1\), or target.float\(\)"),
    (X, HOT.long(), ValueError, r"use target.argmax\(1\), or target.float\(\)"),
    (X, HOT + HOT.flip(0), ValueError, "these sum to 2: .* take BCEWithLogitsLoss"),
    (X, 0.5 * HOT, ValueError, "these sum to 0.5: divide by the sum"),
    (X, HOT * nan, ValueError, "these sum to nan"),
    (X, 2 * HOT - Q, ValueError, r"negative, got -0.33\d+: .* is GLSLoss\(r=...\)"),
    (X[:, :1], Y * 0, ValueError, r"one score z .* is torch.cat\(\[0 \* z, z\], 1\)"),
    (X[:, 0], Y, ValueError, r"use torch.stack\(\[0 \* z, z\], 1\) and int64 labels"),
    (X[:, 0], HOT.sum(1) * 1.0, ValueError, r"use torch.stack\(\[0 \* z, z\], 1\)"),
]


@cases(CASES)
def test_bad_input_names_the_fix(name):
    for logits, target, kind, says in BAD:
        with pytest.raises(kind, match=says):
            CASES[name](3)(logits, target)
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\)"):
        CASES[name](3, weight=torch.ones(2))(X, Y)
    with pytest.raises(ValueError, match="no label to ignore"):
        CASES[name](3, ignore_index=1)(X, X.softmax(1))


GOOD = dict(max_loss=3, a=2, b=1, q=0.7, m=10, max_norm=1, r=0.3, noise_rate=0.3)
GOOD |= dict(inclusive=True, beta=0.8, num_samples=30, num_classes=5)
GOOD |= dict(order=3, pi=0.5, temperature=0.5, t1=0.5, t2=1.5, p=0.5)
RANGES = [(c, *item) for c in loss_classes().values() for item in c.ranges.items()]


def wrong(allowed):
    "Values that are not allowed, with the error that each deserves."
    yield from ((x, TypeError) for x in ("1", [1], 1j, torch.tensor(1.0)))
    if allowed != COUNT_OR_NONE:
        yield None, TypeError
    if allowed == SWITCH:
        return (yield from [(1, TypeError), (0.0, TypeError)])
    if allowed in (COUNT, COUNT_OR_NONE):
        return (yield from [(1.5, TypeError), (0, ValueError), (True, TypeError)])
    yield from [(True, TypeError), *((x, ValueError) for x in (nan, inf, -inf))]
    low, high = map(float, allowed[1:-1].split(","))
    yield low if allowed[0] == "(" else math.nextafter(low, -inf), ValueError
    yield high if allowed[-1] == ")" else math.nextafter(high, inf), ValueError


@pytest.mark.parametrize(("cls", "name", "allowed"), RANGES)
def test_bad_parameters_name_the_fix(cls, name, allowed):
    good = partial(cls, **{p: GOOD[p] for p in cls.ranges if p in GOOD})
    for value, kind in wrong(allowed):
        with pytest.raises(kind, match=rf"^{name} must be"):
            good(**{name: value})
    for end in re.findall(r"(?<=\[)[^,]+|[^ ]+(?=\])", allowed):
        good(**{name: float(end)})


ELR = partial(el.ELRLoss, num_samples=4)
REFUSED_BY_NAME = [
    lambda: el.CELoss()(X, torch.full((4,), -(2**63))),
    lambda: el.CELoss(weight=X[0]).to("meta")(X, Y),
    lambda: ELR(num_classes=3).to("meta")(X, Y, index=Y),
    lambda: ELR(num_classes=3)(X, Y, index=Y.to("meta")),
    lambda: ELR(num_classes=1),
    lambda: el.CELoss(ignore_index=2**63),
    lambda: el.CELoss()(X.to(torch.float8_e5m2), Y),
    lambda: el.NFLLoss(gamma=1e3),
    lambda: el.NNCELoss(tau=0.3)(X, Y),
]


@pytest.mark.parametrize("call", REFUSED_BY_NAME)
def test_refused_with_an_error_of_its_own(call):
    with pytest.raises((TypeError, ValueError)):
        call()


def test_probabilities_may_be_rounded_and_are_looked_at_on_the_cpu_alone():
    loss, big = el.CELoss(), random(2, 1000, seed=3)
    for dtype in DTYPES:
        assert loss(big, (3 * big).softmax(1).to(dtype)).isfinite()
        assert loss(big, (3 * big).to(dtype).softmax(1)).isfinite()
    shares = Q.clone().requires_grad_()
    assert slope(loss(X, shares), shares).isfinite().all()
    wrong = torch.stack([2 * HOT, HOT])
    assert vmap(lambda q: loss(X, q))(wrong).shape == (2,)
    assert loss(X.to("meta"), (2 * Q).to("meta")).device.type == "meta"


def test_weights_of_another_kind_name_the_fix():
    with pytest.raises(TypeError, match="got ndarray"):
        el.CELoss(weight=X[0].numpy())


@pytest.mark.parametrize("cls", loss_classes().values())
def test_an_unknown_parameter_is_told_the_known_ones(cls):
    good = {p: GOOD[p] for p in cls.ranges if p in GOOD}
    if cls in (el.ForwardLoss, el.BackwardLoss):
        good["transition"] = torch.eye(5)
    with pytest.raises(TypeError, match="redution") as error:
        cls(redution="sum", **good)
    told, known = str(error.value).split("; it has ")
    assert told == f"{cls.__name__} has no 'redution'"
    assert {*good, "weight", "ignore_index", "reduction"} <= set(known.split(", "))
