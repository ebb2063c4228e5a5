"""Values, gradients and manners of the losses that stand so far."""

import ast
import copy
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from epsbook import losses
from epsbook.losses import (
    AELLoss,
    AGCELoss,
    AMSELoss,
    AULLoss,
    BackwardLoss,
    BiTemperedLoss,
    BootstrapLoss,
    BoundedVariationCELoss,
    CELoss,
    ClippedCELoss,
    CurveLoss,
    ELRLoss,
    EpsCELoss,
    EpsFocalLoss,
    FocalLoss,
    ForwardLoss,
    GCELoss,
    GLSLoss,
    JSLoss,
    LDRLoss,
    LogitClipLoss,
    Loss,
    LossSum,
    MAELoss,
    MSELoss,
    NCELoss,
    NFLLoss,
    NNCELoss,
    NNFLLoss,
    NoiseAdaptationLoss,
    PeerLoss,
    RCELoss,
    SCELoss,
    SparsityLoss,
    TaylorCELoss,
    TemperatureCELoss,
    TruncatedGCELoss,
    eps_softmax,
    epsilon,
)
from epsbook.noise.transition import uniform_matrix

CASES = {
    "ce": CELoss,
    "mae": MAELoss,
    "eps_ce": lambda **o: EpsCELoss(m=1e3, **o),
    "eps_ce_m0": lambda **o: EpsCELoss(m=0, tau=0, **o),
    "eps_focal": lambda **o: EpsFocalLoss(m=10, **o),
    "sum": lambda **o: 0.01 * EpsCELoss(m=1e5, **o) + 5 * MAELoss(**o),
    "mixed": lambda **o: 0.5 * BrierLoss(**o) + 2 * EpsCELoss(m=10, **o),
}


class BrierLoss(Loss):
    "Not a curve: looks at every probability. Stands for the later losses."

    def _every(self, logits, **batch):
        p = logits.softmax(-1 if logits.ndim == 1 else 1)
        total = (p**2).sum(-1 if logits.ndim == 1 else 1, keepdim=True)
        return 1 - 2 * p + total


@pytest.fixture(params=CASES)
def make(request):
    return CASES[request.param]


def batch(n=6, k=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits.to(dtype), torch.randint(k, (n,), generator=g)


def naive(name, p, y):
    "The formula on probabilities, one sample at a time, as the papers print it."
    py, top = p[y], int(p.argmax()) == y
    f = lambda m: (py + m * top) / (m + 1)
    return {
        "ce": -py.log(),
        "mae": (p - F.one_hot(torch.tensor(y), len(p))).abs().sum(),
        "eps_ce": -f(1e3).clamp_min(1e-8).log(),
        "eps_ce_m0": -py.log(),
        "eps_focal": -((1 - f(10)) ** 0.1) * f(10).clamp_min(1e-8).log(),
        "sum": -0.01 * f(1e5).clamp_min(1e-8).log() + 10 * (1 - py),
    }[name]


@pytest.mark.parametrize("name", [n for n in CASES if n != "mixed"])
@pytest.mark.parametrize("k", [2, 3, 10, 100])
@pytest.mark.parametrize("spread", [0.1, 1, 4])
def test_equals_the_formula(name, k, spread):
    logits, y = batch(20, k, seed=k)
    logits = spread * logits / 3
    p = logits.softmax(1)
    want = torch.stack([naive(name, p[i], int(y[i])) for i in range(20)])
    got = CASES[name]().per_sample(logits, y)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


# ---- every loss -------------------------------------------------------------

T = torch.tensor(
    [
        [0.7, 0.1, 0.1, 0.1, 0],
        [0, 0.6, 0.2, 0.1, 0.1],
        [0.1, 0, 0.8, 0, 0.1],
        [0.05, 0.05, 0.1, 0.8, 0],
        [0.1, 0.1, 0.1, 0.1, 0.6],
    ]
).double()
LOG = math.log(1e-4)
focal = lambda p, gamma: -((1 - p) ** gamma) * p.log()


def tempered(h, y, t1=0.3, t2=1.7):
    u, low, high = t2 - 1, torch.zeros(()).double(), h.max() - h.min() + len(h) * 99
    for _ in range(200):
        b = (low + high) / 2
        p = (1 + u * (b + h.max() - h)) ** (-1 / u)
        low, high = (b, high) if p.sum() > 1 else (low, b)
    first = (1 - p[y] ** (1 - t1)) / (1 - t1)
    return first - (1 - (p ** (2 - t1)).sum()) / (2 - t1)


def js(p, y, pi):
    label = torch.eye(len(p), dtype=p.dtype)[y]
    m = pi * label + (1 - pi) * p
    far = pi * torch.xlogy(label, label / m) + (1 - pi) * p * (p / m).log()
    return far.sum() / (-(1 - pi) * math.log(1 - pi))


def ldr(h, y, margin, lam):
    s = F.softplus(h) / F.softplus(h).mean()
    ahead = s - s[y] + margin * (torch.arange(len(h)) != y).double()
    return lam * (ahead / lam).exp().mean().log()


# Loss and formula: of logits h, probabilities p, label y.
FORMULAS = {
    "mse": (MSELoss(), lambda h, p, y: ((p - torch.eye(len(p))[y]) ** 2).sum()),
    "focal": (FocalLoss(gamma=2), lambda h, p, y: focal(p[y], 2)),
    "clipped": (ClippedCELoss(max_loss=2), lambda h, p, y: (-p[y].log()).clamp_max(2)),
    "gce": (GCELoss(q=0.7), lambda h, p, y: (1 - p[y] ** 0.7) / 0.7),
    "gce_tau": (
        GCELoss(q=0.5, tau=0.1),
        lambda h, p, y: 2 * (1 - p[y].clamp_min(0.1) ** 0.5),
    ),
    "rce": (RCELoss(), lambda h, p, y: -LOG * (1 - p[y])),
    "sce": (SCELoss(a=2, b=3), lambda h, p, y: -2 * p[y].log() - 3 * LOG * (1 - p[y])),
    "nce": (NCELoss(), lambda h, p, y: p[y].log() / p.log().sum()),
    "nfl": (NFLLoss(gamma=2), lambda h, p, y: focal(p[y], 2) / focal(p, 2).sum()),
    "nnce": (
        NNCELoss(tau=1e-3),
        lambda h, p, y: 1 - part(p[y], 0) / part(p, 0).sum(),
    ),
    "nnfl": (
        NNFLLoss(gamma=2, tau=1e-3),
        lambda h, p, y: 1 - part(p[y], 2) / part(p, 2).sum(),
    ),
    "agce": (AGCELoss(a=2, q=0.5), lambda h, p, y: 2 * (3**0.5 - (2 + p[y]) ** 0.5)),
    "aul": (AULLoss(a=1.5, q=3), lambda h, p, y: ((1.5 - p[y]) ** 3 - 0.125) / 3),
    "ael": (AELLoss(a=2), lambda h, p, y: (-p[y] / 2).exp()),
    "taylor": (
        TaylorCELoss(order=3),
        lambda h, p, y: sum((1 - p[y]) ** i / i for i in (1, 2, 3)),
    ),
    "js": (JSLoss(pi=0.4), lambda h, p, y: js(p, y, 0.4)),
    "moved": (
        BoundedVariationCELoss(a=0.3),
        lambda h, p, y: (1.3 / (p[y] + 0.3)).log(),
    ),
    "truncated": (
        TruncatedGCELoss(q=0.5, k=0.1),
        lambda h, p, y: 2 * (1 - p[y].clamp_min(0.1) ** 0.5),
    ),
    "temperature": (
        TemperatureCELoss(temperature=0.5),
        lambda h, p, y: -(2 * h).log_softmax(0)[y],
    ),
    "temperature_unit": (
        TemperatureCELoss(temperature=0.5, unit=True),
        lambda h, p, y: -(2 * h / h.norm()).log_softmax(0)[y],
    ),
    "bi_tempered": (BiTemperedLoss(t1=0.3, t2=1.7), lambda h, p, y: tempered(h, y)),
    "amse": (
        AMSELoss(a=3),
        lambda h, p, y: ((p - 3 * torch.eye(len(p))[y]) ** 2).mean(),
    ),
    "sparsity": (
        SparsityLoss(p=0.3, temperature=2),
        lambda h, p, y: ((h / 2).softmax(0) ** 0.3).sum(),
    ),
    "ldr": (LDRLoss(margin=0.3, lam=2), lambda h, p, y: ldr(h, y, 0.3, 2)),
    "clip": (
        LogitClipLoss(max_norm=2),
        lambda h, p, y: -(h * min(1, 2 / h.norm())).log_softmax(0)[y],
    ),
    "gls": (GLSLoss(r=-2), lambda h, p, y: -3 * p[y].log() + 2 * p.log().mean()),
    "forward": (ForwardLoss(transition=T), lambda h, p, y: -(p @ T)[y].log()),
    "backward": (
        BackwardLoss(transition=T),
        lambda h, p, y: -(torch.linalg.inv(T) @ p.log())[y],
    ),
    "adapted": (
        NoiseAdaptationLoss(noise_rate=0.3, inclusive=True),
        lambda h, p, y: -(0.3 / len(p) + 0.7 * p[y]).log(),
    ),
    "adapted_wrong": (
        NoiseAdaptationLoss(noise_rate=0.4, inclusive=False),
        lambda h, p, y: (
            -(0.4 / (len(p) - 1) + (1 - 0.4 * len(p) / (len(p) - 1)) * p[y]).log()
        ),
    ),
    "bootstrap": (
        BootstrapLoss(beta=0.7),
        lambda h, p, y: -0.7 * p[y].log() - 0.3 * (p * p.log()).sum(),
    ),
    "bootstrap_hard": (
        BootstrapLoss(beta=0.7, hard=True),
        lambda h, p, y: -0.7 * p[y].log() - 0.3 * p.max().log(),
    ),
}


def part(p, gamma):
    tau = torch.tensor(1e-3, dtype=torch.float64)
    return focal(tau, gamma) - focal(p.clamp_min(tau), gamma)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("k", [2, 5, 100])
@pytest.mark.parametrize("spread", [0.1, 1, 4])
def test_every_loss_is_its_formula(name, k, spread):
    loss, formula = FORMULAS[name]
    if "transition" in dict(loss.named_buffers()) and k != len(T):
        pytest.skip("the matrix is for five classes")
    logits, y = batch(20, k, seed=k)
    logits = spread * logits / 3
    if name == "adapted_wrong" and k == 2:
        pytest.skip("0.4 of two classes is most of what there is")
    want = torch.stack(
        [formula(h, h.softmax(0), int(t)) for h, t in zip(logits, y, strict=True)]
    )
    got = loss.per_sample(logits, y)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("soft", [False, True])
def test_every_loss_has_its_derivatives(name, soft):
    loss, _ = FORMULAS[name]
    logits, y = batch()
    target = batch(seed=1)[0].softmax(1) if soft else y
    call = lambda x: loss.per_sample(x, target)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(call, logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, logits)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_sum_is_linear(name):
    loss, _ = FORMULAS[name]
    logits, y = batch()
    both = 2 * loss - EpsCELoss(m=10) / 4
    want = 2 * loss(logits, y) - EpsCELoss(m=10)(logits, y) / 4
    torch.testing.assert_close(both(logits, y), want)
    torch.testing.assert_close(
        both.per_class(logits),
        2 * loss.per_class(logits) - EpsCELoss(m=10).per_class(logits) / 4,
    )


# Pairs that are one loss, whatever the options.
EQUAL = [
    (lambda **o: GCELoss(q=0, **o), CELoss),
    (lambda **o: GCELoss(q=1, **o), lambda **o: MAELoss(**o) / 2),
    (lambda **o: FocalLoss(gamma=0, **o), CELoss),
    (lambda **o: ClippedCELoss(max_loss=1e4, **o), CELoss),
    (lambda **o: SCELoss(a=1, b=0, **o), CELoss),
    (lambda **o: RCELoss(log_zero=-6, **o), lambda **o: 3 * MAELoss(**o)),
    (lambda **o: AGCELoss(a=3, q=1, **o), lambda **o: MAELoss(**o) / 2),
    (lambda **o: AULLoss(a=3, q=1, **o), lambda **o: MAELoss(**o) / 2),
    (lambda **o: EpsCELoss(m=0, tau=0, **o), CELoss),
    (lambda **o: EpsFocalLoss(m=0, tau=0, gamma=0, **o), CELoss),
    (lambda **o: EpsFocalLoss(m=9, gamma=0, **o), lambda **o: EpsCELoss(m=9, **o)),
    (lambda **o: TemperatureCELoss(temperature=1, **o), CELoss),
    (lambda **o: BiTemperedLoss(t1=1, t2=1, **o), CELoss),
    (lambda **o: BiTemperedLoss(t1=0, t2=1, **o), lambda **o: MSELoss(**o) / 2),
    (lambda **o: TaylorCELoss(order=1, **o), lambda **o: MAELoss(**o) / 2),
    (
        lambda **o: TruncatedGCELoss(q=0.6, k=0.2, **o),
        lambda **o: GCELoss(q=0.6, tau=0.2, **o),
    ),
    (
        lambda **o: TruncatedGCELoss(q=0, k=0.2, **o),
        lambda **o: ClippedCELoss(max_loss=math.log(5), **o),
    ),
    (lambda **o: LogitClipLoss(max_norm=1e6, **o), CELoss),
    (lambda **o: GLSLoss(r=0, **o), CELoss),
    (lambda **o: ForwardLoss(transition=torch.eye(5), **o), CELoss),
    (lambda **o: BackwardLoss(transition=torch.eye(5), **o), CELoss),
    (
        lambda **o: ForwardLoss(
            transition=torch.tensor(uniform_matrix(0.4, False, 5)), **o
        ),
        lambda **o: NoiseAdaptationLoss(noise_rate=0.4, inclusive=False, **o),
    ),
    (lambda **o: NoiseAdaptationLoss(noise_rate=0, inclusive=False, **o), CELoss),
    (lambda **o: BootstrapLoss(beta=1, **o), CELoss),
    (lambda **o: BootstrapLoss(beta=1, hard=True, **o), CELoss),
    (lambda **o: PeerLoss(alpha=0, **o), CELoss),
    (lambda **o: NFLLoss(gamma=0, **o), NCELoss),
    (lambda **o: NNFLLoss(gamma=0, **o), NNCELoss),
    (CELoss, lambda **o: TorchLoss(**o)),
    (lambda **o: GLSLoss(r=0.3, **o), lambda **o: TorchLoss(label_smoothing=0.3, **o)),
    (
        lambda **o: 2 * GLSLoss(r=0.3, **o) - CELoss(**o),
        lambda **o: (
            lambda x, y: (
                2 * TorchLoss(label_smoothing=0.3, **o)(x, y) - TorchLoss(**o)(x, y)
            )
        ),
    ),
]
TorchLoss = torch.nn.CrossEntropyLoss


@pytest.mark.parametrize("pair", range(len(EQUAL)))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [-100, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equal_losses_are_equal_with_all_options(pair, weighted, ignore, reduction):
    g = torch.Generator().manual_seed(0)
    weight = torch.tensor([1.0, 2, 0.5, 0, 3]).double() if weighted else None
    options = {"weight": weight, "reduction": reduction}
    for shape in ((20, 5), (4, 5, 3, 2)):
        logits = 3 * torch.randn(shape, generator=g, dtype=torch.float64)
        y = torch.randint(5, (shape[0], *shape[2:]), generator=g)
        q = torch.randn(shape, generator=g, dtype=torch.float64).softmax(1)
        one, other = (f(**options, ignore_index=ignore) for f in EQUAL[pair])
        torch.testing.assert_close(one(logits, y), other(logits, y))
        one, other = (f(**options) for f in EQUAL[pair])
        torch.testing.assert_close(one(logits, q), other(logits, q))


def test_limits_of_every_family():
    logits, y = batch(50, 5)
    ce = CELoss().per_sample(logits, y)
    nearly = GCELoss(q=1e-9).per_sample(logits, y)
    torch.testing.assert_close(nearly, ce, rtol=1e-6, atol=0)
    far = (GLSLoss(r=-1e9) / (1 + 1e9)).per_sample(logits, y)
    given = logits.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(far, logits.mean(1) - given, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("r", [float("-inf"), -math.inf, np.float64("-inf")])
def test_smoothing_without_end_names_the_remedy(r):
    with pytest.raises(ValueError, match=r"-inf.*PeerLoss\(alpha=1\).*r=-8"):
        GLSLoss(r=r)


def test_backward_correction_is_negative_smoothing():
    "For symmetric noise the two are one loss, sample by sample."
    rate, k = 0.4, 5
    logits, y = batch(50, k)
    transition = torch.tensor(uniform_matrix(rate, False, k))
    r = -rate * k / ((k - 1) - rate * k)
    torch.testing.assert_close(
        BackwardLoss(transition=transition).per_sample(logits, y),
        GLSLoss(r=r).per_sample(logits, y),
    )


# ---- derivatives ------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_first_and_second_derivatives(make, soft):
    logits, y = batch()
    target = batch(seed=1)[0].softmax(1) if soft else y
    loss = make()
    call = lambda x: loss.per_sample(x, target)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(call, logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, logits)


def test_gradient_of_soft_targets(make):
    logits, _ = batch()
    q = batch(seed=1)[0].softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: make().per_sample(logits, q), q)


def test_logit_gradient_is_weight_times_difference():
    logits, y = batch(200, 10)
    logits.requires_grad_()
    loss = CASES["sum"]()
    (got,) = torch.autograd.grad(loss.per_sample(logits, y).sum(), logits)
    p = logits.detach().softmax(1)
    py = p.gather(1, y[:, None])[:, 0]
    top = p.argmax(1) == y
    above = py >= 1e-8 * (1e5 + 1)
    w = 0.01 * torch.where(top, py / (py + 1e5), above.double()) + 10 * py
    assert top.any() and (~top & above).any() and (~top & ~above).any()
    want = w[:, None] * (p - F.one_hot(y, 10))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_detached_factor_is_a_constant_weight():
    logits, y = batch()
    logits.requires_grad_()
    loss = EpsFocalLoss(m=10, gamma=0.5, detach_factor=True)
    (got,) = torch.autograd.grad(loss(logits, y), logits)
    f = eps_softmax(logits, 10).gather(1, y[:, None])[:, 0]
    ce = EpsCELoss(m=10).per_sample(logits, y)
    frozen = ((1 - f) ** 0.5).detach() * ce
    (want,) = torch.autograd.grad(frozen.mean(), logits)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_subgradient_at_a_tie_belongs_to_the_first_maximum():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    losses = EpsCELoss(m=9).per_sample(logits, torch.tensor([0, 1]))
    f = torch.tensor([(1 / 3 + 9) / 10, 1 / 30], dtype=torch.float64)
    torch.testing.assert_close(losses, -f.log())
    (g,) = torch.autograd.grad(losses.sum(), logits)
    w = torch.tensor([(1 / 3) / (1 / 3 + 9), 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        g, w[:, None] * (1 / 3 - torch.eye(3, dtype=torch.float64)[:2])
    )


def test_backward_twice_gives_equal_gradients(make):
    logits, y = batch()
    logits.requires_grad_()
    value = make()(logits, y)
    (a,) = torch.autograd.grad(value, logits, retain_graph=True)
    a = a.clone()
    (b,) = torch.autograd.grad(value, logits, retain_graph=True)
    assert torch.equal(a, b)


def test_a_start_at_zero_is_left():
    "At p = 1/2 the slope is one, too: two classes begin there."
    for loss, want in ((losses.NLNLLoss(), 0.5), (losses.LDRLoss(), 0.3787)):
        h = torch.zeros(1, 2, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(h, torch.tensor([0])), h)
        torch.testing.assert_close(
            slope, want * torch.tensor([[-1.0, 1]]), rtol=1e-3, atol=0
        )


# ---- large batches go in blocks ----------------------------------------------

LARGE = [(300, 100), (3, 6000), (2, 500, 4, 9)]


def in_blocks(loss, monkeypatch, *inputs):
    with monkeypatch.context() as patch:
        patch.setattr("epsbook.losses.blocks._BLOCK", 10_000)
        patch.setattr("epsbook.losses.blocks._PART", 4_000)
        return loss(*inputs)


#: Losses whose gradient is computed with the loss, block by block.
SLOPES = {
    "nfl": losses.NFLLoss,
    "nnfl": partial(losses.NNFLLoss, tau=1e-5),
    "ldr": losses.LDRLoss,
    "sum with nfl": lambda **o: losses.NFLLoss(**o) + 3 * MAELoss(**o),
}
IN_BLOCKS = {n: CASES[n] for n in ("ce", "eps_ce", "sum", "mixed")} | SLOPES
IN_BLOCKS["nfl as released"] = partial(losses.NFLLoss, detach_factor=True)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_change_nothing(shape, name, monkeypatch):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=g, dtype=torch.float64)
    n, k, *rest = shape
    y = torch.randint(k, (n, *rest), generator=g)
    logits[0, 3] = logits[0, 1] = 9  # a tie: the label is the second, then the first
    y[0] = 3
    logits.requires_grad_()
    for target in (y, torch.where(y == 3, 1, y)):
        for reduction in ("mean", "none"):
            loss = IN_BLOCKS[name](reduction=reduction)
            a, b = loss(logits, target), in_blocks(loss, monkeypatch, logits, target)
            torch.testing.assert_close(a, b)
            (u,), (v,) = (torch.autograd.grad(x.sum(), logits) for x in (a, b))
            torch.testing.assert_close(u, v)


@pytest.fixture
def small_blocks(monkeypatch):
    "Every batch is large, and a block has two samples of five classes."
    monkeypatch.setattr("epsbook.losses.blocks._BLOCK", 5)
    monkeypatch.setattr("epsbook.losses.blocks._PART", 10)


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_of_blocks_have_slopes_and_stay(name, small_blocks):
    h, y = batch(7, 5)
    h.requires_grad_()
    loss = SLOPES[name](weight=torch.rand(5, dtype=torch.float64), reduction="none")
    assert torch.autograd.gradcheck(lambda x: loss(x, y), h)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y), h)
    value = loss(h, y).sum()
    once, again = (
        torch.autograd.grad(value, h, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(once, again)
    with torch.no_grad():
        torch.testing.assert_close(loss(h, y).sum(), value)


@pytest.mark.parametrize("name", SLOPES)
def test_an_ignored_nan_reaches_no_other_block(name, small_blocks):
    h, y = batch(7, 5)
    rest = h[1:].clone().requires_grad_()
    (want,) = torch.autograd.grad(SLOPES[name]()(rest, y[1:]), rest)
    h[0], y[0] = math.nan, -100
    (got,) = torch.autograd.grad(SLOPES[name]()(h.requires_grad_(), y), h)
    torch.testing.assert_close(got[1:], want)


def test_a_hook_on_the_logits_is_called_once(small_blocks):
    h, y = batch(7, 5)
    h.requires_grad_()
    heard = []
    h.register_hook(lambda g: heard.append(1) or 2 * g)
    losses.LDRLoss()(h, y).backward(create_graph=True)
    once = h.grad.detach() / 2
    assert heard == [1]
    plain = h.detach().clone().requires_grad_()
    losses.LDRLoss()(plain, y).backward()
    torch.testing.assert_close(once, plain.grad)


def test_blocks_do_not_run_a_checkpointed_network_again(small_blocks):
    h, y = batch(7, 5)
    ran = []

    def network(x):
        ran.append(1)
        return losses.NFLLoss()(2 * x, y)

    x = h.requires_grad_()
    torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False).backward()
    assert len(ran) == 2


def test_what_a_loss_learns_is_not_lost_in_blocks(small_blocks):
    class Warm(losses.NFLLoss):
        def __init__(self):
            super().__init__()
            self.heat = torch.nn.Parameter(torch.tensor(2.0).double())

        def _parts(self, logits):
            return super()._parts(logits * self.heat)

    h, y = batch(7, 5)
    loss = Warm()
    loss(h.requires_grad_(), y).backward()
    assert loss.heat.grad.abs() > 0


@pytest.mark.parametrize("shape", [(400, 5), (9, 1000), (50, 6, 2, 3)])
def test_the_largest_logit_is_found_as_by_argmax(shape, monkeypatch):
    g = torch.Generator().manual_seed(0)
    n, k, *rest = shape
    # Whole numbers tie often; some rows have a p_y above 1/2, some an infinite gap.
    logits = torch.randint(3, shape, generator=g).double()
    logits[::3] *= 20
    logits[1, 1:] = -math.inf
    y = torch.randint(k, (n, *rest), generator=g)
    loss = EpsCELoss(m=9, reduction="none")
    monkeypatch.setattr("epsbook.losses.curve._SEARCHED", 10**9)
    by_place = loss(logits, y)
    monkeypatch.setattr("epsbook.losses.curve._SEARCHED", 0)
    assert torch.equal(loss(logits, y), by_place)


def test_blocks_have_second_derivatives(monkeypatch):
    logits, y = batch(300, 100)
    logits.requires_grad_()
    loss = CASES["sum"]()
    values = loss(logits, y), in_blocks(loss, monkeypatch, logits, y)
    assert [type(v.grad_fn).__name__ for v in values] == [
        "_CurveBackward",
        "_BlocksBackward",
    ]
    both = []
    for value in values:
        (g,) = torch.autograd.grad(value, logits, create_graph=True)
        both += torch.autograd.grad(g.pow(2).sum(), logits)
    torch.testing.assert_close(*both)


def test_blocks_backward_twice():
    logits, y = batch(300, 1000)
    value = CASES["sum"]()(logits.requires_grad_(), y)
    (a,) = torch.autograd.grad(value, logits, retain_graph=True)
    kept = a.clone()
    (b,) = torch.autograd.grad(value, logits)
    assert torch.equal(kept, b) and torch.equal(a, b)


# ---- torch's transformations ------------------------------------------------


def test_vmap_grad_and_hessian(make):
    logits, y = batch()
    loss = make()
    per_sample = vmap(grad(lambda x, t: loss(x, t)))(logits, y)
    x = logits.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss.per_sample(x, y).sum(), x)
    torch.testing.assert_close(per_sample, want)
    over_targets = vmap(lambda t: grad(lambda x: loss(x, t))(logits))
    assert over_targets(torch.stack([y, y.flip(0)])).shape == (2, *logits.shape)
    both = [
        h(lambda x: loss(x, y))(logits) for h in (hessian, lambda f: jacrev(jacrev(f)))
    ]
    torch.testing.assert_close(*both)


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_a_break(make):
    logits, y = batch()
    logits.requires_grad_()
    loss = make()
    fast = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = fast(logits, y), loss(logits, y)
    torch.testing.assert_close(got, want)
    (a,), (b,) = (torch.autograd.grad(v, logits) for v in (got, want))
    torch.testing.assert_close(a, b)


class CountSoftmax(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        self.calls += "softmax" in name and "backward" not in name
        return func(*args, **(kwargs or {}))


def test_a_sum_is_one_softmax_pass():
    logits, y = batch()
    logits.requires_grad_()
    loss = 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss() - CELoss() / 2
    with CountSoftmax() as count:
        loss(logits, y).backward()
    assert count.calls == 1


# ---- the interface of torch.nn.CrossEntropyLoss -----------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 5, 3, 4)])
@pytest.mark.parametrize("soft", [False, True])
def test_ce_is_torchs(reduction, weighted, shape, soft):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=g, dtype=torch.float64)
    dim = 0 if len(shape) == 1 else 1
    if soft:
        target = torch.randn(shape, generator=g, dtype=torch.float64).softmax(dim)
    else:
        spatial = [s for i, s in enumerate(shape) if i != dim]
        target = torch.randint(5, spatial, generator=g)
    w = torch.tensor([1.0, 2, 0.5, 0, 3]).double() if weighted else None
    got = CELoss(weight=w, reduction=reduction)(logits, target)
    want = F.cross_entropy(logits, target, w, reduction=reduction)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore", [-100, -1, 2])
def test_ignore_index_is_torchs(reduction, ignore):
    logits, y = batch(8)
    y[[1, 4]] = ignore
    w = torch.arange(1.0, 6).double()
    for weight in (None, w):
        loss = CELoss(weight=weight, ignore_index=ignore, reduction=reduction)
        want = F.cross_entropy(
            logits, y, weight, ignore_index=ignore, reduction=reduction
        )
        torch.testing.assert_close(loss(logits, y), want, rtol=1e-12, atol=0)


def test_all_ignored_is_nan_and_an_ignored_nan_does_no_harm(make):
    logits, y = batch()
    assert make()(logits, torch.full_like(y, -100)).isnan()
    logits[2], y[2] = torch.nan, -100
    assert make()(logits, y).isfinite()


def test_one_hot_probabilities_are_labels(make):
    logits, y = batch()
    hot = F.one_hot(y, 5).double()
    torch.testing.assert_close(make()(logits, hot), make()(logits, y))


def test_dense_inputs_are_flattened_ones(make):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, generator=g, dtype=torch.float64)
    y = torch.randint(5, (2, 3, 4), generator=g)
    flat = make().per_sample(logits.movedim(1, -1).reshape(-1, 5), y.flatten())
    torch.testing.assert_close(make().per_sample(logits, y).flatten(), flat)


def test_per_class_holds_every_label(make):
    logits, y = batch()
    every = make().per_class(logits)
    picked = every.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(picked, make().per_sample(logits, y))


def test_one_line_swapped_trains():
    torch.manual_seed(0)
    x, y = torch.randn(200, 4), torch.randint(3, (200,))
    x[range(200), y] += 3
    for criterion in (torch.nn.CrossEntropyLoss(), CASES["sum"]()):
        net = torch.nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            optimizer.step()
        assert (net(x).argmax(1) == y).float().mean() > 0.9


# ---- numbers ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_are_those_of_cross_entropy(make, dtype):
    logits, y = batch(dtype=dtype)
    want = F.cross_entropy(logits, y).dtype
    assert make()(logits, y).dtype == want
    with torch.autocast("cpu"):
        assert make()(logits, y).dtype == F.cross_entropy(logits, y).dtype
    exact = make()(logits.double(), y)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        make()(logits, y).double(), exact, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1, 100, 1e4])
def test_extreme_logits_stay_finite(make, dtype, spread):
    logits, y = batch(64, 10, dtype)
    logits = (spread * logits / logits.abs().max()).requires_grad_()
    value = make().per_sample(logits, y)
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all() and g.isfinite().all()


def test_second_derivatives_stay_finite_for_sure_samples(make):
    logits = torch.tensor([[40.0, 0, 0], [0, 40, 0]], dtype=torch.float64)
    x = logits.requires_grad_()
    (g,) = torch.autograd.grad(make()(x, torch.tensor([0, 0])), x, create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), x)
    assert h.isfinite().all()


def test_nan_logits_give_a_nan_loss(make):
    logits, y = batch()
    logits[0, 1] = torch.nan
    assert make()(logits, y).isnan()


def test_no_float32_leaks_into_float64():
    logits, y = batch(16, 10)
    for loss in (CASES["sum"](), CASES["eps_focal"]()):
        narrow = loss(logits.float().double(), y)
        assert abs(narrow - loss(logits.float(), y)) > 0  # float32 does differ
        assert narrow.dtype == torch.float64


# ---- arithmetic -------------------------------------------------------------


def test_sums_print_as_their_formula_and_flatten():
    a, b = EpsCELoss(m=1e5), MAELoss()
    loss = 2 * (0.01 * a + 5 * b) - CELoss() / 4
    text = "0.02 * EpsCELoss(m=100000, tau=1e-08) + 10 * MAELoss() - 0.25 * CELoss()"
    assert repr(loss) == text
    assert repr(eval(text)) == text
    assert all(isinstance(t, CurveLoss) for t in loss.losses)
    assert repr(LossSum([(3, loss)])).startswith("0.06 * EpsCELoss")


def test_changed_options_and_parameters_are_shown_and_used():
    loss = EpsCELoss(m=10, ignore_index=3, reduction="sum")
    assert repr(loss) == "EpsCELoss(m=10, tau=1e-08, ignore_index=3, reduction='sum')"
    logits = torch.tensor([[40.0, 0, 0]], dtype=torch.float64)
    loss.tau = 0.0
    assert loss(logits, torch.tensor([1])) > 40
    for name, wrong, error in [
        ("reduction", "men", ValueError),
        ("ignore_index", "x", TypeError),
        ("weight", torch.tensor([1.0, -2, 3]), ValueError),
    ]:
        with pytest.raises(error, match=f"{name} must be"):
            setattr(loss, name, wrong)
    assert repr(loss).endswith("reduction='sum')") and loss.weight is None
    loss.weight = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    assert loss(logits, torch.tensor([1])) > 80


def test_labels_as_floats_are_told_what_to_become():
    with pytest.raises(ValueError, match=r"if these are labels, use target.long\(\)"):
        GCELoss()(torch.randn(4, 5), torch.ones(4))


def test_arithmetic_is_linear(make):
    logits, y = batch()
    a, b = make(), MAELoss()
    la, lb = a(logits, y), b(logits, y)
    for loss, want in [
        (a + b, la + lb),
        (a - b, la - lb),
        (-a, -la),
        (a / 4, la / 4),
        (3 * a, 3 * la),
        (a * 3, 3 * la),
        (sum([a, b, a]), 2 * la + lb),
    ]:
        torch.testing.assert_close(loss(logits, y), want)


def test_terms_must_agree_on_options():
    w = torch.ones(5)
    assert MAELoss(weight=w) + CELoss(weight=w.clone())
    for options in ({"reduction": "sum"}, {"ignore_index": 3}, {"weight": w}):
        (name,) = options
        with pytest.raises(ValueError, match=f"agree on {name}"):
            CELoss() + MAELoss(**options)


@pytest.mark.parametrize("other", [1, "x", None, torch.ones(2)])
def test_only_losses_are_added(other):
    for sum_of in (lambda: CELoss() + other, lambda: CELoss() - other):
        with pytest.raises(TypeError):
            sum_of()


@pytest.mark.parametrize("factor", ["x", None, torch.ones(2), MAELoss()])
def test_only_numbers_multiply(factor):
    with pytest.raises(TypeError):
        CELoss() * factor


def test_numpy_numbers_multiply_from_both_sides():
    assert repr(np.float64(0.5) * CELoss()) == repr(CELoss() * np.float32(0.5))


def test_state_and_copies(make):
    w = torch.arange(1.0, 6)
    loss = make(weight=w)
    twin = make(weight=torch.ones(5))
    twin.load_state_dict(loss.state_dict())
    logits, y = batch()
    torch.testing.assert_close(twin(logits, y), loss(logits, y))
    torch.testing.assert_close(copy.deepcopy(loss)(logits, y), loss(logits, y))


def test_a_bad_answer_does_not_stay_in_the_memory():
    loss = ELRLoss(num_samples=4, num_classes=5)
    logits, y = batch(3)
    index = torch.tensor([0, 1, 3])
    loss(logits, y, index=index)
    kept = loss.targets.clone()
    bad = logits.clone()
    bad[1] = torch.nan
    assert loss(bad, y, index=index).isnan()
    assert torch.equal(loss.targets[1], kept[1]) and loss.targets.isfinite().all()
    assert not torch.equal(loss.targets[0], kept[0]) and (loss.targets[2] == 0).all()


def test_asymmetric_losses_near_the_end_of_their_range():
    x = torch.tensor([[30.0, 0]], requires_grad=True)
    (g,) = torch.autograd.grad(AULLoss(a=1 + 1e-6, q=0.1)(x, torch.tensor([0])), x)
    assert g.isfinite().all()
    with torch.device("meta"):
        h = torch.zeros(2, 5)
    assert BackwardLoss(transition=T).to("meta").per_class(h).shape == (2, 5)


# ---- ε-softmax --------------------------------------------------------------


@pytest.mark.parametrize("m", [0, 0.5, 1e2, 1e5])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_eps_softmax_by_hand(m, dim):
    logits, _ = batch()
    p = logits.softmax(dim).movedim(dim, -1).reshape(-1, logits.shape[dim])
    for row in p:
        row[row.argmax()] += m
    got = eps_softmax(logits, m, dim).movedim(dim, -1).reshape(p.shape)
    torch.testing.assert_close(got, p / (m + 1))


@pytest.mark.parametrize("k", [2, 3, 10, 1000])
def test_epsilon_bounds_every_output_and_is_reached(k):
    logits, _ = batch(500, k)
    for m in (0, 1, 1e4):
        f = eps_softmax(logits, m)
        corner = F.one_hot(f.argmax(1), k)
        assert ((f - corner).norm(dim=1) <= epsilon(m, k) * (1 + 1e-12)).all()
        f = eps_softmax(torch.zeros(1, k, dtype=torch.float64), m)
        reached = (f - F.one_hot(f.argmax(1), k)).norm()
        assert abs(reached - epsilon(m, k)) < 1e-12


def test_limits_are_identities():
    logits, y = batch(50, 10)
    ce = CELoss().per_sample(logits, y)
    zero = EpsCELoss(m=0, tau=0).per_sample(logits, y)
    torch.testing.assert_close(zero, ce, rtol=1e-12, atol=1e-14)
    focal = EpsFocalLoss(m=1e3, gamma=0).per_sample(logits, y)
    torch.testing.assert_close(focal, EpsCELoss(m=1e3).per_sample(logits, y))
    torch.testing.assert_close(eps_softmax(logits, 0), logits.softmax(1))


# ---- bad input --------------------------------------------------------------

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])


@pytest.mark.parametrize(
    ("logits", "target", "kind", "says"),
    [
        (X.long(), Y, TypeError, "floating-point"),
        ([[0.0, 1]], Y, TypeError, "floating-point tensor, got list"),
        (X, [0, 1, 2, 2], TypeError, "target must be a tensor"),
        (X, Y.int(), TypeError, r"use target.long\(\)"),
        (X, Y.bool(), TypeError, "int64"),
        (X, Y.float(), ValueError, r"probabilities of shape \(4, 3\)"),
        (X, Y[:3], ValueError, r"labels of shape \(4,\), got \(3,\)"),
        (X, Y[:, None], ValueError, r"labels of shape \(4,\)"),
        (X[:, :1], Y, ValueError, "at least 2 classes"),
        (torch.tensor(1.0), Y, ValueError, r"shape \(N, C"),
        (X, Y + 1, ValueError, "in 0..2 or equal ignore_index=-100, got 3"),
        (X, Y - 1, ValueError, "got -1"),
        (X[:0], Y[:0], ValueError, "empty batch"),
        (X, Y.to("meta"), ValueError, "target is on meta"),
    ],
)
def test_bad_input_names_the_fix(make, logits, target, kind, says):
    with pytest.raises(kind, match=says):
        make()(logits, target)


@pytest.mark.parametrize(
    ("build", "kind", "says"),
    [
        (lambda: EpsCELoss(m=-1), ValueError, "m must be finite and in"),
        (lambda: EpsCELoss(m=float("inf")), ValueError, "m must be finite"),
        (lambda: EpsCELoss(m="1e5"), TypeError, "m must be a number, got str"),
        (lambda: EpsCELoss(m=1, tau=1), ValueError, "tau"),
        (lambda: EpsFocalLoss(m=1, gamma=-1), ValueError, "gamma"),
        (lambda: CELoss(reduction="avg"), ValueError, 'must be "mean"'),
        (lambda: CELoss(weight=torch.ones(2))(X, Y), ValueError, r"shape \(3,\)"),
        (lambda: CELoss(weight=[1, 1, 1]), TypeError, "weight must be a tensor"),
        (lambda: CELoss(weight=torch.tensor([1, 1, 1])), TypeError, "floating-point"),
        (lambda: CELoss(weight=-torch.ones(3)), ValueError, "not negative"),
        (lambda: CELoss(ignore_index=1.5), TypeError, "ignore_index"),
        (lambda: EpsCELoss(m=True), TypeError, "m must be a number, got bool"),
        (lambda: EpsCELoss(m=10**400), ValueError, "m must be finite"),
        (lambda: eps_softmax(X, 1e39), ValueError, "m must be finite and in"),
        (lambda: EpsFocalLoss(m=1, detach_factor="no"), TypeError, "a bool"),
        (lambda: CurveLoss()(X, Y), NotImplementedError, "must define phi"),
        (lambda: LossSum([(1, torch.nn.MSELoss())]), TypeError, "epsbook losses"),
        (lambda: CELoss(ignore_index=2)(X, X.softmax(1)), ValueError, "labels"),
        (lambda: LossSum([]), ValueError, "at least one term"),
        (lambda: float("nan") * CELoss(), ValueError, "coefficient"),
        (lambda: CELoss() / 0, ValueError, "zero"),
        (lambda: eps_softmax(X, -1), ValueError, "m must be"),
        (lambda: eps_softmax(X.long(), 1), TypeError, "floating-point"),
        (lambda: epsilon(1, 1), ValueError, "num_classes"),
        (lambda: epsilon(1, 2.5), TypeError, "must be an integer"),
    ],
)
def test_bad_parameters_name_the_fix(build, kind, says):
    with pytest.raises(kind, match=says):
        build()


def test_m_has_no_default():
    for cls in (EpsCELoss, EpsFocalLoss):
        with pytest.raises(TypeError, match="m"):
            cls()


def test_empty_batch_sums_to_zero(make):
    assert make(reduction="sum")(X[:0], Y[:0]) == 0
    assert make(reduction="none")(X[:0], Y[:0]).shape == (0,)


def bare_supers(source):
    "Lines of `super()` without a name after it."
    nodes = list(ast.walk(ast.parse(source)))
    followed = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super":
            if node not in followed:
                yield node.lineno


def test_super_is_followed_by_a_name():
    # From Python 3.12 on, torch.compile does not follow getattr(super(), name).
    assert list(bare_supers("super().f()\ng(super(), 'f')")) == [2]
    files = Path(losses.__file__).parent.glob("*.py")
    found = {f.name: list(bare_supers(f.read_text("utf-8"))) for f in files}
    assert len(found) > 10 and not any(found.values()), found


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@torch.compiler.config.patch(force_disable_caches=True)
def test_compiles_to_machine_code():
    # The cache outlives the settings under which its code was right.
    torch.compiler.reset()  # other tests have compiled the same function
    logits, y = batch(32, 10)
    loss = CASES["sum"]()
    fast = torch.compile(loss, fullgraph=True)
    got, want = fast(logits.requires_grad_(), y), loss(logits, y)
    torch.testing.assert_close(got, want)
    (a,), (b,) = (torch.autograd.grad(v, logits) for v in (got, want))
    torch.testing.assert_close(a, b)


# Beside what the authors run -------------------------------------------------


def official_negative(logits, labels, draws):
    "The authors' mean over all draws, times their number, over the samples."
    s = (1 - logits.softmax(-1)).clamp(1e-5, 1).log().repeat(len(draws), 1)
    nll = torch.nn.functional.nll_loss(s, draws.reshape(-1))
    return nll * draws.numel() / len(labels)


@pytest.mark.parametrize("n", [1, 7, 110])
def test_negative_learning_times_its_draws_is_the_authors(n):
    g = torch.Generator().manual_seed(0)
    h = torch.randn(20, 10, generator=g).double()
    y = torch.randint(10, (20,), generator=g)
    seeded = torch.Generator().manual_seed(5)
    ours = (n * losses.NLNLLoss(num_draws=n, generator=seeded))(h, y)
    again = torch.Generator().manual_seed(5)
    shift = torch.randint(1, 10, (n, 20, 1), generator=again)[..., 0]
    torch.testing.assert_close(ours, official_negative(h, y, (y + shift) % 10))


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_negative_losses_have_the_authors_floor_as_an_option(gamma):
    h = 5 * torch.randn(20, 10, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(20) % 10
    log_p = h.log_softmax(1).clamp_min(math.log(1e-7))
    lost = -((1 - log_p.exp()) ** gamma) * log_p
    most = -((1 - 1e-7) ** gamma) * math.log(1e-7)
    want = 1 - (most - lost[range(20), y]) / (10 * most - lost.sum(1))
    found = losses.NNFLLoss(gamma=gamma, tau=1e-7)(h, y)
    torch.testing.assert_close(found, want.mean())
    assert (found - losses.NNFLLoss(gamma=gamma)(h, y)).abs() > 1e-6
