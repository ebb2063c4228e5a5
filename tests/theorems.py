"""Every numbered claim of the book on exact finite problems: one row each.

A check takes what it needs to be wrong on purpose: `mutant=True` changes one thing
in the claim, and `drop` takes an assumption away. `test_theorems.py`
asks that the claim has no violation, its mutant and each dropped assumption
have some, and that the rows equal `results/theorems.json` but for rounding.
Write that file again: python tests/theorems.py
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp

from epsbook.losses import CELoss, EpsCELoss, MAELoss, NNCELoss
from epsbook.losses import eps_softmax, epsilon
from epsbook.noise import NoiseSpec, in_place_transition
from epsbook.theory.risk import (
    FiniteProblem,
    best_of,
    enumerated_problems,
    loss_table,
    random_distributions,
    random_problems,
    random_transitions,
    simplex_grid,
)

TABLE = Path(__file__).resolve().parents[1] / "results" / "theorems.json"
N = 10_000
TINY = 1e-9
CHECKS = {}


def check(statement, claim, mutant, *drops):
    "Register a check, what its mutant changes, and what may be dropped."

    def register(function):
        CHECKS[statement] = function, claim, mutant, drops
        return function

    return register


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def answers(*shape, seed=0):
    "Random logits, from even to nearly certain."
    p = random_distributions(*shape, generator=generator(seed))
    return p.clamp_min(1e-9).log()


def symmetric(rate, k):
    "Transition matrices for rates of any shape (...), shape (..., k, k)."
    rate = torch.as_tensor(rate, dtype=torch.float64)[..., None, None]
    return torch.eye(k) * (1 - rate * k / (k - 1)) + rate / (k - 1)


def zero_one(logits):
    return 1 - torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()


def squared(logits):
    p = logits.softmax(-1)
    return (p**2).sum(-1, keepdim=True) - 2 * p + 1


def nce(logits):
    ce = -logits.log_softmax(-1)
    return ce / ce.sum(-1, keepdim=True)


def differ(found, claimed):
    "Violations of an equation, problems, and the largest quotient of its sides."
    off = (found - claimed).abs() > TINY * claimed.abs().clamp_min(1)
    large = claimed.abs() > 1e-3
    return off.sum(), off.numel(), (found[large] / claimed[large]).max()


@check(
    "Proposition 1.2",
    "symmetric noise below (K-1)/K keeps the order of a posterior",
    "a limit of 1 for (K-1)/K",
    "noise symmetric (pair noise)",
)
def order_survives(mutant=False, drop=""):
    wrong = total = 0
    for k in (2, 3, 10):
        q = random_distributions(N, k, generator=generator(k))
        limit = 1 if mutant else (k - 1) / k
        rate = 0.999 * limit * torch.rand(N, generator=generator(1)).double()
        T = NoiseSpec.pair(0.4).transition(k) if drop else symmetric(rate, k)
        noisy = (q[:, None] @ torch.as_tensor(T))[:, 0]
        ahead = q[:, None] > q[:, :, None] + TINY  # what rounding cannot undo
        wrong += (ahead & (noisy[:, None] <= noisy[:, :, None])).any((1, 2)).sum()
        total += N
    return wrong, total, None


@check(
    "Proposition 1.3",
    "agreement with noisy labels is a line in the accuracy",
    "η/K for η/(K-1)",
    "noise symmetric (pair noise)",
)
def agreement(mutant=False, drop=""):
    k, eta = 10, 0.4
    joint = random_distributions(N, k * k, generator=generator()).reshape(N, k, k)
    T = NoiseSpec.pair(eta).transition(k) if drop else symmetric(eta, k)
    agrees = (joint * torch.as_tensor(T)).sum((1, 2))
    accuracy = joint.diagonal(dim1=1, dim2=2).sum(-1)
    other = eta / k if mutant else eta / (k - 1)
    return differ(agrees, other + (1 - eta * k / (k - 1)) * accuracy)


@check(
    "Proposition 2.1",
    "flips in place multiply their matrices",
    "the product in reverse order",
    "each flip sees the label before it (all see the true one)",
)
def flips_multiply(mutant=False, drop=""):
    F = random_distributions(3, N, 3, 3, generator=generator())
    paths = torch.einsum("nij,njk,nkl->nijkl", *F).sum((2, 3))
    if drop:
        paths = F.mean(0)
    order = F.flip(0) if mutant else F
    off, total, ratio = differ(paths, order[0] @ order[1] @ order[2])
    found, claimed = released_loops(200, mutant, bool(drop))
    more, count, most = differ(found, claimed)
    return off + more, total + count, max(ratio, most)


def released_loops(count, mutant, frozen):
    "T of flips in place, label by label, and what `in_place_transition` says."
    k, g, found, claimed = 5, generator(21), [], []
    for _ in range(count):
        rate = torch.rand((), generator=g).double().item()
        sources = torch.randperm(k, generator=g)[:4].tolist()
        steps = (torch.randint(1, k, (4,), generator=g)).tolist()
        pairs = [(s, (s + by) % k) for s, by in zip(sources, steps, strict=True)]
        T = torch.zeros(k, k).double()
        for i, flips in itertools.product(
            range(k), itertools.product((0, 1), repeat=4)
        ):
            label, chance = i, 1.0
            for (source, target), flip in zip(pairs, flips, strict=True):
                if (i if frozen else label) == source:
                    chance *= rate if flip else 1 - rate
                    label = target if flip else label
                else:  # nothing to flip: counted once
                    chance *= 1 - flip
            T[i, label] += chance
        found.append(T)
        named = dict(reversed(pairs) if mutant else pairs)
        claimed.append(torch.as_tensor(in_place_transition(rate, named, k)))
    return torch.stack(found), torch.stack(claimed)


def nearly_tied(k, bump):
    """Posteriors uniform on three classes or fewer, one ahead by a hair.

    `bump` is how far, (n, 1, 1). Shapes (n, k^3, k) and (k^3,), the leaders.
    """
    eye = torch.eye(k).double()
    q = eye[:, None, None] + eye[None, :, None] + eye[None, None]
    ahead = eye[:, None, None].expand(k, k, k, k).reshape(-1, k)
    q = q.clamp(max=1).reshape(-1, k) + bump * ahead
    leader = torch.arange(k)[:, None, None].expand(k, k, k).reshape(-1)
    return q / q.sum(-1, keepdim=True), leader


def uneven(T):
    "How far T is from symmetric noise: the spread of what is off its diagonal."
    off = T[:, ~torch.eye(T.shape[-1], dtype=torch.bool)]
    return off.max(-1).values - off.min(-1).values


@check(
    "Theorem 2.2",
    "noise that keeps the argmax of every posterior is symmetric",
    "symmetric or pair noise",
    "every posterior (certain ones only)",
)
def only_symmetric(mutant=False, drop=""):
    k = 4
    T = random_transitions(N, k, seed=0)[:, 0]
    if mutant:
        T = torch.as_tensor(NoiseSpec.pair(0.4).transition(k))[None]
    T = T[uneven(T) > 1e-9]  # the rest is symmetric, to rounding
    # A hair is one only beside what it is to show: of T near the identity
    # the labels move by less than any fixed hair.
    q, leader = nearly_tied(k, 1e-3 * uneven(T)[:, None, None])
    if drop:
        q, leader = torch.eye(k).double(), torch.arange(k)
    noisy = q @ T
    own = noisy.gather(-1, leader[None, :, None].expand(len(T), -1, 1))[..., 0]
    kept = (noisy.max(-1).values <= own + 1e-12).all(-1)
    return (~kept if mutant else kept).sum(), len(T), None


def sure_enough(T):
    "s_0 of (2.5), (n,), from its definition, and the class that is worst for 0."
    s, worst = torch.zeros(len(T)).double(), torch.ones(len(T), dtype=torch.long)
    for k in range(1, T.shape[-1]):
        d, i = (T[:, 1:, k] - T[:, 1:, 0]).max(-1)
        new = torch.where(d > 0, d / (d + T[:, 0, 0] - T[:, 0, k]), 0)
        worst = torch.where(new > s, i + 1, worst)
        s = torch.maximum(s, new)
    return s, worst


@check(
    "Proposition 2.3",
    "a posterior above sⱼ keeps its argmax, and sⱼ is tight",
    "0.95 sⱼ for sⱼ",
    "the diagonal leads",
)
def sure_is_enough(mutant=False, drop=""):
    k = 4
    # Only the row in question leads; what the others do is anybody's guess.
    T = random_distributions(N, k, k, generator=generator(3))
    T[:, 0] = random_transitions(N, k, seed=3)[:, 0, 0]
    if drop:
        T[:, 0] = T[:, 0].roll(1, -1)
    s, worst = sure_enough(T)
    rest = random_distributions(N, k - 1, generator=generator(4))
    corner = torch.nn.functional.one_hot(worst - 1, k - 1)

    def lead(level, others):
        "By how much label 0 is ahead of every other given label."
        q = torch.cat([level[:, None], (1 - level)[:, None] * others], -1)
        noisy = (q[:, None] @ T)[:, 0]
        return noisy[:, 0] - noisy[:, 1:].max(-1).values

    start = (0.95 if mutant else 1) * s
    wrong = torch.zeros(N, dtype=torch.bool)
    for share, others in ((1e-6, corner), (1e-6, rest), (0.5, rest)):
        wrong |= lead(start + share * (1 - start), others) < -1e-12
    if mutant or drop:
        return wrong.sum(), N, None
    low, high = torch.zeros(N).double(), torch.ones(N).double()
    for _ in range(60):  # bisection: where label 0 begins to lead, at worst
        middle = (low + high) / 2
        ahead = lead(middle, corner) > 0
        low, high = torch.where(ahead, low, middle), torch.where(ahead, middle, high)
    needed = high / s
    clear = s > 1e-3
    wrong |= clear & ((needed - 1).abs() > 1e-6)
    return wrong.sum(), N, needed[clear].max()


@check(
    "Proposition 3.3",
    "noise in the posterior is noise in the loss",
    "T for its transpose",
    "each input its own T (their mean)",
)
def two_readings(mutant=False, drop=""):
    problems, h = random_problems(N, 3, 10, seed=0), answers(N, 3, 10)
    T = random_transitions(N * 3, 10, seed=1).reshape(N, 3, 10, 10)
    noisy = problems.risk(CELoss(), h, T)
    T = T.mean(1, keepdim=True) if drop else T
    T = T.mT if mutant else T
    mended = (T @ loss_table(CELoss(), h)[..., None])[..., 0]
    each = (problems.posterior * mended).sum(-1)
    return differ(noisy, (problems.p_x * each).sum(-1))


@check(
    "Proposition 3.4",
    "coins bracket the least expected loss of a decreasing curve",
    "n coins for n + K - 1",
    "the curve decreases",
)
def coins(mutant=False, drop=""):
    k, n = 3, 12
    q = random_distributions(N, k, generator=generator(4)).clamp_min(1e-9)
    q = q / q.sum(-1, keepdim=True)

    def phi(p):
        return (p - 0.3) ** 2 if drop else -p.clamp(1e-300, 1).log()

    def least(total):
        return (q @ phi(simplex_grid(k, total) * total / n).T).min(-1).values

    fine = (q @ phi(simplex_grid(k, 240)).T).min(-1).values
    exact = fine if drop else -torch.special.xlogy(q, q).sum(-1)
    high, low = least(n), least(n if mutant else n + k - 1)
    wrong = (low > exact + TINY) | (high < exact - TINY)
    return wrong.sum(), N, ((high - exact) / (high - low)).max()


@check(
    "Proposition 3.6",
    "ranking by the posterior minimizes every top-k error",
    "ranking by the posterior after pair noise",
    "the classifier may answer as it likes (one of four)",
)
def ranking(mutant=False, drop=""):
    problems = enumerated_problems(inputs=2, num_classes=4, n=6)
    count = len(problems.p_x)
    others = answers(count, 8, 2, 4, seed=1)
    ours = problems.posterior
    if mutant:
        ours = problems.noisy(NoiseSpec.pair(0.4).transition(4)).posterior
    if drop:
        chosen = best_of(problems, CELoss(), others[:, :4]).index
        ours = others[torch.arange(count), chosen]
    wrong = torch.zeros(count, dtype=torch.bool)
    for k in (1, 2, 3):
        least = torch.stack([problems.error(others[:, f], k) for f in range(8)])
        wrong |= problems.error(ours, k) > least.min(0).values + TINY
    return wrong.sum(), count, None


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


@check(
    "Lemma 8.2",
    "ε-softmax is within ε of a corner",
    "0.99 ε",
    "m goes to the largest entry (to the first class)",
)
def corner(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10, 100):
        h = torch.cat([torch.zeros(1, k).double(), answers(N, k, seed=k)])
        for m in (0, 1, 100, 1e5):
            f = eps_softmax(h, m)
            if drop:
                f = (h.softmax(1) + m * torch.eye(k)[0]) / (m + 1)
            e = torch.nn.functional.one_hot(f.argmax(1), k)
            found = (f - e).norm(dim=1) / epsilon(m, k)
            wrong += (found > (0.99 if mutant else 1) + TINY).sum()
            total, ratio = total + len(h), max(ratio, found.max())
    return wrong, total, ratio


@check(
    "Proposition 8.3",
    "CE of ε-softmax alone: the formula above the margin, a tie below",
    "a margin of m/(m+2)",
    "no MAE is added",
)
def tie(mutant=False, drop=""):
    n, wrong, total = 120, 0, 0
    p = simplex_grid(3, n)
    p = p[(p > 0).all(-1)]
    q = random_distributions(N // 3, 3, generator=generator(7)).clamp_min(0.01)
    q = (q / q.sum(-1, keepdim=True)).sort(-1, descending=True).values
    for m in (0.2, 1.0, 10.0):
        loss = EpsCELoss(m=m, tau=0) + (0.5 * MAELoss() if drop else 0 * MAELoss())
        best = p[(q @ loss_table(loss, p.log()).T).argmin(-1)]
        limit = m / (m + 2) if mutant else m / (m + 1)
        formula = (m + 1) * q - m * torch.eye(3)[0]
        near = (best - formula).abs().max(-1).values <= 2 / n
        two = best.topk(2).values
        tied = two[:, 0] - two[:, 1] <= 1.5 / n
        margin = q[:, 0] - q[:, 1]
        clear = (margin - limit).abs() > 3 / n  # the grid cannot tell closer
        right = torch.where(margin > limit, near, tied)
        wrong, total = wrong + (~right & clear).sum(), total + clear.sum()
    return wrong, total, None


@check(
    "Theorem 15.1",
    "agreement falls short by u to v times the errors",
    "the mean lead for the largest",
    "labels depend on the class only (errors in common)",
)
def shortfall(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        T = random_transitions(N, k, seed=k)[:, 0]
        c = random_distributions(N, k * k, generator=generator(1)).reshape(N, k, k)
        off = ~torch.eye(k, dtype=torch.bool)
        lead = T.diagonal(dim1=1, dim2=2)[..., None] - T
        one = torch.where(off, lead, -9).flatten(1).argmax(1)
        one = torch.nn.functional.one_hot(one, k * k).reshape(N, k, k).double()
        half = torch.arange(N)[:, None, None] % 2 == 0  # one kind of error only
        certain = torch.eye(k).double() / k
        c = torch.where(half, 0.7 * certain + 0.3 * one, c)
        agrees = (c * T).sum((1, 2))
        if drop:  # one answer in five is repeated by whoever gives the label
            agrees = 0.8 * agrees + 0.2
            T = 0.8 * T + 0.2 * c / c.sum(-1, keepdim=True)
            lead = T.diagonal(dim1=1, dim2=2)[..., None] - T
        errs = 1 - c.diagonal(dim1=1, dim2=2).sum(-1)
        short = (c.sum(-1) * T.diagonal(dim1=1, dim2=2)).sum(-1) - agrees
        leads = lead[:, off]
        least, most = leads.min(-1).values, leads.max(-1).values
        most = leads.mean(-1) - 1e-6 if mutant else most
        bad = (short < least * errs - TINY) | (short > most * errs + TINY)
        wrong, total = wrong + bad.sum(), total + N
        ratio = max(ratio, (short / (most * errs))[(most > 1e-3) & (errs > 1e-3)].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 15.2",
    "only symmetric noise makes agreement a function of accuracy",
    "only classifiers that are right on the same samples are compared",
    "every class occurs",
)
def only_a_line(mutant=False, drop=""):
    k, step = 4, 0.01
    T = random_transitions(N, k, seed=0)[:, 0]
    rate = 0.1 + 0.6 * torch.rand(N, k, 1, generator=generator(2)).double()
    rows = (1 - rate) * torch.eye(k) + rate / (k - 1) * (1 - torch.eye(k))
    even = torch.arange(N)[:, None, None] % 2 == 0  # one value off the diagonal
    T = torch.where(even, rows, T)
    size = torch.full((k,), 1 / k).double()
    if drop:  # all rows alike but that of a class that is not there
        T = torch.cat([T[:, :1], symmetric(rate[:, 0, 0], k)[:, 1:]], 1)
        size = torch.tensor([0.0, 1, 1, 1]).double() / (k - 1)
    base = size[:, None] * (0.7 * torch.eye(k) + 0.3 / (k - 1) * (1 - torch.eye(k)))
    found = torch.zeros(N, dtype=torch.bool)
    for i, j, m in itertools.permutations(range(k), 3):
        moves = [[((i, j), -step), ((i, m), step)]]
        if not mutant:
            right = [((i, i), step), ((i, m), -step)]
            moves.append([*right, ((j, j), -step), ((j, m), step)])
        for move in moves:
            other = base.clone()
            for cell, by in move:
                other[cell] += by
            if (other >= 0).all():
                gap = (T * (other - base)).sum((1, 2))
                found |= gap.abs() > 1e-12
    return (~found).sum(), N, None


@check(
    "Proposition 16.1",
    "before batch norm the loss does not see the size of weights; ∇L(cw) = ∇L(w)/c",
    "∇L(cw) = ∇L(w)",
    "batch norm follows (none does)",
)
def no_size(mutant=False, drop=""):
    g, batch, inputs, units = generator(16), 8, 3, 2
    x = torch.randn(N, batch, inputs, generator=g).double()
    a = torch.randn(N, batch, units, generator=g).double()
    w = torch.randn(N, inputs, units, generator=g).double()
    c = 0.5 + 2 * torch.rand(N, 1, 1, generator=g).double()

    def loss(w):
        w = w.clone().requires_grad_()
        h = x @ w
        if not drop:
            h = (h - h.mean(1, keepdim=True)) / h.std(1, correction=0, keepdim=True)
        value = (a * torch.tanh(h)).sum((1, 2))
        return value.detach(), torch.autograd.grad(value.sum(), w)[0]

    (before, slope), (after, scaled) = loss(w), loss(c * w)
    scale = slope.norm(dim=(1, 2))
    claimed = slope if mutant else slope / c
    apart = (scaled - claimed).norm(dim=(1, 2)) > TINY * scale
    leans = (slope * w).sum((1, 2)).abs() > TINY * scale * w.norm(dim=(1, 2))
    moves = (after - before).abs() > TINY * before.abs().clamp_min(1)
    return (apart | leans | moves).sum(), N, None


@check(
    "Proposition 17.2",
    "the best of T tests on n images adds at most sqrt(ln T / 2n) by chance",
    "sqrt(ln T / 3n) for sqrt(ln T / 2n)",
    "images drawn independently of the networks (networks right about them only)",
)
def best_by_chance(mutant=False, drop=""):
    wrong = total = ratio = 0
    for T, n in ((2, 1), (5, 2), (20, 3)):
        g, points = generator(T), 4
        p = random_distributions(N, points, generator=g)
        right = (torch.rand(N, T, points, generator=g) < 0.5).double()
        drawn = torch.tensor(list(itertools.product(range(points), repeat=n)))
        chance = p[:, drawn].prod(-1)  # of each sample of n images
        deserved = (right * p[:, None]).sum(-1).amax(1)
        measured = right[:, :, drawn].mean(-1).amax(1)
        if drop:  # after the images are seen
            seen = torch.nn.functional.one_hot(drawn, points).amax(1).double()
            measured, T = torch.ones(()), 1
            deserved = ((p @ seen.T) * chance).sum(-1)
        root = math.sqrt(math.log(T) / (3 if mutant else 2) / n)
        gain = (measured * chance).sum(-1) - deserved
        wrong, total = wrong + (gain > root + TINY).sum(), total + N
        ratio = 0 if drop else max(ratio, gain.max() / root)
    return wrong, total, None if drop or mutant else ratio


def row(statement):
    "What the table says of one statement."
    function, claim, mutant, drops = CHECKS[statement]

    def counted(**how):
        wrong, total, ratio = function(**how)
        ratio = None if ratio is None else round(float(ratio), 3)
        return {"problems": int(total), "violations": int(wrong), "ratio": ratio}

    def short(**how):
        found = counted(**how)
        return {k: found[k] for k in ("problems", "violations")}

    return {
        "statement": statement,
        "claim": claim,
        **counted(),
        "mutant": {"what": mutant, **short(mutant=True)},
        "dropped": [{"what": drop, **short(drop=drop)} for drop in drops],
    }


def main():
    rows = [row(statement) for statement in CHECKS]
    TABLE.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    for r in rows:
        dropped = [f"{d['violations']}/{d['problems']}" for d in r["dropped"]]
        print(
            f"{r['statement']:<16} {r['violations']}/{r['problems']}  ratio {r['ratio']}"
            f"  mutant {r['mutant']['violations']}/{r['mutant']['problems']}"
            f"  dropped {', '.join(dropped)}"
        )


if __name__ == "__main__":
    main()
