"""Chapter 4: symmetric losses."""

import itertools
import math

import numpy as np
import torch
from claims.machine import (
    N,
    TINY,
    answers,
    check,
    differ,
    generator,
    nce,
    squared,
    symmetric,
    zero_one,
)
from scipy.integrate import solve_ivp

from epsbook.losses import CELoss, EpsCELoss, MAELoss, NNCELoss
from epsbook.noise import NoiseSpec
from epsbook.theory.risk import (
    FiniteProblem,
    best_of,
    enumerated_problems,
    loss_table,
    random_problems,
    random_transitions,
    simplex_grid,
)


@check(
    "Theorem 4.2",
    "a symmetric loss ranks classifiers alike under symmetric noise",
    "1 - η for 1 - ηK/(K-1)",
    "the loss is symmetric (cross-entropy)",
    "the rate is below (K-1)/K",
    "one rate for all inputs",
    "one rate for all classes",
    "wrong labels spread evenly (pair noise)",
)
def tolerance(mutant=False, drop=""):
    wrong = total = ratio = 0
    grid = enumerated_problems(inputs=3, num_classes=3, n=4)
    cases = [(3, 0.9, MAELoss()), (10, 0.7, MAELoss()), (10, 0.7, zero_one)]
    for k, share, loss in [*cases, (3, 0.5, nce), (3, 0.8, MAELoss())]:
        eta = share * (k - 1) / k
        T = symmetric(eta, k)
        if "below" in drop:
            T = symmetric((k - 0.9) / k, k)
        if "inputs" in drop:
            T = symmetric(torch.tensor([0, eta, eta]), k)
        if "classes" in drop:
            rates = torch.linspace(0, eta, k)
            T = symmetric(rates, k)[torch.arange(k), torch.arange(k)]
        if "pair" in drop:
            T = NoiseSpec.pair(0.4).transition(k)
        loss = CELoss() if "cross" in drop else loss
        problems = grid if share == 0.8 else random_problems(N, 3, k, seed=k)
        h = answers(2, len(problems.p_x), 3, k)
        clean, noisy = problems.risk(loss, h), problems.risk(loss, h, T)
        lead = clean[1] - clean[0]
        bad = (lead.abs() > TINY) & (lead * (noisy[1] - noisy[0]) <= 0)
        if not drop:
            factor = 1 - eta if mutant else 1 - eta * k / (k - 1)
            c = loss_table(loss, h[0, :1, 0]).sum()
            claimed = factor * clean + eta / (k - 1) * c
            bad |= ((noisy - claimed).abs() > TINY).any(0)
            ratio = max(ratio, (noisy / claimed).max())
        wrong, total = wrong + bad.sum(), total + len(bad)
    return wrong, total, None if drop else ratio


@check(
    "Proposition 4.3",
    "any loss with unequal sums misranks two answers for some posterior",
    "the roles of u and v exchanged",
    "the sums differ (MAE)",
    "no answer dominates",
)
def converse(mutant=False, drop=""):
    wrong = total = 0
    losses = [MAELoss()] if "MAE" in drop else [CELoss(), EpsCELoss(m=10), squared]
    for k, eta, loss in itertools.product((2, 3, 10), (0.1, 0.4, 0.8), losses):
        u, v = loss_table(loss, answers(2, N // 9, k, seed=3))
        if "dominates" in drop:  # v costs less whatever the label is
            v = u - torch.rand(u.shape, generator=generator(9)) - 0.01
        swap = (u.sum(-1) < v.sum(-1))[:, None]
        u, v = torch.where(swap, v, u), torch.where(swap, u, v)
        d = u - v if mutant else v - u
        gap, best = -d.sum(-1), d.max(-1)
        if not drop:
            usable = (gap.abs() > 1e-6) & (best.values > 1e-6)
            d, gap, best = (
                d[usable],
                gap[usable],
                (best.values[usable], best.indices[usable]),
            )
        most, at = best
        kappa = eta * k / (k - 1)
        room = (1 - kappa) if kappa < 1 else 1
        lead = torch.minimum(eta / (k - 1) * gap / room / 2, most)
        move = ((lead + gap / k) / (most + gap / k)).clamp(0, 1).nan_to_num()
        q = (1 - move)[:, None] / k
        q = q + move[:, None] * torch.nn.functional.one_hot(at, k)
        clean = (q * d).sum(-1)
        noisy = ((q @ symmetric(eta, k)) * d).sum(-1)
        wrong += (~((clean > 0) & (noisy < -1e-12))).sum()
        total += len(d)
    return wrong, total, None


@check(
    "Theorem 4.4",
    "a perfect classifier stays best under any leading diagonal",
    "2C/(K-1) for C/(K-1) (NCE, K = 3)",
    "the loss is symmetric (squared error)",
    "labels are certain",
    "no loss exceeds C/(K-1) (NCE, K = 10)",
    "the diagonal leads",
)
def perfect(mutant=False, drop=""):
    wrong = total = ratio = 0
    kinds = [MAELoss(), zero_one, NNCELoss()]
    kinds = [squared] if "squared" in drop else kinds[:1] if drop else kinds
    kinds = [nce] if mutant or "NCE" in drop else kinds
    sizes = (3,) if mutant else (10,) if "NCE" in drop else (2, 3, 10)
    for k, loss in itertools.product(sizes, kinds):
        problems = random_problems(N, 3, k, seed=k, certain=True)
        T = random_transitions(3 * N, k, seed=1).reshape(N, 3, k, k)
        T = T.roll(1, -1) if "leads" in drop else T
        best = problems.posterior.log().clamp_min(-700)
        if "certain" in drop:
            soft = 0.9 * problems.posterior + 0.1 * problems.posterior.roll(1, -1)
            problems = FiniteProblem(problems.p_x, soft)
        others = answers(N, 8, 3, k, seed=2)
        if loss is nce:
            others = 40 * torch.randn(N, 8, 3, k, generator=generator(5)).double()
        risks = problems.risk(loss, best, T)
        least = best_of(problems, loss, others, T)
        bad = risks > least.risk + TINY
        if not (mutant or drop):
            # The proof says by how much: the least lead times the clean risk,
            # so every minimizer has clean risk 0.
            rival = others[torch.arange(N), least.index]
            own = T.diagonal(dim1=-2, dim2=-1)[..., None]
            lead = (own - T + 2 * torch.eye(k)).flatten(1).min(-1).values
            owed = lead * problems.risk(loss, rival)
            bad |= least.risk - risks < owed - TINY
            ratio = max(ratio, (risks / least.risk).max())
        wrong, total = wrong + bad.sum(), total + N
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 4.5",
    "a continuous symmetric loss of one probability is MAE: two free numbers, no more",
    "one free number for two",
    "K is at least 3",
)
def only_mae(mutant=False, drop=""):
    wrong = total = 0
    for k in (2,) if drop else (3, 4, 5):
        for n in (6, 9, 12):  # curves on the grid 0, 1/n, ..., 1
            points = (simplex_grid(k, n) * n).round().long()
            uses = torch.nn.functional.one_hot(points, n + 1).sum(1).double()
            # Curves whose sum is one constant, and that constant: a null space.
            system = torch.cat([uses, -torch.ones(len(uses), 1)], 1)
            free = n + 2 - torch.linalg.matrix_rank(system)
            wrong += free != (1 if mutant else 2)
            total += 1
    return wrong, total, None


@check(
    "Proposition 4.6",
    "if A <= w/s <= B the sum moves by at most (B - A)(1 - 1/K)",
    "half of that",
    "w/s stays below B",
)
def flat_is_tolerant(mutant=False, drop=""):
    wrong = total = ratio = 0
    n, count = 24, N // 3 + 1
    for k, skip in ((2, 1), (3, 1), (5, 17)):
        # w/s on each of n steps: uneven at random, or one jump from 1 to 0.
        slopes = torch.rand(count, n, generator=generator(k)).double()
        slopes = slopes ** torch.logspace(-1, 1, count)[:, None]
        jump = torch.arange(count)[::2, None] % (n - 1) + 1
        slopes[::2] = (torch.arange(n)[None] < jump).double()
        low, high = slopes.min(-1).values, slopes.max(-1).values
        if drop:  # the mean in place of an upper bound
            high = slopes.mean(-1) + 0.01
        fall = torch.cat([torch.zeros(count, 1), slopes.cumsum(-1) / n], -1)
        points = (simplex_grid(k, n) * n).round().long()[::skip]
        moved = (fall[:, -1:] - fall[:, points].sum(-1)).abs().max(-1).values
        bound = (high - low) * (1 - 1 / k) * (0.5 if mutant else 1)
        wrong += (moved > bound + TINY).sum()
        total += count
        ratio = max(ratio, (moved / bound.clamp_min(1e-9)).max())
    return wrong, total, None if drop or mutant else ratio


@check(
    "Corollary 4.7",
    "symmetric noise hides at most eta delta / (K - 1 - eta K) of clean risk",
    "half of that",
    "the noise is symmetric (pair noise)",
)
def what_noise_can_hide(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, eta in ((2, 0.3), (3, 0.3), (10, 0.6)):
        spec = NoiseSpec.pair(eta) if drop else NoiseSpec.symmetric(eta)
        T = spec.transition(k)
        for loss in (CELoss(), squared):
            one, two = answers(N, 1, k, seed=1), answers(N, 1, k, seed=2)
            table, other = loss_table(loss, one), loss_table(loss, two)
            least = (table.sum(-1) < other.sum(-1))[..., None]
            table = torch.where(least, table, other)
            other = torch.where(least, other, loss_table(loss, one))
            delta = (table - other).sum(-1).abs()
            bound = eta * delta / (k - 1 - eta * k)
            # Weight moves to where `table` loses most, until both look alike.
            d = table - other
            low, high = d.min(-1).values, d.max(-1).values
            a = ((bound - low) / (high - low).clamp_min(TINY)).clamp(0, 1 - 1e-9)
            a[::2] = torch.rand(a[::2].shape, generator=generator(3)).double()
            ends = (
                torch.nn.functional.one_hot(x, k) for x in (d.argmax(-1), d.argmin(-1))
            )
            first, last = (x.double() for x in ends)
            q = a[..., None] * first + (1 - a[..., None]) * last
            clean = (q * d).sum(-1)
            noisy = ((q @ torch.as_tensor(T)) * d).sum(-1)
            fooled = noisy <= 1e-12
            claimed = bound * (0.5 if mutant else 1)
            wrong += (fooled & (clean > claimed + TINY)).sum()
            total += N
            tight = (clean / bound.clamp_min(1e-6))[fooled & (bound > 1e-3)]
            ratio = max(ratio, tight.max()) if len(tight) else ratio
    return wrong, total, None if drop or mutant else ratio


@check(
    "Corollary 4.8",
    "at a uniform posterior a symmetric loss has one risk",
    "C for C/K",
    "the loss is symmetric (cross-entropy)",
)
def not_proper(mutant=False, drop=""):
    k, wrong, total, ratio = 10, 0, 0, 0
    even = FiniteProblem(torch.ones(N, 1), torch.full((N, 1, k), 1 / k))
    for loss in (CELoss(),) if drop else (MAELoss(), zero_one, nce):
        found = even.risk(loss, answers(N, 1, k))
        first = loss_table(loss, torch.zeros(1, k)).sum() / k
        claimed = (first * k if mutant else first).expand(N)
        off, count, most = differ(found, claimed)
        wrong, total, ratio = wrong + off, total + count, max(ratio, most)
    return wrong, total, ratio


@check(
    "Proposition 4.9",
    "the time to even odds under CE and MAE",
    "K for K - 2 in the time of MAE",
    "all logits start equal",
)
def time_to_half(mutant=False, drop=""):
    found, claimed = [], []
    for k in (3, 4, 5, 10, 20, 50, 100, 200):
        log, rest = math.log(k - 1), (k - 2) / (k - 1)
        for name in ("ce", "mae"):

            def flow(_, h, name=name):
                p = np.exp(h - h.max())
                p /= p.sum()
                w = 1 if name == "ce" else 2 * p[0]
                return w * (np.eye(len(h))[0] - p)

            def half(_, h):
                return h[0] - np.log(np.exp(h[1:]).sum())

            half.terminal = True
            start = np.zeros(k)
            start[0] = 0.5 if drop else 0
            run = solve_ivp(flow, (0, 10 * k), start, events=half, rtol=1e-9, atol=1e-9)
            found.append(run.t_events[0][0])
            more = k if mutant else k - 2
            mae = (2 * log + more + rest) / 2
            claimed.append((k - 1) / k * (mae if name == "mae" else log + rest))
    quotient = torch.tensor(found) / torch.tensor(claimed)
    return ((quotient - 1).abs() > 1e-6).sum(), len(found), quotient.max()
