"""Chapter 6: normalized losses and their sums."""

import itertools
import math

import torch
from claims.machine import (
    N,
    TINY,
    answers,
    check,
    differ,
    generator,
    squared,
    symmetric,
)
from claims.topk import posteriors

from epsbook.losses import (
    CELoss,
    EpsCELoss,
    FocalLoss,
    GCELoss,
    MAELoss,
    NCELoss,
    NFLLoss,
    NNCELoss,
    NNFLLoss,
)
from epsbook.noise import NoiseSpec
from epsbook.theory.risk import loss_table, random_distributions, random_problems


def risk(loss, p, q):
    "Expected loss of answers p, (..., k), for labels q."
    return (loss_table(loss, p.log()) * q).sum(-1)


def normalized(loss, by="all"):
    "The loss of each label over the sum of all, or what a mutant divides by."

    def table(logits):
        each = loss_table(loss, logits)
        total = each.sum(-1, keepdim=True)
        total = {"all": total, "others": total - each, "batch": total.mean()}[by]
        return each / total

    return table


@check(
    "Proposition 6.2",
    "divided by its sum over the labels, every loss is symmetric",
    "the sum of the other labels' losses",
    "each answer has its own sum (their mean)",
    "symmetric noise (pair noise)",
)
def divided(mutant=False, drop=""):
    wrong = total = ratio = 0
    by = "others" if mutant else "batch" if "mean" in drop else "all"
    losses = CELoss(), FocalLoss(gamma=2), GCELoss(q=0.7), EpsCELoss(m=10), squared
    for k, loss in itertools.product((2, 3, 10), losses):
        eta = 0.7 * (k - 1) / k
        T = symmetric(eta, k)
        if "pair" in drop:
            T = NoiseSpec.pair(0.4).transition(k)
        share = normalized(loss, by)
        problems = random_problems(N // 10, 3, k, seed=k)
        h = answers(2, N // 10, 3, k, seed=k)
        clean, noisy = problems.risk(share, h), problems.risk(share, h, T)
        claimed = (1 - eta * k / (k - 1)) * clean + eta / (k - 1)
        wrong += ((noisy - claimed).abs() > TINY).any(0).sum()
        total, ratio = total + len(clean[0]), max(ratio, (noisy / claimed).max())
    return wrong, total, None if drop or mutant else ratio


@check(
    "Proposition 6.3",
    "the gradient of NCE is that of cross-entropy on shifted labels, over the sum",
    "1.1 K for K",
    "the loss is NCE (NFL)",
)
def pull(mutant=False, drop=""):
    wrong, total, ratio = 0, 0, 0
    loss = NFLLoss(gamma=0.5) if drop else NCELoss()
    for k in (2, 3, 10):
        h = answers(N, k, seed=k)
        h[: N // 10] = 0  # the start
        q = random_distributions(N, k, generator=generator(k + 1))
        q[::2] = torch.eye(k).double()[q[::2].argmax(-1)]  # one label
        h.requires_grad_()
        r = (loss_table(loss, h) * q).sum(-1)
        (found,) = torch.autograd.grad(r.sum(), h)
        with torch.no_grad():
            log_p = h.log_softmax(-1)
            a, p, r = -log_p.sum(-1, keepdim=True), log_p.exp(), r[:, None]
            many = 1.1 * k if mutant else k
            claimed = ((1 - many * r) * p - (q - r)) / a
            claimed[: N // 10] = ((1 / k - q) / (many * math.log(k)))[: N // 10]
            off, _, most = differ(found, claimed)
            bad = ((found - claimed).abs() > TINY).any(-1)
        wrong, total = wrong + (bad.sum() if off else 0), total + N
        ratio = max(ratio, most)
    return wrong, total, ratio


@check(
    "Theorem 6.4",
    "a normalized unbounded loss only asks for the last label; two labels: for both",
    "0.9 of the right side",
    "the loss is unbounded (GCE)",
    "two labels, where a wrong argmax costs half the lead (three)",
)
def last_label(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, loss in itertools.product((2, 3, 10), (NCELoss(), NFLLoss(gamma=2))):
        q = posteriors(N // 2, k, k, least=0.01)
        q[::2, :-1] = q[::2, :1]  # all but the last label alike: tight
        q = q / q.sum(-1, keepdim=True)
        lead = q[:, 0] - q[:, -1]
        p = random_distributions(N // 2, k, generator=generator(k + 5)) + 0.1
        shown = normalized(GCELoss(q=0.7)) if "GCE" in drop else loss
        part = {NFLLoss: FocalLoss(gamma=2)}.get(type(loss), CELoss())
        for low in (1e-2, 1e-30, 1e-300):
            p[:, -1] = low * p[:, :-1].sum(-1)
            now = p / p.sum(-1, keepdim=True)
            excess = risk(shown, now, q) - q[:, -1]
            each = loss_table(part, now.log())
            bound = lead * each[:, :-1].sum(-1) / each[:, -1]
            bad = excess > (0.9 if mutant else 1) * bound + TINY
            bad |= (excess <= 0) & (bound > TINY)  # p of 1 leaves none
            bad |= excess < -TINY
            if low == 1e-300:
                bad |= excess > 0.08 * lead + TINY
            wrong, total = wrong + bad.sum(), total + len(q)
            clear = lead > 1e-3
            ratio = max(ratio, (excess / bound)[clear].max())
    for loss in (NCELoss(), NFLLoss(gamma=2)):
        k = 3 if "half" in drop else 2
        q = posteriors(N // 2, k, 7, least=0.01)
        p = random_distributions(N // 2, k, generator=generator(8)).clamp_min(1e-300)
        if k == 3:
            p[:, 2] = 1e-300
        p = p.sort(-1).values if k == 2 else p[:, [0, 1, 2]]
        p = torch.where((p[:, :1] > p[:, 1:2]), p[:, [1, 0, *range(2, k)]], p)
        p = p / p.sum(-1, keepdim=True)
        excess = risk(loss, p, q) - q[:, -1]
        bad = excess < (q[:, 0] - q[:, 1 if k == 3 else -1]) / 2 - TINY
        wrong, total = wrong + bad.sum(), total + len(q)
    return wrong, total, None if drop else ratio


def best_above(q, x, factor=1.0):
    "(6.5): p_k = max(x, c (q_k - r)) with its own risk r; `factor` times that r."
    k, r = q.shape[-1], q.mean(-1, keepdim=True)
    for _ in range(40):
        part = (q - factor * r).clamp_min(0)
        low, high = torch.zeros_like(r), 1 / part.amax(-1, keepdim=True)
        for _ in range(100):
            c = (low + high) / 2
            over = (c * part).clamp_min(x).sum(-1, keepdim=True) > 1
            low, high = torch.where(over, low, c), torch.where(over, c, high)
        p = (low * part).clamp_min(x)
        if factor == 1:
            r = risk(NCELoss(), p, q)[:, None]
    assert (p.sum(-1) - 1).abs().max() < 1e-9 and k * x < 1
    return p


@check(
    "Theorem 6.5",
    "among answers above a floor NCE has one best, the labels less its own risk",
    "1.1 r for r",
    "all probabilities are above the floor (the last below)",
    "the loss is NCE (NFL)",
)
def above_floor(mutant=False, drop=""):
    wrong = total = 0
    loss = NFLLoss(gamma=2) if "NFL" in drop else NCELoss()
    for k, x in itertools.product((2, 3, 6), (1e-2, 1e-4, 1e-12)):
        n = N // 6
        q = posteriors(n, k, k + 20, least=0.01)
        q[:, 0] += 0.05  # a clear first label
        q = q / q.sum(-1, keepdim=True)
        p = best_above(q, x)
        if mutant:  # the same with another r
            r = 1.1 * risk(loss, p, q)[:, None]
            part = (q - r).clamp_min(0)
            p = (part / part.sum(-1, keepdim=True)).clamp_min(x)
            p[:, 0] += 1 - p.sum(-1)
        least = risk(loss, p, q)
        bad = torch.zeros(n, dtype=torch.bool)
        many = x + (1 - k * x) * answers(50, n, k, seed=k).softmax(-1)
        bad |= (risk(loss, many, q) < least - 1e-12).any(0)
        for i, j in itertools.permutations(range(k), 2):  # from j to i
            moved = p.clone()
            low = x / 10 if "below" in drop and j == k - 1 else x
            step = 0.02 * torch.minimum(p[:, i], p[:, j] - low)
            moved[:, i] += step
            moved[:, j] -= step
            bad |= risk(loss, moved, q) < least - 1e-15
        ranked = (p.diff(dim=-1) <= 0).all(-1)
        wrong, total = wrong + (bad | ~ranked).sum(), total + n
    return wrong, total, None


def wrong_answers(n, k, seed):
    "Answers whose argmax is not the first class, some tied with it, nearly sure."
    p = random_distributions(n, k, generator=generator(seed)).clamp_min(1e-12)
    p[::3, 2:] = 1e-12  # two labels share all
    swap = p[:, 0] > p[:, 1]
    p[swap] = p[swap][:, [1, 0, *range(2, k)]]
    p[::2, 0] = p[::2, 1]  # the argmax is a tie
    if k > 2:
        p[::3, -1] = 1e-300
    return p / p.sum(-1, keepdim=True)


@check(
    "Proposition 6.6",
    "a negative loss asks for the first label, by half its lead",
    "1.1 for the half's 1",
    "the loss is negative (NCE)",
)
def first_label(mutant=False, drop=""):
    wrong = total = ratio = 0
    losses = NNCELoss(tau=1e-7), NNCELoss(tau=1e-3), NNFLLoss(gamma=2, tau=1e-7)
    for k, loss in itertools.product((2, 3, 10), losses):
        loss = NCELoss() if drop else loss
        q = posteriors(N // 3, k, k + 30, least=0.01)
        claimed = (1.1 if mutant else 1) * (q[:, 0] - q[:, 1]) / 2
        excess = risk(loss, wrong_answers(N // 3, k, k), q) - (1 - q[:, 0])
        sure = torch.full((k,), 1e-9).double()
        sure[0] = 1 - sure[1:].sum()
        bad = excess < claimed - TINY
        if not drop:  # and a sure answer has no excess
            bad |= (risk(loss, sure, q) - (1 - q[:, 0])).abs() > TINY
            clear = claimed > 1e-3
            ratio = max(ratio, (claimed / excess)[clear].max())
        wrong, total = wrong + bad.sum(), total + len(q)
    return wrong, total, ratio or None


@check(
    "Theorem 6.8",
    "a sum with MAE or NNCE asks for the first label, by its lead times β",
    "1.1 β for β",
    "the second loss is there (NCE alone)",
    "the second loss is linear in p (GCE for MAE)",
)
def sums(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, (alpha, beta) in itertools.product(
        (3, 10), ((1.0, 0.5), (1.0, 4.6), (10.0, 0.05), (0.1, 5.0), (5.0, 5.0))
    ):
        for second in (MAELoss(), NNCELoss(tau=1e-7)):
            q = posteriors(N // 10, k, k + 40, least=0.01)
            loss = alpha * NCELoss() + beta * second
            scale = beta * (2 if isinstance(second, MAELoss) else 1)
            if "alone" in drop:
                loss = alpha * NCELoss()
            if "GCE" in drop:
                loss = alpha * NCELoss() + 0.7 * scale * GCELoss(q=0.7)
            infimum = alpha * q[:, -1]
            infimum += scale * (1 - q[:, 0]) * ("alone" not in drop)
            found = risk(loss, wrong_answers(N // 10, k, k + 1), q) - infimum
            claimed = scale / 2 * (q[:, 0] - q[:, 1]) * (1.1 if mutant else 1)
            bad = found < claimed - TINY
            if not drop:  # answers near the corner come near the infimum
                near = torch.full((k,), 1e-8).double()
                near[0], near[-1] = 1 - near[1:].sum(), 1e-320
                left, each = risk(loss, near, q) - infimum, -near.log()
                most = (q[:, 0] - q[:, -1]) * each[:-1].sum() / each[-1]  # (6.3)
                bad |= (left < -TINY) | (left > alpha * most + 1e-6 * beta)
                clear = claimed > 1e-3
                ratio = max(ratio, (claimed / found)[clear].max())
            wrong, total = wrong + bad.sum(), total + len(q)
    assert drop or ratio > 0.99  # the bound is reached
    return wrong, total, ratio or None
