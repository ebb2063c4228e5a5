"""Chapter 14: confident learning."""

import numpy as np
from claims.machine import N, check, generator

from epsbook.confident import confident_joint, thresholds


def numbers(seed):
    return np.random.default_rng(generator(seed).initial_seed())


def drawn(rng, k, n=80, skew=1.0):
    "True classes, a matrix T whose diagonal leads, and labels drawn from it."
    share = rng.dirichlet(np.full(k, skew)) * 0.7 + 0.3 / k
    true = rng.choice(k, n, p=share)
    off = rng.dirichlet(np.ones(k - 1), k) * rng.uniform(0, 0.8, (k, 1))
    t = np.zeros((k, k))
    t[~np.eye(k, dtype=bool)] = off.ravel()
    t[range(k), range(k)] = 1 - t.sum(1)
    return true, t


def leads(t, *, row=True, column=True):
    "Whether each diagonal entry is the largest of its row, and of its column."
    d, other = t.diagonal(), t - 2 * np.eye(len(t))
    ok = not row or (d > other.max(1) + 1e-5).all()
    return ok and (not column or (d >= other.max(0) - 1e-12).all())


def labels(rng, t, true):
    "One label for each example, from its row of T."
    u = rng.random(len(true))[:, None]
    return (u > t[true].cumsum(1)[:, :-1]).sum(1)


def counts(given, true, k):
    return np.bincount(given * k + true, minlength=k * k).reshape(k, k)


def raised(given, probs, factor):
    "The joint where each class passes at a multiple of its mean."
    passes = probs >= thresholds(given, probs) * factor
    best, keep = np.where(passes, probs, -1).argmax(1), passes.any(1)
    return counts(given[keep], best[keep], probs.shape[1])


@check(
    "Theorem 14.2",
    "ideal answers and a leading diagonal: the joint counts given and true labels exactly",
    "thresholds a twentieth higher",
    "the diagonal leads its row",
    "the diagonal leads its column",
    "the answer depends on the class only (two kinds of image)",
    "every class is given at least once (one is not)",
    "answers are of images not seen (their own label, learned by heart)",
)
def ideal(mutant=False, drop=""):
    rng, wrong, total = numbers(0), 0, 0
    row, column = "row" not in drop, "column" not in drop
    while total < (1_000 if drop or mutant else N):
        k = int(rng.integers(2, 6))
        true, t = drawn(rng, k, n=15 if "once" in drop else 80)
        if not leads(t, row=row, column=column):
            continue
        if not (row and column) and leads(t):
            continue
        probs = t[true]
        if "kinds" in drop:  # half of the images are harder, and still lead
            hard = rng.random(len(true)) < 0.5
            mean = 0.6 * np.eye(k) + 0.4 * t
            probs = np.where(hard[:, None], probs, mean[true])
            given = (rng.random((len(true), 1)) > probs.cumsum(1)[:, :-1]).sum(1)
        else:
            given = labels(rng, t, true)
        if "heart" in drop:
            probs = np.eye(k)[given]
        absent = np.setdiff1d(true, given)
        if len(absent if "once" in drop else np.setdiff1d(range(k), given)) != (
            "once" in drop
        ):
            continue
        found = confident_joint(given, probs)
        if mutant:
            found = raised(given, probs, 1.05)
        wrong += (found != counts(given, true, k)).any()
        total += 1
    return wrong, total, None


@check(
    "Proposition 14.3",
    "a stretch and a shift of each class's probability leave the joint exact",
    "a stretch and a shift of each image's",
    "no image passes two thresholds",
    "the stretch is above 0",
    "the answers were ideal before (two kinds of image)",
)
def stretched(mutant=False, drop=""):
    rng, wrong, total = numbers(1), 0, 0
    while total < (1_000 if drop or mutant else N):
        k = int(rng.integers(2, 6))
        true, t = drawn(rng, k)
        given = labels(rng, t, true)
        if not leads(t, row=False) or len(np.unique(given)) < k:
            continue
        t_j = thresholds(given, t[true])
        # Slack aside: differences of 1e-6 pass, whatever the stretch.
        clash = (t >= t_j - 1e-3) & ~np.eye(k, dtype=bool)
        if clash[np.unique(true)].any() != ("passes two" in drop):
            continue
        shape = (len(true), 1) if mutant else (1, k)
        a, b = rng.uniform(0.2, 2, shape), rng.uniform(-1, 1, shape)
        if "above" in drop:
            a[:, 0] *= -1
        probs = t[true]
        if (
            "passes two" in drop
            and (confident_joint(given, probs) != counts(given, true, k)).any()
        ):
            continue  # wrong without a stretch
        if "kinds" in drop:  # half of the images are harder, and still lead
            hard = rng.random(len(true)) < 0.5
            probs = np.where(hard[:, None], probs, (0.6 * np.eye(k) + 0.4 * t)[true])
        found = confident_joint(given, a * probs + b)
        wrong += (found != counts(given, true, k)).any()
        total += 1
    return wrong, total, None
