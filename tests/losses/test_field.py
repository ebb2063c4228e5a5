"""Newer losses of the field beside numpy in float64, their limits and relations.

Each reference is written here from the printed definition or from what the
released code computes, over probabilities, one sample at a time.
"""

import math

import numpy as np
import pytest
import torch

from epsbook.losses import (
    AELLoss,
    AGCELoss,
    AMSELoss,
    AULLoss,
    BiTemperedLoss,
    BoundedVariationCELoss,
    CELoss,
    GCELoss,
    JSLoss,
    LogitClipLoss,
    MAELoss,
    MSELoss,
    NCELoss,
    NFLLoss,
    NoiseAdaptationLoss,
    SparsityLoss,
    TaylorCELoss,
    TemperatureCELoss,
    TruncatedGCELoss,
    recipe,
    tempered_softmax,
)

KS = [2, 3, 10, 1000]


def batch(k, n=12, scale=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=g)


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


def kl(a, b):
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def gjs(label, views, weights):
    "Generalized Jensen-Shannon divergence over Z, from its definition."
    parts = [label, *views]
    m = sum(w * p for w, p in zip(weights, parts, strict=True))
    total = sum(w * kl(p, m) for w, p in zip(weights, parts, strict=True))
    return total / (-(1 - weights[0]) * math.log(1 - weights[0]))


def tempered(row, t):
    "Tempered softmax by bisection for lambda."
    if t == 1:
        return softmax(row)
    u, low, high = t - 1, 0.0, (len(row) ** (t - 1) - 1) / (t - 1)
    for _ in range(300):
        lam = (low + high) / 2
        p = (1 + u * (lam + row.max() - row)) ** (-1 / u)
        low, high = (lam, high) if p.sum() > 1 else (low, lam)
    return p


def bregman(label, p, t1):
    "Divergence of the tempered logarithm, for a one-hot label."
    if t1 == 1:
        return kl(label, p)
    log_t = lambda x: (x ** (1 - t1) - 1) / (1 - t1)
    own = sum(x * (log_t(x) - log_t(y)) for x, y in zip(label, p, strict=True) if x > 0)
    return own - (label ** (2 - t1) - p ** (2 - t1)).sum() / (2 - t1)


def unit(row):
    return row / np.linalg.norm(row)


REFERENCES = {
    "TaylorCELoss(order=4)": lambda h, p, e: sum(
        (1 - p @ e) ** i / i for i in (1, 2, 3, 4)
    ),
    "JSLoss(pi=0.3)": lambda h, p, e: gjs(e, [p], [0.3, 0.7]),
    "JSLoss(pi=0.9)": lambda h, p, e: gjs(e, [p, p, p], [0.9, 0.02, 0.03, 0.05]),
    "BoundedVariationCELoss(a=0.2)": lambda h, p, e: (
        math.log(1.2) - math.log(p @ e + 0.2)
    ),
    "TruncatedGCELoss()": lambda h, p, e: (1 - max(p @ e, 0.5) ** 0.7) / 0.7,
    "TemperatureCELoss(temperature=0.5)": lambda h, p, e: -math.log(softmax(2 * h) @ e),
    "TemperatureCELoss(temperature=0.1, unit=True)": lambda h, p, e: (
        -math.log(softmax(unit(h) / 0.1) @ e)
    ),
    "BiTemperedLoss(t1=0.8, t2=1.2)": lambda h, p, e: bregman(e, tempered(h, 1.2), 0.8),
    "BiTemperedLoss(t1=0.2, t2=4)": lambda h, p, e: bregman(e, tempered(h, 4), 0.2),
    "BiTemperedLoss(t1=1, t2=1.3)": lambda h, p, e: bregman(e, tempered(h, 1.3), 1),
    "AMSELoss(a=30)": lambda h, p, e: ((p - 30 * e) ** 2).mean(),
    "SparsityLoss(p=0.1, temperature=0.5, unit=True, tau=1e-7)": lambda h, p, e: (
        np.clip(softmax(2 * unit(h)), 1e-7, 1) ** 0.1
    ).sum(),
}


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("call", REFERENCES)
def test_equals_numpy(call, k):
    logits, y = batch(k)
    got = eval(call).per_sample(logits, y)
    rows = [
        REFERENCES[call](h, softmax(h), np.eye(k)[t])
        for h, t in zip(logits.numpy(), y.tolist(), strict=True)
    ]
    want = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("call", REFERENCES)
@pytest.mark.parametrize("k", [2, 4])
def test_gradients_are_those_of_differences(call, k):
    logits, y = batch(k, n=6, scale=1)
    loss = eval(call)
    x = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.per_sample(x, y), x)


@pytest.mark.parametrize("call", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stays_finite_far_away(call, dtype):
    for k in KS:
        logits, y = batch(k)
        x = (1e4 * logits / logits.abs().max()).to(dtype).requires_grad_()
        value = eval(call).per_sample(x, y)
        (g,) = torch.autograd.grad(value.sum(), x)
        assert value.isfinite().all() and g.isfinite().all()


# ---- limits and relations ---------------------------------------------------


def near(one, other, k=5, size=1e-6):
    logits, y = batch(k, scale=1)
    torch.testing.assert_close(
        one.per_sample(logits, y), other.per_sample(logits, y), rtol=size, atol=size
    )


@pytest.mark.parametrize("k", KS)
def test_limits(k):
    half = MAELoss() / 2
    near(TaylorCELoss(order=1), half, k, 1e-12)
    if k < 1000:  # while p_y is far above pi
        near(JSLoss(pi=1e-6), CELoss(), k, 1e-3)
    near(BoundedVariationCELoss(a=1e-12), CELoss(), k)
    near((1 + 1e6) * BoundedVariationCELoss(a=1e6), half, k, 1e-5)
    near(TemperatureCELoss(temperature=1), CELoss(), k, 1e-12)
    near(BiTemperedLoss(t1=1, t2=1), CELoss(), k, 1e-12)
    near(BiTemperedLoss(t1=1 - 1e-9, t2=1 + 1e-9), CELoss(), k)
    near(BiTemperedLoss(t1=0, t2=1), MSELoss() / 2, k, 1e-12)
    near(k * AMSELoss(a=1), MSELoss(), k, 1e-12)
    near(TruncatedGCELoss(k=1e-300), GCELoss(), k, 1e-12)


def test_js_tends_to_half_of_mae_as_slowly_as_a_logarithm():
    logits, y = batch(5)
    half = MAELoss().per_sample(logits, y) / 2
    for pi in (0.9, 1 - 1e-4, 1 - 1e-8, 1 - 1e-12):
        far = (JSLoss(pi=pi).per_sample(logits, y) - half).max()
        assert 0 <= far < 1 / -math.log1p(-pi)


def test_amse_tends_to_half_of_mae():
    logits, y = batch(5)
    half = MAELoss().per_sample(logits, y) / 2
    for a in (1e2, 1e4, 1e6):
        own = (5 * AMSELoss(a=a).per_sample(logits, y) - (a - 1) ** 2) / (2 * a)
        assert ((own - half) * 2 * a).abs().max() < 1.01


def test_taylor_tends_to_cross_entropy():
    logits, y = batch(5, scale=1)
    ce = CELoss().per_sample(logits, y)
    far = [(ce - TaylorCELoss(order=t).per_sample(logits, y)).max() for t in (5, 50)]
    assert far[0] > 10 * far[1] >= 0


def test_one_loss_under_several_names():
    near(TruncatedGCELoss(q=0.4, k=0.3), GCELoss(q=0.4, tau=0.3), size=1e-12)
    near(BoundedVariationCELoss(a=0.7), AGCELoss(a=0.7, q=1e-9))
    for k in (2, 5, 100):
        a = 0.3
        adapted = NoiseAdaptationLoss(noise_rate=a * k / (1 + a * k), inclusive=True)
        logits, y = batch(k)
        gap = adapted.per_sample(logits, y)
        gap = gap - BoundedVariationCELoss(a=a).per_sample(logits, y)
        assert (gap - gap[0]).abs().max() < 1e-12
    logits, y = batch(5)
    long = 5 * logits / logits.norm(dim=1, keepdim=True)
    sharp = TemperatureCELoss(temperature=0.5, unit=True)
    want = LogitClipLoss(max_norm=2).per_sample(long, y)
    torch.testing.assert_close(sharp.per_sample(long, y), want)


def test_published_sums():
    jal = "NCELoss() + AMSELoss(a=30)"
    assert repr(recipe("nce+amse", dataset="cifar10")) == jal
    near(recipe("nce+amse", dataset="cifar10"), NCELoss() + AMSELoss(a=30))
    focal = 5 * NFLLoss(detach_factor=True) + AMSELoss(a=20)
    near(recipe("nfl+amse", dataset="cifar100"), focal)
    at = {"dataset": "cifar100", "noise": "asymmetric"}
    loss = recipe("ce+sr", **at)
    assert isinstance(loss.losses[1], SparsityLoss) and loss.coefs == [1, 10]
    assert loss.losses[0].unit and loss.losses[1].unit


# ---- the tempered softmax ---------------------------------------------------


@pytest.mark.parametrize("t", [1, 1 + 1e-9, 1.05, 1.5, 2, 3.3, 5])
@pytest.mark.parametrize("k", [2, 10, 1000, 30_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tempered_probabilities_add_up(t, k, dtype):
    eps = torch.finfo(dtype).eps
    for kind in ("normal", "gap", "ties", "even", "far"):
        logits = batch(k, n=3)[0]
        if kind == "gap":
            logits = torch.full_like(logits, -30.0).index_fill(1, torch.tensor(0), 0)
        elif kind == "ties":
            logits = logits.round()
        elif kind == "even":
            logits = logits * 0
        elif kind == "far":
            logits = logits * 3e3
        p = tempered_softmax(logits.to(dtype), t)
        assert (p >= 0).all() and p.dtype == dtype
        assert (p.double().sum(1) - 1).abs().max() < 40 * eps * math.sqrt(k)
        assert torch.equal(p.amax(1), p.gather(1, logits.argmax(1, True))[:, 0])


def test_tempered_softmax_is_any_dimension_and_refuses_what_it_cannot():
    x = batch(4)[0]
    torch.testing.assert_close(tempered_softmax(x, 2).T, tempered_softmax(x.T, 2, 0))
    for t in (0.9, 5.1, math.nan):
        with pytest.raises(ValueError, match="t must be finite and in"):
            tempered_softmax(x, t)
    with pytest.raises(TypeError, match="floating-point"):
        tempered_softmax(x.long(), 2)
    half = tempered_softmax(x.half(), 2)
    assert half.dtype == torch.float16


def test_second_and_mixed_derivatives_of_the_tempered_softmax():
    x = batch(4, n=3, scale=1)[0].requires_grad_()
    call = lambda x: tempered_softmax(x, 1.7)
    assert torch.autograd.gradgradcheck(call, x)
    p = call(x)
    (g,) = torch.autograd.grad((p**2).sum(), x)
    escort = p**1.7 / (p**1.7).sum(1, keepdim=True)
    inner = 2 * p * p**1.7
    want = inner - escort * inner.sum(1, keepdim=True)
    torch.testing.assert_close(g, want.detach())


# ---- the best answers -------------------------------------------------------


def test_bi_tempered_is_proper():
    "The best answer to any label probabilities is to give them back."
    q = torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
    for t1, t2 in [(0, 1), (0.5, 1.5), (0.8, 4)]:
        h = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([h], max_iter=500, line_search_fn="strong_wolfe")
        loss = BiTemperedLoss(t1=t1, t2=t2)

        def risk(h=h, optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            value = loss(h, q[None])
            value.backward()
            return value

        for _ in range(20):
            optimizer.step(risk)
        got = tempered_softmax(h.detach(), t2)[0]
        torch.testing.assert_close(got, q, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: TaylorCELoss(order=0), "order must be"),
        (lambda: JSLoss(pi=1), "pi must be finite and in"),
        (lambda: BoundedVariationCELoss(a=0), "a must be finite and in"),
        (lambda: TruncatedGCELoss(k=0), "k must be finite and in"),
        (lambda: TemperatureCELoss(temperature=0), "temperature must be finite"),
        (lambda: BiTemperedLoss(t1=1.1, t2=1.2), "t1 must be finite and in"),
        (lambda: BiTemperedLoss(t1=0.5, t2=0.9), "t2 must be finite and in"),
        (lambda: AMSELoss(a=1e7), "a must be finite and in"),
        (lambda: SparsityLoss(p=1), "p must be finite and in"),
    ],
)
def test_bad_parameters_name_what_is_allowed(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_bounded_variation_is_the_ratio_of_the_slopes():
    from epsbook.theory.shape import variation

    for loss, want in [
        (BoundedVariationCELoss(a=4), 1.25),
        (AELLoss(a=2), math.exp(0.5)),
        (AULLoss(a=3, q=2), 1.5),
        (TaylorCELoss(order=7), 7),
        (MAELoss() / 2, 1),
    ]:
        assert abs(variation(loss, 10) - want) < 1e-9
        s = torch.linspace(1e-6, 1, 10_001, dtype=torch.float64)
        slopes = loss.phi(s.log(), None).diff() / -s.diff()
        assert abs((slopes.max() / slopes.min()).item() / want - 1) < 1e-3
    for loss in (CELoss(), GCELoss(), JSLoss(pi=0.9), TruncatedGCELoss()):
        assert variation(loss, 10) == math.inf
    for other in (AMSELoss(a=3), NCELoss(), torch.nn.CrossEntropyLoss()):
        with pytest.raises(TypeError, match="p_y alone"):
            variation(other, 10)
