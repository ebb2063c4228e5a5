"""Chapter 9: what noise costs at most."""

import itertools
import math

import torch
from claims.machine import N, TINY, answers, check, differ, generator, symmetric

from epsbook.losses import AELLoss, AGCELoss, AULLoss, CELoss, EpsCELoss
from epsbook.losses import GCELoss, MAELoss
from epsbook.theory.risk import loss_table, random_distributions, random_problems
from epsbook.theory.risk import random_transitions


def leads(T):
    "Rate, likeliest wrong label and lead of each row of T, (..., k)."
    own = T.diagonal(dim1=-2, dim2=-1)
    most = (T - torch.diag_embed(own)).max(-1).values
    return 1 - own, most, own - most


@check(
    "Theorem 9.1",
    "one inequality for the excess risk under noise of any kind",
    "0.95 μ for μ before the difference of the sums",
    "h has the smaller noisy risk",
    "sₖ is at least how much more label k costs under h (half of that)",
)
def one_inequality(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, loss in ((3, GCELoss(q=0.7)), (3, CELoss()), (5, EpsCELoss(m=10))):
        problems = random_problems(N // 2, 2, k, seed=k)
        T = random_transitions(N, k, seed=1).reshape(N // 2, 2, k, k)
        many = answers(40, N // 2, 2, k, seed=2)
        order = problems.risk(loss, many, T).argsort(0)
        rows = torch.arange(N // 2)
        h, star = many[order[10], rows], many[order[11], rows]
        if "smaller" in drop:
            h = many[order[30], rows]
        L, L_star = loss_table(loss, h), loss_table(loss, star)
        _, mu, lead = leads(T)
        off = 1 - torch.eye(k)
        s = (L - L_star).clamp_min(0) * (0.5 if "half" in drop else 1)
        slack = ((mu[..., None] - T) * off * s[..., None, :]).sum(-1)
        sums = (L_star - L).sum(-1, keepdim=True)
        q = problems.p_x[..., None] * problems.posterior
        left = (q * lead * (L - L_star)).sum((1, 2))
        right = (q * ((0.95 if mutant else 1) * mu * sums + slack)).sum((1, 2))
        wrong, total = wrong + (left > right + 1e-12).sum(), total + len(left)
        ratio = max(ratio, (left / right)[right > 1e-3].max())
    return wrong, total, None if mutant or drop else ratio


def tied_tables(k, g):
    "Losses in [0, 1], rows T, of a perfect answer and one of equal noisy risk."
    T = random_transitions(N, k, seed=k)[:, 0]
    T[:, 0] = 0.7 * T[:, 0] + 0.3 * torch.eye(k)[0]
    _, mu, lead = (x[:, 0] for x in leads(T))
    room = torch.rand(N, generator=g).double() * 0.9 * lead / (lead + mu)
    risk = mu * room / lead
    star = torch.ones(N, k).double()
    star[:, 0] = 0
    h, at = star.clone(), T[:, 0, 1:].argmax(-1) + 1
    h[torch.arange(N), at] -= room + risk
    h[:, 0] = risk
    return T[:, 0], star, h


@check(
    "Corollary 9.2",
    "noise of any kind and a bounded loss",
    "0.95 D for D",
    "the loss is at least 0 (0.1 is taken off)",
    "the lead is at least a₀ (1.1 times the lead)",
)
def any_noise(mutant=False, drop=""):
    wrong = total = ratio = 0
    less = 0.1 if "taken" in drop else 0
    for k in (2, 3, 10):
        g = generator(k)
        row, star, h = tied_tables(k, g)
        blur = torch.rand(N, k, generator=g).double() * 0.1  # h* less than perfect
        other = star * (1 - blur) + (1 - star) * blur * 0.5
        for best in (star, other):
            noisy = (row * (h - best)).sum(-1) <= 1e-12
            own, mu = row[:, 0], row[:, 1:].max(-1).values
            lead = (own - mu) * (1.1 if "1.1" in drop else 1)
            D = (k - 1) + less - torch.minimum(h.sum(-1), best.sum(-1))
            D = D * (0.95 if mutant else 1)
            # A second input, as likely, has no noise, and there both are perfect.
            left = (h[:, 0] - less) / 2 - less / 2
            right = (own * (best[:, 0] - less) + mu * D) / 2 - less / 2
            bad = noisy & (left > right / lead + 1e-9)
            wrong, total = wrong + bad.sum(), total + noisy.sum()
            clear = noisy & (right > 1e-3)
            ratio = max(ratio, (left / right * lead)[clear].max())
    return wrong, total, None if mutant or drop else ratio


def spread_of(loss, k, seed):
    "Largest difference of S over random answers, corner and middle; (K-1)M - inf S."
    p = random_distributions(N // 4, k, generator=generator(seed))
    shared = torch.tril(torch.ones(k, k)).double()
    p = torch.cat([p, shared / shared.sum(-1, keepdim=True)])
    S = loss_table(loss, p.log()).sum(-1)
    return S.max() - S.min(), S


@check(
    "Proposition 9.3",
    "spread and room of a convex or concave curve, at a corner and in the middle",
    "0.95 for K before ℓ(1/K)",
    "ℓ is convex or concave (a floor)",
)
def curves(mutant=False, drop=""):
    wrong = total = ratio = 0
    convex = [GCELoss(q=0.5), GCELoss(q=0.9), AGCELoss(a=0.6, q=0.6)]
    convex += [AULLoss(a=5.5, q=3), MAELoss() + GCELoss(q=0.7)]
    if drop:
        convex = [GCELoss(q=0.5, tau=0.15)]
    concave = [AGCELoss(a=6, q=1.5), AULLoss(a=2, q=0.5)] if not drop else []
    for k, loss in itertools.product((2, 3, 10), convex + concave):
        found, S = spread_of(loss, k, k)
        even = loss_table(loss, torch.zeros(1, k).double())[0, 0]
        sure = torch.full((1, k), -800.0).double()
        sure[0, 0] = 0
        zero = loss_table(loss, sure)[0, 1]
        claimed = (k - 1) * zero - (0.95 if mutant else 1) * k * even
        claimed = -claimed if loss in concave else claimed
        room = (k - 1) * zero - S.min()
        claimed_room = torch.zeros(()) if loss in concave else claimed
        bad = (found - claimed).abs() > TINY
        bad |= (room - claimed_room).abs() > TINY
        wrong, total = wrong + bad * len(S), total + len(S)
        if claimed > 1e-3:
            ratio = max(ratio, found / claimed)
    return wrong, total, None if mutant or drop else ratio


def saved(m, n, tau):
    "What (9.7) takes the maximum of, for n = j + 1."
    own = math.log((m + 1) / (m + 1 / n))
    return (n - 1) * math.log(1 / tau / n / (m + 1)) - own


def room_of(m, k, tau):
    return max(saved(m, n, tau) for n in range(1, k + 1))


def shared_by(m, k):
    return max(range(1, k + 1), key=lambda n: saved(m, n, 1e-8))


@check(
    "Proposition 9.4",
    "the room of ε-softmax, reached where some classes share everything",
    "j + 1.1 for j + 1 in the first logarithm",
    "the loss has its floor",
)
def room_of_epsilon(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, m, tau in itertools.product((2, 3, 10), (0, 10, 1e5, 6e7), (1e-8, 1e-3)):
        if m * tau > 0.5 and tau > 1e-8:
            continue
        loss = EpsCELoss(m=m, tau=0 if drop else tau)
        _, S = spread_of(loss, k, 1)
        claimed = room_of(m, k, tau)
        if mutant:
            claimed -= math.log(1.05) if claimed > 0.1 else 0
        high = (k - 1) * math.log(1 / tau)
        least = high - S.min()
        bad = (least - claimed).abs() > TINY
        bad |= (S - high > 2 * k * tau).any()
        bad |= S.max() - S.min() > max(claimed, 0) + 2 * k * tau + TINY
        wrong, total = wrong + bad * len(S), total + len(S)
        if claimed > 1e-3:
            ratio = max(ratio, least / claimed)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 9.5",
    "a risk divided by what a mistake costs bounds the error",
    "1.05 λ for λ",
    "the loss is at least 0 (0.5 is taken off)",
)
def errors(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, (loss, least) in itertools.product(
        (2, 3, 10),
        (
            (MAELoss(), 1),
            (GCELoss(q=0.7), (1 - 0.5**0.7) / 0.7),
            (EpsCELoss(m=1e5), math.log(2 * (1e5 + 1))),
            (0.01 * EpsCELoss(m=1e5) + 5 * MAELoss(), 0.01 * math.log(2e5 + 2) + 5),
        ),
    ):
        problems = random_problems(N // 12 + 1, 2, k, seed=k)
        h = answers(N // 12 + 1, 2, k, seed=1)
        close = torch.full((2, k), -40.0).double()
        close[:, 0], close[:, 1] = 1e-7, 0  # two classes all but tied
        h[::2] = close
        risk = problems.risk(loss, h) - (0.5 * least if drop else 0)
        bound = risk / (least * (1.05 if mutant else 1))
        bad = problems.error(h) > bound + 1e-6
        wrong, total = wrong + bad.sum(), total + len(bad)
        ratio = max(ratio, (problems.error(h) / bound)[bound > 1e-3].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 9.6",
    "noise hides the whole bound: a hedge and a perfect classifier tie",
    "0.95 B for B",
    "the noise is symmetric (pair noise)",
)
def unavoidable(mutant=False, drop=""):
    g, found, claimed = generator(96), [], []
    for k in (2, 3, 5, 10):
        for m in (10 ** (2 + 5.5 * torch.rand(80, generator=g))).tolist():
            n = shared_by(m, k)
            if n == 1:
                continue
            hedge = torch.full((2, k), -torch.inf).double()
            hedge[:, :n] = 0
            hedge[0, 0], hedge[1, 1] = 1e-10, 1e-10  # whom the tie goes to
            sure = torch.full((2, k), -800.0).double()
            sure[:, 0] = 0
            eta = torch.rand(50, generator=g).double() * (k - 1) / k
            T = symmetric(eta, k)
            if drop:
                eye, eta_ = torch.eye(k).double(), eta[:, None, None]
                T = (1 - eta_) * eye + eta_ * eye.roll(1, -1)
            B = (0.95 if mutant else 1) * eta * room_of(m, k, 1e-8) / (k - 1 - eta * k)
            right = math.log((m + 1) / (m + 1 / n))
            share = (B - right) / (math.log(n * (m + 1)) - right)
            fits = (share >= 0) & (share <= 1)
            mix = torch.stack([1 - share, share], -1)[fits]
            for h, into in ((hedge, found), (sure, claimed)):
                each = loss_table(EpsCELoss(m=m), h) @ T[fits, 0].T
                into.append((mix * each.T).sum(-1))
    return differ(torch.cat(found), torch.cat(claimed))


@check(
    "Proposition 9.7",
    "below the tolerated ratio the right corner is the only best answer",
    "1.1 times the ratio",
    "no wrong label is likelier than the right one",
)
def corner_stays(mutant=False, drop=""):
    wrong = total = 0
    losses = [(AGCELoss(a=0.6, q=0.6), (0.6 / 1.6) ** 0.4)]
    losses += [
        (AULLoss(a=5.5, q=3), (4.5 / 5.5) ** 2),
        (AELLoss(a=2.5), math.exp(-0.4)),
    ]
    losses += [(AGCELoss(a=6, q=1.5), 1.0), (MAELoss(), 1.0)]
    gain = 0.01 / (math.e * 1e-8 * (1e5 + 1))
    losses += [(0.01 * EpsCELoss(m=1e5) + 5 * MAELoss(), 10 / (10 + gain))]
    k, count = 3, N // 6
    x = torch.cat([torch.zeros(1), torch.logspace(-7, -0.302, 30)]).double()
    near = torch.stack([1 - x[:, None] - x, x.expand(31, 31).T, x.expand(31, 31)])
    near = near.flatten(1).T.clamp_min(0)[1:]  # the corner is left out
    near = torch.cat([near, random_distributions(300, k, generator=generator(1))])
    for loss, ratio in losses:
        g = generator(7)
        top = ratio * (1.1 if mutant else 1)
        odds = torch.rand(count, k - 1, generator=g).double() ** 0.2 * 0.999 * top
        if drop:
            odds = odds / ratio * 1.2
        q = torch.cat([torch.ones(count, 1), odds], -1)
        q = q / q.sum(-1, keepdim=True)
        corner = torch.full((1, k), -800.0).double()
        corner[0, 0] = 0
        gap = loss_table(loss, near.log()) - loss_table(loss, corner)
        bad = (q @ gap.T).min(-1).values <= -1e-13
        wrong, total = wrong + bad.sum(), total + count
    return wrong, total, None


@check(
    "Proposition 9.8",
    "the excess risk of the best on n noisy samples, with its probability",
    "0.45 of the root: these problems need half of it",
    "the samples are independent (one sample, n times)",
)
def finite_samples(mutant=False, drop=""):
    k, M, p, wrong, total, ratio = 3, 1.0, 0.1, 0, 0, 0
    g, count = generator(98), N // 4
    for n, eta in itertools.product((1, 4, 9, 16), (0.1, 0.3)):
        kappa = eta * k / (k - 1)
        # Two classifiers and the 0-1 loss: only where they differ counts.
        d = random_distributions(count, 3, generator=g)  # h* right, h right, alike
        q = torch.where((d[:, :1] >= d[:, 1:2]), d, d[:, [1, 0, 2]])
        noisy = torch.stack([q[:, 0], q[:, 1]], -1) * (1 - kappa)
        noisy = noisy + (q[:, :1] + q[:, 1:2]) * eta / (k - 1)
        ahead, behind = noisy[:, 0], noisy[:, 1]
        fooled = torch.zeros(count).double()
        for a in range(n + 1):
            for b in range(a, n - a + 1):  # h has at least as many right labels
                ways = math.comb(n, a) * math.comb(n - a, b)
                rest = (1 - ahead - behind).clamp_min(0) ** (n - a - b)
                fooled += ways * ahead**a * behind**b * rest
        if drop:
            fooled = 1 - ahead
        root = 2 * math.sqrt(math.log(4 / p) / (2 * n))
        root = 0.45 * root if mutant else root
        bound = M * root / (1 - kappa)
        excess = q[:, 0] - q[:, 1]
        bad = (excess > bound) & (fooled > p)
        wrong, total = wrong + bad.sum(), total + count
        allowed = excess[fooled > p]
        ratio = max(ratio, (allowed.max() / bound) if len(allowed) else 0)
    return wrong, total, None if mutant or drop else ratio
