"""Chapter 7: asymmetric losses."""

import math

import torch
from claims.machine import N, check, generator

from epsbook.losses import AELLoss, AGCELoss, AULLoss
from epsbook.theory.risk import random_distributions

# Falling curves on [0, 1], (count, 1): values at s of shape (count, n), and -slopes.


def convex(count, seed):
    "A log, an exponential, a power and a line, mixed."
    g = generator(seed)
    c = torch.rand(4, count, 1, generator=g).double() ** 2 + 1e-3
    b = 10 ** (-2 * torch.rand(3, count, 1, generator=g).double())
    e = torch.rand(count, 1, generator=g).double()

    def value(s):
        power = (1 - (s + b[2]) ** e) / e
        curve = -c[0] * (s + b[0]).log() + c[1] * (-s / b[1]).exp()
        return curve + c[2] * power - c[3] * s

    def slope(s):
        curve = c[0] / (s + b[0]) + c[1] / b[1] * (-s / b[1]).exp()
        return curve + c[2] * (s + b[2]) ** (e - 1) + c[3]

    return value, slope


def concave(count, seed):
    "The same, turned about the middle."
    value, slope = convex(count, seed)
    return lambda s: -value(1 - s), lambda s: slope(1 - s)


def steep_middle(count, seed):
    "Convex ones with a steep part between 0.05 and 0.3, and so neither."
    value, slope = convex(count, seed)
    size = 5 * slope(torch.zeros(1, 1))

    def more(s):
        return -size * ((s - 0.05).clamp(0, 0.25))

    def here(s):
        return size * ((s > 0.05) & (s < 0.3))

    return lambda s: value(s) + more(s), lambda s: slope(s) + here(s)


def stepped(value, size):
    "The curve with a step down at 0.1, (count, 1); slopes stay."
    return lambda s: value(s) - size * (s > 0.1)


def ends(slope):
    "-slopes at 0 and at 1, (count,)."
    return tuple(slope(torch.full((1, 1), float(s)).double())[:, 0] for s in (0, 1))


def labels(odds, k, seed):
    "Label probabilities with these odds, (count,): those of label 2; others less."
    q = torch.rand(len(odds), k, generator=generator(seed)).double() * odds[:, None]
    q[:, 0], q[:, 1] = 1, odds
    return q / q.sum(-1, keepdim=True)


def beaten(value, q, seed):
    "Does any of many answers, or of the steps toward label 2, beat the corner?"
    count, k = q.shape
    corner = torch.eye(k)[0].double()
    step = torch.logspace(-6, -0.02, 25).double()[:, None, None]
    steps = corner + step * (torch.eye(k)[1] - corner)
    p = random_distributions(25, count, k, generator=generator(seed))
    best = torch.zeros(count).double()
    for answer in (*p, *steps.expand(-1, count, -1)):
        # Differences first, label by label: small steps keep their digits.
        gain = q * (value(answer) - value(corner.expand(count, -1)))
        best = torch.minimum(best, gain.sum(-1))
    return best < -1e-13


@check(
    "Theorem 7.2",
    "the corner of a convex curve is best if and only if the odds are at most "
    "ℓ'(1)/ℓ'(0), of a concave one for all odds below 1",
    "1.1 ℓ'(1)/ℓ'(0)",
    "ℓ is convex or concave (a steep middle)",
    "t is the likeliest (label 2 is)",
)
def two_slopes(mutant=False, drop=""):
    wrong = total = ratio = 0
    below, above = 0.999, 1.02
    for k in (2, 3, 10):
        kind = steep_middle if "middle" in drop else convex
        value, slope = kind(N // 3, k)
        first, last = ends(slope)
        limit = (1.1 if mutant else 1) * last / first
        if "likeliest" in drop:
            value, _ = concave(N // 3, k)
            limit = torch.full_like(first, 1.05)
        lost = beaten(value, labels(below * limit.clamp_max(1.1), k, k + 1), k)
        wrong, total = wrong + lost.sum(), total + len(lost)
        if drop or mutant:
            continue
        found = beaten(value, labels(above * limit, k, k + 2), k)
        wrong, total = wrong + (~found).sum(), total + len(found)
        x = torch.logspace(-5, 0, 60).double()[None]
        cost, gain = (value(b) - value(a) for b, a in ((1 - x, x * 0 + 1), (x, x * 0)))
        ratio = max(ratio, (limit / (cost / -gain).min(-1).values).max())
        value, _ = concave(N // 3, k)
        lost = beaten(value, labels(torch.full_like(limit, below), k, k + 3), k)
        wrong, total = wrong + lost.sum(), total + len(lost)
    return wrong, total, ratio or None


def family(count, seed):
    "Losses of the three families, and their tolerated ratios without the cap."
    u = torch.rand(count, 2, generator=generator(seed)).double().tolist()
    for i, (x, z) in enumerate(u):
        a, q = 10 ** (3 * x - 2), 0.02 + 3 * z
        if i % 3 == 0:
            yield AGCELoss(a=a, q=q), (a / (a + 1)) ** (1 - q)
        elif i % 3 == 1:
            yield AULLoss(a=1 + a, q=q), (a / (a + 1)) ** (q - 1)
        else:
            yield AELLoss(a=0.1 + a), math.exp(-1 / (0.1 + a))


@check(
    "Corollary 7.3",
    "the tolerated ratios of AGCE, AUL and AEL, against chords of the losses",
    "1.1 times the ratio",
    "no more than 1 (the formula without min)",
)
def three_families(mutant=False, drop=""):
    x = torch.logspace(-5, 0, 40).double()
    near, far = (-x[:-1]).log1p(), x.log()
    ones = torch.zeros(1).double()
    wrong, most, count = 0, 0.0, N
    for loss, claimed in family(count, 7):
        claimed = claimed if drop else min(claimed, 1)
        claimed *= 1.1 if mutant else 1

        def at(log_p, loss=loss):
            return loss.phi(log_p, log_p > 1)

        cost = at(near) - at(ones)
        gain = at(torch.full((1,), -800.0).double()) - at(far[:-1])
        found = min((cost / gain).min().item(), 1.0)
        # The chords reach the slopes as steps get small; 1 is a step to a corner.
        wrong += not claimed - 1e-9 <= found <= claimed * 1.002 + 1e-9
        most = max(most, claimed / found)
    return wrong, count, None if mutant or drop else most


def two_sloped(count, seed, k):
    "Steep up to 1/k, and then flat: as good as the bound allows."
    g = generator(seed)
    steep = 1 + 20 * torch.rand(count, 1, generator=g).double()

    def slope(s):
        return torch.where(s <= 1 / k, steep, 1.0)

    return None, slope


@check(
    "Proposition 7.4",
    "w(1/K)/w(1) ≤ 1/(r* K), and the time to even odds is at least r* that of MAE",
    "0.9/(r* K)",
    "ℓ is convex or concave (a steep middle)",
)
def price(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (3, 10, 100):
        kinds = (convex, concave, lambda n, s, k=k: two_sloped(n, s, k))
        for kind in (steep_middle,) if drop else kinds:
            value, slope = kind(N // 3, k)
            first, last = ends(slope)
            tolerated = (last / first).clamp_max(1)
            if drop:  # by chords, which is all that is left to define it
                x = torch.linspace(0, 1, 400).double()[None, 1:]
                cost, gain = value(1 - x) - value(x * 0 + 1), value(x * 0) - value(x)
                tolerated = (cost.div(x).amin(-1) / gain.div(x).amax(-1)).clamp_max(1)
            s = torch.linspace(1 / k, 0.5, 200).double()[None]
            start = s[:, :1] * slope(s[:, :1]) / last[:, None]
            most = (0.9 if mutant else 1) / (tolerated * k)
            # Time: integral of ds / (w (1 - s)^2 s), but for a factor of K.
            both = (
                1 / (s * (1 - s) ** 2 * x) for x in (slope(s) * s, last[:, None] * s)
            )
            took, mae = (torch.trapezoid(y, s) for y in both)
            slow = took >= tolerated * mae * (1 - 1e-9)
            bad = (start[:, 0] > most * (1 + 1e-9)) | ~slow
            wrong, total = wrong + bad.sum(), total + len(bad)
            ratio = max(ratio, (start[:, 0] / most).max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Corollary 7.5",
    "a continuous falling curve, kinks or not, tolerates 1/v; a convex one no more",
    "1.1/v",
    "v takes in all slopes (those at the ends)",
    "ℓ is continuous (a step down at 0.1)",
)
def variation(mutant=False, drop=""):
    wrong = total = 0
    s = torch.linspace(0, 1, 4001).double()[None]
    for k in (2, 3, 10):
        for kind in (convex, concave, steep_middle):
            value, slope = kind(N // 6, k)
            slopes = slope(s[:, [0, -1]] if "ends" in drop else s)
            if "continuous" in drop:
                value = stepped(value, slopes.amax(-1, keepdim=True))
            v = slopes.amax(-1) / slopes.amin(-1)
            odds = ((1.1 if mutant else 1) / v).clamp_max(0.999)
            lost = beaten(value, labels(0.999 * odds, k, k + 1), k)
            wrong, total = wrong + lost.sum(), total + len(lost)
            if kind is convex and not (mutant or drop):
                found = beaten(value, labels(1.02 / v, k, k + 1), k)
                wrong, total = wrong + (~found).sum(), total + len(found)
    return wrong, total, None
