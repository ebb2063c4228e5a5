"""Every claim of the catalog is proved on numbers, or refuted by an example."""

import math

import pandas
import pytest
import torch

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
    DMILoss,
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
    MAELoss,
    MSELoss,
    NCELoss,
    NFLLoss,
    NLNLLoss,
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
    catalogue,
)
from epsbook.losses.catalog import loss_classes
from epsbook.theory.risk import random_distributions, simplex_grid

K = 3
T = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]]).double()
LOG = -math.log(1e-4)
CLASSES = loss_classes()


def elr(lam=3.0):
    loss = ELRLoss(num_samples=1, num_classes=K, lam=lam).eval()
    loss.targets[:] = torch.tensor([0.2, 0.5, 0.1])
    return loss


def each(loss, logits):
    "The loss of each label, (N, K); ELR with its one remembered sample."
    index = torch.zeros(len(logits), dtype=torch.long)
    return loss.per_class(logits, index=index)


def answers(n=200, k=K, spread=5):
    g = torch.Generator().manual_seed(0)
    return spread * torch.randn(n, k, generator=g, dtype=torch.float64)


def kind_of(loss):
    return next(c.__name__ for c in type(loss).__mro__ if c.__name__ in CLASSES)


def agrees(found, loss, name, expected):
    "What was found is what was expected, and the claim does not deny it."
    words = getattr(CLASSES[kind_of(loss)].properties, name)
    assert bool(found) == expected, (loss, name)
    assert words.split(",")[0] != ("no" if expected else "yes"), (loss, words)


def needed(words):
    "The outcomes that examples of a claim must show."
    fixed = {"yes": {True}, "no": {False}, "batch": set()}
    if words.startswith("of the clean labels"):
        return {True}
    return fixed.get(words.split(",")[0], {True, False})


@pytest.mark.parametrize("name", ["symmetric", "asymmetric", "bounded", "all_k"])
def test_every_claim_has_its_examples(name):
    seen = {kind: set() for kind in CLASSES}
    for loss, truth in EXAMPLES[name]:
        seen[kind_of(loss)].add(truth is not None and truth is not False)
    for kind, cls in CLASSES.items():
        words = getattr(cls.properties, name)
        # A bound is a formula, with or without a condition.
        bound = name == "bounded" and words != "no"
        want = {True, False} if " if " in words else {True}
        assert seen[kind] == (want if bound else needed(words)), (kind, words)


# ---- symmetric: the losses of all labels add up to a constant ---------------

SYMMETRIC = [
    (CELoss(), False),
    (MAELoss(), True),
    (MSELoss(), False),
    (FocalLoss(), False),
    (ClippedCELoss(max_loss=2), False),
    (GCELoss(q=0.7), False),
    (GCELoss(q=1), True),
    (GCELoss(q=1, tau=0.1), False),
    (RCELoss(), True),
    (SCELoss(a=0.1, b=1), False),
    (SCELoss(a=0, b=1), True),
    (NCELoss(), True),
    (NFLLoss(), True),
    (NNCELoss(), True),
    (NNFLLoss(), True),
    (AGCELoss(a=0.6, q=0.6), False),
    (AGCELoss(a=0.6, q=1), True),
    (AULLoss(a=5.5, q=3), False),
    (AULLoss(a=5.5, q=1), True),
    (AELLoss(a=2.5), False),
    (EpsCELoss(m=1e5), False),
    (EpsFocalLoss(m=1e5), False),
    (LDRLoss(), False),
    (LogitClipLoss(max_norm=1), False),
    (NLNLLoss(num_draws=None), False),
    (GLSLoss(r=-1), False),
    (ForwardLoss(transition=T), False),
    (ForwardLoss(transition=T[[2, 2, 2]]), True),
    (BackwardLoss(transition=T), False),
    (NoiseAdaptationLoss(noise_rate=0.3, inclusive=True), False),
    (BootstrapLoss(beta=0.8), False),
    (BootstrapLoss(beta=0), False),
    (elr(), False),
    (TaylorCELoss(order=1), True),
    (TaylorCELoss(order=2), False),
    (JSLoss(pi=0.5), False),
    (BoundedVariationCELoss(a=1), False),
    (TruncatedGCELoss(), False),
    (TruncatedGCELoss(q=1), False),
    (TemperatureCELoss(temperature=0.5), False),
    (BiTemperedLoss(t1=0, t2=1), False),
    (BiTemperedLoss(t1=0.5, t2=2), False),
    (AMSELoss(a=30), False),
    (SparsityLoss(p=0.1), False),
]


@pytest.mark.parametrize(("loss", "truth"), SYMMETRIC, ids=repr)
def test_symmetric(loss, truth):
    total = each(loss, answers()).sum(1)
    found = (total.max() - total.min()).item() < 1e-9
    agrees(found, loss, "symmetric", truth)


# ---- bounded: by how much, and reached --------------------------------------

BOUNDED = [
    (CELoss(), None),
    (MAELoss(), 2),
    (MSELoss(), 2),
    (FocalLoss(), None),
    (ClippedCELoss(max_loss=2), 2),
    (GCELoss(q=0.7), 1 / 0.7),
    (GCELoss(q=0), None),
    (GCELoss(q=0.7, tau=0.01), (1 - 0.01**0.7) / 0.7),
    (GCELoss(q=0, tau=0.01), math.log(100)),
    (RCELoss(), LOG),
    (SCELoss(a=0.1, b=1), None),
    (SCELoss(a=0, b=2), 2 * LOG),
    (NCELoss(), 1),
    (NFLLoss(), 1),
    (NNCELoss(), 1),
    (NNFLLoss(), 1),
    (AGCELoss(a=0.6, q=0.6), (1.6**0.6 - 0.6**0.6) / 0.6),
    (AULLoss(a=5.5, q=3), (5.5**3 - 4.5**3) / 3),
    (AELLoss(a=2.5), 1),
    (EpsCELoss(m=1e5), 8 * math.log(10)),
    (EpsCELoss(m=1e5, tau=0), None),
    (EpsFocalLoss(m=10, gamma=2), (1 - 1e-8) ** 2 * 8 * math.log(10)),
    (EpsFocalLoss(m=10, tau=0), None),
    (LDRLoss(), math.log((math.exp(3.1) + math.exp(0.1) + 1) / K)),
    (LogitClipLoss(max_norm=1), math.log(1 + 2 * math.exp(math.sqrt(1.5)))),
    (  # with a large radius one label alone is the worst
        LogitClipLoss(max_norm=10),
        math.log(1 + math.exp(200**0.5) + math.exp(50**0.5)),
    ),
    *(
        (LogitClipLoss.as_released(delta=d), math.log(1 + 2 * math.exp(6**0.5)))
        for d in (0.5, 2)
    ),
    (NLNLLoss(num_draws=None), None),
    (GLSLoss(r=0.1), None),
    (ForwardLoss(transition=T), -math.log(0.1)),
    (ForwardLoss(transition=torch.eye(K)), None),
    (BackwardLoss(transition=T), None),
    (NoiseAdaptationLoss(noise_rate=0.3, inclusive=True), math.log(10)),
    (NoiseAdaptationLoss(noise_rate=0, inclusive=True), None),
    (PeerLoss(), None),
    (BootstrapLoss(beta=0.8), None),
    (BootstrapLoss(beta=0.1, hard=True), None),
    (BootstrapLoss(beta=0), math.log(K)),
    (BootstrapLoss(beta=0, hard=True), math.log(K)),
    (elr(), None),
    (TaylorCELoss(order=4), 25 / 12),
    (JSLoss(pi=0.5), 2),
    (JSLoss(pi=0.9), 1 - 9 * math.log(0.9) / math.log(10)),
    (BoundedVariationCELoss(a=0.1), math.log(11)),
    (TruncatedGCELoss(), (1 - 0.5**0.7) / 0.7),
    (TruncatedGCELoss(q=0, k=0.1), math.log(10)),
    (TemperatureCELoss(temperature=2), None),
    (
        TemperatureCELoss(temperature=2, unit=True),
        math.log(1 + 2 * math.exp(0.375**0.5)),
    ),
    (BiTemperedLoss(t1=0.5, t2=1), 2),
    (BiTemperedLoss(t1=0, t2=1.5), 1),
    (BiTemperedLoss(t1=1, t2=1), None),
    (AMSELoss(a=30), 901 / K),
    (AMSELoss(a=0.5), 1.25 / K),
    (SparsityLoss(p=0.1), K**0.9),
    (SparsityLoss(p=0.3, tau=1e-7), K**0.7),
    (DMILoss(), 3 * math.log(10)),
    (DMILoss(tau=0), None),
]


def hardest(loss):
    "The largest loss over very sure answers of every direction, and two more."
    corners = torch.cartesian_prod(*[torch.tensor([-2.0, -1, 0, 1, 2])] * K).double()
    logits = torch.cat([s * corners for s in (1e-3, 1, 30, 1e3, 1e4)])
    short = corners[corners.any(1)]  # as long as the longest released clip keeps
    logits = torch.cat([logits, 1.9999 * short / short.norm(dim=1, keepdim=True)])
    if isinstance(loss, PeerLoss):
        return loss.per_sample(logits, logits.argmin(1)).max().item()
    if isinstance(loss, DMILoss):  # one number a batch; here of one class
        return loss(logits, torch.zeros(len(logits), dtype=torch.long)).item()
    return each(loss, logits).max().item()


@pytest.mark.parametrize(("loss", "bound"), BOUNDED, ids=repr)
def test_bounded(loss, bound):
    largest = hardest(loss)
    found = largest < 1e3
    agrees(found, loss, "bounded", bound is not None)
    if bound is not None:
        assert largest <= bound * (1 + 1e-9)
        assert largest >= (1 - 1e-3) * bound


# ---- asymmetric: the best answer is to be sure of the leading label ---------


def posterior(r):
    "Three label probabilities, the second r times the first, the third half."
    q = torch.tensor([1, r, r / 2], dtype=torch.float64)
    return q / q.sum()


def best_is_sure(loss, q):
    "Is the best answer to q, on a grid over all answers, sure of class 0?"
    p = simplex_grid(K, 60).double()
    # The rest of a sure answer: small enough for every floor.
    logits = p.clamp_min(1e-300).log()
    risk = (each(loss, logits) * q).sum(1)
    return p[risk.argmin(), 0] == 1


def clipped(r):
    return math.log(1 + 1 / r) + math.log(1 + r) / r


# r = 0.5: 1/r = 2.
ASYMMETRIC = [
    (CELoss(), False),
    (MAELoss(), True),
    (MSELoss(), False),
    (FocalLoss(), False),
    (ClippedCELoss(max_loss=0.98 * clipped(0.5)), True),
    (ClippedCELoss(max_loss=1.1 * clipped(0.5)), False),
    (GCELoss(q=0.7), False),
    (GCELoss(q=0.5, tau=0.05), False),
    (GCELoss(q=0.5, tau=0.06), True),  # (1.25 ** 0.5 - 1) / 0.5 = 0.0557 ** 0.5
    (GCELoss(q=1), True),
    (GCELoss(q=1, tau=0.3), True),
    (RCELoss(), True),
    (SCELoss(a=1, b=1), False),
    (SCELoss(a=0, b=1), True),
    (NFLLoss(), False),
    (NCELoss(), False),
    (NNCELoss(), True),
    (NNFLLoss(), True),
    (AGCELoss(a=0.6, q=2), True),
    (AGCELoss(a=1.1, q=0.01), True),  # (2.1 / 1.1) ** 0.99 = 1.9
    (AGCELoss(a=0.8, q=0.01), False),  # (1.8 / 0.8) ** 0.99 = 2.2
    (AULLoss(a=1.1, q=0.5), True),
    (AULLoss(a=2.1, q=2), True),  # 2.1 / 1.1 = 1.9
    (AULLoss(a=1.8, q=2), False),  # 1.8 / 0.8 = 2.25
    (AELLoss(a=1.6), True),  # e ** (1 / 1.6) = 1.87
    (AELLoss(a=1.2), False),  # e ** (1 / 1.2) = 2.3
    (EpsCELoss(m=1e3), False),
    (EpsCELoss(m=1e3, tau=0.45 / 1001), False),
    (EpsCELoss(m=1e3, tau=0.5 / 1001), True),
    (EpsCELoss(m=0, tau=0.14), False),  # 0.5 / 1.5 ** 3 = 0.148
    (EpsCELoss(m=0, tau=0.16), True),
    (EpsFocalLoss(m=1e3), False),
    (EpsFocalLoss(m=1e3, tau=0.5 / 1001), True),
    (NLNLLoss(num_draws=None), False),
    (GLSLoss(r=0.1), False),
    (ForwardLoss(transition=T), False),
    (ForwardLoss(transition=0.22 * torch.eye(K).double() + 0.26), True),
    (BackwardLoss(transition=T), False),
    (BootstrapLoss(beta=0.3), False),
    (BootstrapLoss(beta=0.3, hard=True), False),
    (elr(), False),
    (NoiseAdaptationLoss(noise_rate=0.78, inclusive=True), True),
    (NoiseAdaptationLoss(noise_rate=0.7, inclusive=True), False),
    (LDRLoss(), False),
    (LDRLoss(lam=10), True),  # e ** (-3 / 10) = 0.74
    (LogitClipLoss(max_norm=1), False),
    (TaylorCELoss(order=1), True),
    (TaylorCELoss(order=2), True),  # 2 <= 1 / 0.5
    (TaylorCELoss(order=3), False),
    (JSLoss(pi=0.5), False),
    (JSLoss(pi=0.9), False),
    (BoundedVariationCELoss(a=1.1), True),  # 2.1 / 1.1 = 1.9
    (BoundedVariationCELoss(a=0.9), False),  # 1.9 / 0.9 = 2.1
    (TruncatedGCELoss(), True),
    (TruncatedGCELoss(q=0.5, k=0.05), False),
    (TruncatedGCELoss(q=0.5, k=0.06), True),
    (TruncatedGCELoss(q=1, k=0.9), True),
    (TemperatureCELoss(temperature=0.5), False),
    (BiTemperedLoss(t1=0, t2=1), False),
    (BiTemperedLoss(t1=0.2, t2=1), False),
    (AMSELoss(a=1), False),
    (AMSELoss(a=3.4), False),  # (1 - 0.5) / 1.75 = 1 / 3.5
    (AMSELoss(a=3.6), True),
    (SparsityLoss(p=0.1), False),
]


@pytest.mark.parametrize(("loss", "truth"), ASYMMETRIC, ids=repr)
def test_asymmetric(loss, truth):
    if isinstance(loss, LDRLoss | LogitClipLoss):
        # No answer is sure: is the best answer the one to certain labels?
        h = answers(4000, spread=2)
        losses = each(loss, h)
        found = (losses * posterior(0.5)).sum(1).argmin() == losses[:, 0].argmin()
    elif isinstance(loss, NCELoss | NFLLoss):
        found = best_is_sure(loss, posterior(0.9))
    else:
        found = best_is_sure(loss, posterior(0.5))
    agrees(found, loss, "asymmetric", truth)


UNCONDITIONAL = [loss for loss, truth in ASYMMETRIC if truth]
UNCONDITIONAL = [
    x for x in UNCONDITIONAL if CLASSES[kind_of(x)].properties.asymmetric == "yes"
]


@pytest.mark.parametrize("loss", UNCONDITIONAL, ids=repr)
def test_asymmetric_for_every_posterior(loss):
    for q in random_distributions(50, K, generator=torch.Generator().manual_seed(0)):
        assert best_is_sure(loss, q.sort(descending=True).values)


def test_sure_answers_have_conditions_at_the_right_place():
    "Each condition, tried at many r on both sides of where it says."
    for r in torch.linspace(0.1, 0.95, 12).tolist():
        for a in (0.3, 1, 3):
            for loss, ratio in [
                (AELLoss(a=a), math.exp(1 / a)),
                (AGCELoss(a=a, q=0.5), ((a + 1) / a) ** 0.5),
                (AULLoss(a=a + 1, q=3), ((a + 1) / a) ** 2),
                (BoundedVariationCELoss(a=a), (a + 1) / a),
                (TaylorCELoss(order=round(a + 0.7)), round(a + 0.7)),
                (
                    NoiseAdaptationLoss(noise_rate=0.3 * a, inclusive=True),
                    1 / (0.1 * a) * (1 - 0.3 * a + 0.1 * a),
                ),
            ]:
                if abs(ratio * r - 1) > 0.15:  # the grid sees that much
                    assert best_is_sure(loss, posterior(r)) == (ratio * r <= 1)


def eps_ratio(m, tau):
    "Condition of clamped CE of the ε-softmax, as a ratio to 1 at many r."
    x = torch.linspace(1e-3, 0.5, 500).double()
    return lambda r: (x * (1 - x / (m + 1)) ** (1 / r)).max() / (tau * (m + 1))


def gce_ratio(q, tau):
    return lambda r: ((1 + r ** (1 / (1 - q))) ** (1 - q) - 1) / (r * tau**q)


@pytest.mark.parametrize(
    "loss, ratio",
    [
        (loss, ratio)
        for tau in (0.02, 0.1, 0.2, 0.3, 0.45)
        for loss, ratio in [
            *((GCELoss(q=q, tau=tau), gce_ratio(q, tau)) for q in (0.2, 0.5, 0.8)),
            *(
                (TruncatedGCELoss(q=q, k=2 * tau), gce_ratio(q, 2 * tau))
                for q in (0.2, 0.8)
            ),
            *(
                (EpsCELoss(m=m, tau=tau / (m + 1)), eps_ratio(m, tau / (m + 1)))
                for m in (0, 0.3, 2, 100)
            ),
        ]
    ],
    ids=lambda x: repr(x) if isinstance(x, torch.nn.Module) else "",
)
def test_floors_make_losses_asymmetric_where_they_say(loss, ratio):
    for r in torch.linspace(0.05, 0.98, 15).tolist():
        if abs(ratio(r) - 1) > 0.02:  # the grid sees that much
            assert best_is_sure(loss, posterior(r)) == (ratio(r) <= 1), r


@pytest.mark.parametrize("kind", [EpsCELoss, EpsFocalLoss])
@pytest.mark.parametrize("m", [0, 1, 1e3, 1e5])
def test_a_floor_of_one_half_makes_every_posterior_sure(kind, m):
    q = random_distributions(40, K, generator=torch.Generator().manual_seed(1))
    for row in q.sort(descending=True).values:
        assert best_is_sure(kind(m=m, tau=0.5 / (m + 1)), row)
    tied = torch.tensor([0.5, 0.4999, 0.0001]).double()
    assert not best_is_sure(kind(m=1e3, tau=0.49 / 1001), tied)


@pytest.mark.parametrize("k", [3, 4, 10])
@pytest.mark.parametrize(("c", "lam"), [(0, 1), (0.1, 2), (0, 10), (0.1, 10), (1, 100)])
def test_ldr_is_asymmetric_where_it_says(k, c, lam):
    "Its risk is convex in the scores: a first step decides, with all rivals at r."
    u, g = math.exp(k / lam), math.exp(c / lam)
    limit = (g * (u + k - 2) + 1) / (u * (u + (k - 1) * g))
    loss = LDRLoss(margin=c, lam=lam)
    sure = torch.full((k,), -200.0, dtype=torch.float64)
    sure[0] = 200
    step = sure.clone()
    step[1] = -6  # its softplus is 1/80,000 of the first
    logits = torch.stack([sure, step])
    for ratio in (0.98, 1.02):
        q = torch.tensor([1, *[ratio * limit] * (k - 1)]).double()
        risk = (each(loss, logits) * q).sum(1)
        assert (risk[0] <= risk[1]) == (ratio < 1), (limit, risk)


EVEN = 0.1 * torch.eye(K).double() + 0.9 / K


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (GLSLoss(r=-8), 9 * posterior(0.5) - 8 / K),
        (BackwardLoss(transition=EVEN), posterior(0.5) @ EVEN.inverse()),
    ],
    ids=repr,
)
def test_no_answer_is_best_where_the_catalog_says(loss, weights):
    "A label of negative weight: the less probable, the better, without end."
    assert weights.min() < 0
    logits = torch.zeros(5, K, dtype=torch.float64)
    logits[:, weights.argmin()] = -(10 ** torch.arange(5.0).double())
    risk = (each(loss, logits) * posterior(0.5)).sum(1)
    assert (risk.diff() < -1).all()


def test_forward_correction_is_asymmetric_where_it_says():
    g, seen = torch.Generator().manual_seed(2), set()
    for _ in range(200):
        t = random_distributions(K, K, generator=g) + 0.3
        t = t / t.sum(1, keepdim=True)
        q = random_distributions(1, K, generator=g)[0].sort(descending=True).values
        most = ((q * t / t[0]).sum(1))[1:].max().item()
        if abs(most - 1) > 0.02:
            seen.add(most < 1)
            assert best_is_sure(ForwardLoss(transition=t), q) == (most < 1)
    assert seen == {True, False}


# ---- all-k: the best answer ranks as the labels do --------------------------


def descend(loss, q, start, steps=60):
    "Least risk and softmax of the logits that reach it from `start`."
    h = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([h], max_iter=20, line_search_fn="strong_wolfe")

    def risk():
        optimizer.zero_grad()
        value = (each(loss, h.unsqueeze(0))[0] * q).sum()
        value.backward()
        return value

    for _ in range(steps):
        value = optimizer.step(risk).item()
    return value, h.detach().softmax(0)


def best_answer(loss, q):
    "The answer of least risk, from several starts."
    starts = answers(3, len(q), spread=0.3)
    return min((descend(loss, q, x) for x in starts), key=lambda found: found[0])[1]


def ranks(loss, q):
    "Is the order of the best answer that of q, with visible gaps?"
    p = best_answer(loss, q)
    if isinstance(loss, NCELoss | NFLLoss):
        # Their least risk is reached by no answer: a wrong order comes as close.
        h = torch.stack([p.log(), torch.tensor([0, 2, -torch.inf])])
        risk = (each(loss, h) * q).sum(1)
        return bool(risk[0] < risk[1])
    return bool((p[:-1] - p[1:] > 1e-4).all())


Q = torch.tensor([0.6, 0.25, 0.15]).double()
ALL_K = [
    (CELoss(), True),
    (MAELoss(), False),
    (MSELoss(), True),
    (FocalLoss(), True),
    (FocalLoss(gamma=2), True),
    (ClippedCELoss(max_loss=0.7), False),
    (GCELoss(q=0.3), True),
    (GCELoss(q=0.3, tau=0.4), False),
    (GCELoss(q=1), False),
    (RCELoss(), False),
    (SCELoss(a=1, b=0.1), True),
    (SCELoss(a=0, b=1), False),
    (NCELoss(), False),
    (NFLLoss(), False),
    (NNCELoss(), False),
    (NNFLLoss(), False),
    (AGCELoss(a=0.6, q=0.6), False),
    (AULLoss(a=5.5, q=3), False),
    (AELLoss(a=2.5), False),
    (EpsCELoss(m=0.2, tau=0), True),  # margin 0.35 > 1/6
    (EpsCELoss(m=0.2, tau=0.3), False),
    (EpsCELoss(m=10, tau=0), False),
    (EpsFocalLoss(m=0.2, tau=0), True),
    (EpsFocalLoss(m=10, tau=0), False),
    (LDRLoss(lam=10), False),
    (LogitClipLoss(max_norm=0.5), True),
    (LogitClipLoss(max_norm=5), True),
    (LogitClipLoss.as_released(delta=0.5), True),
    (LogitClipLoss.as_released(delta=3), True),
    (NLNLLoss(num_draws=None), True),
    (GLSLoss(r=0.3), True),
    (GLSLoss(r=-0.2), True),
    (GLSLoss(r=-4), False),
    (ForwardLoss(transition=T), True),
    (BackwardLoss(transition=T), True),
    (NoiseAdaptationLoss(noise_rate=0.3, inclusive=True), True),
    (BootstrapLoss(beta=0.3), True),
    (BootstrapLoss(beta=0.3, hard=True), True),
    (BootstrapLoss(beta=0), False),
    (elr(), False),
    (elr(lam=0.0), True),
    (TaylorCELoss(order=1), False),
    (TaylorCELoss(order=2), False),
    (JSLoss(pi=0.1), True),
    (JSLoss(pi=0.7), True),
    (BoundedVariationCELoss(a=1), False),
    (TruncatedGCELoss(), False),
    (TemperatureCELoss(temperature=0.3), True),
    (TemperatureCELoss(temperature=2, unit=True), True),
    (BiTemperedLoss(t1=0.3, t2=1), True),
    (BiTemperedLoss(t1=0.3, t2=2), True),
    (AMSELoss(a=0.5), True),
    (AMSELoss(a=1), True),
    (AMSELoss(a=30), False),
    (SparsityLoss(p=0.1), False),
]


@pytest.mark.parametrize(("loss", "truth"), ALL_K, ids=repr)
def test_all_k(loss, truth):
    q = Q
    if isinstance(loss, ForwardLoss | BackwardLoss):
        q = Q @ T
    elif isinstance(loss, NoiseAdaptationLoss):
        q = 0.7 * Q + 0.3 / K
    agrees(ranks(loss, q), loss, "all_k", truth)


def test_negative_learning_on_average_is_strictly_proper():
    for q in random_distributions(20, 4, generator=torch.Generator().manual_seed(0)):
        q = 0.9 * q + 0.1 / 4
        torch.testing.assert_close(
            best_answer(NLNLLoss(num_draws=None), q), q, atol=1e-4, rtol=0
        )


def test_bootstrapping_swaps_no_two_labels():
    "With hard votes the best answer is beta q + (1 - beta) e_t."
    for q in random_distributions(10, K, generator=torch.Generator().manual_seed(3)):
        q = (0.9 * q + 0.1 / K).sort(descending=True).values
        want = 0.4 * q + 0.6 * torch.eye(K)[0]
        found = best_answer(BootstrapLoss(beta=0.4, hard=True), q)
        torch.testing.assert_close(found, want, atol=1e-5, rtol=0)
        soft = best_answer(BootstrapLoss(beta=0.4), q)
        assert (soft.diff() <= 1e-9).all()


EXAMPLES = {
    "symmetric": SYMMETRIC,
    "asymmetric": ASYMMETRIC,
    "bounded": BOUNDED,
    "all_k": ALL_K,
}


# ---- the table itself -------------------------------------------------------


def test_the_catalog_is_complete():
    table = catalogue()
    assert set(table) == set(CLASSES) and len(table) == 36
    for name, entry in table.items():
        assert entry.loss == name and all(entry._replace(parameters="-", needs="-"))
        assert not any("\n" in text or "  " in text for text in entry), name
    assert list(pandas.DataFrame(table.values())) == [
        *("loss", "formula", "paper", "parameters"),
        *("symmetric", "asymmetric", "bounded", "all_k", "when", "group", "needs"),
    ]


def test_every_parameter_is_in_the_catalog():
    for row in catalogue().values():
        names = set(CLASSES[row.loss].ranges)
        if "correction" in CLASSES[row.loss].__module__:
            names |= {"transition"} - ({"transition"} if names else set())
        listed = [part.split(" ")[0] for part in row.parameters.split("; ")]
        assert names <= set(listed) and len(set(listed)) == len(listed), row.loss


def test_every_loss_says_when_to_take_it_in_one_line():
    said = {name: entry.when for name, entry in catalogue().items()}
    assert len(set(said.values())) == len(said)
    for name, when in said.items():
        assert 20 < len(when) < 140 and "\n" not in when and "|" not in when, name
        assert when[0].islower() and not when.endswith("."), name
    # Sums and warm-ups that the properties make necessary are named.
    for name in ("NCELoss", "EpsCELoss", "SparsityLoss", "TemperatureCELoss"):
        assert said[name].startswith("never"), name


def test_a_lead_that_is_forgiven_is_the_one_that_is_advised():
    "The parameters that three lines name are those of the conditions."
    for r in (0.3, 0.5, 0.8):
        for make, at in [
            (lambda a: AELLoss(a=a), 1 / math.log(1 / r)),
            (lambda a: BoundedVariationCELoss(a=a), r / (1 - r)),
        ]:
            assert best_is_sure(make(1.05 * at), posterior(r))
            assert not best_is_sure(make(0.85 * at), posterior(r))
    for t in (2, 3, 5):
        assert best_is_sure(TaylorCELoss(order=t), posterior(0.95 / t))
        assert not best_is_sure(TaylorCELoss(order=t), posterior(1.1 / t))
