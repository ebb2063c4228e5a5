"""Chapters 1 and 2: noise, and what it leaves in order."""

import itertools

import torch
from claims.machine import N, TINY, check, differ, generator, symmetric

from epsbook.noise import NoiseSpec, in_place_transition
from epsbook.theory.risk import random_distributions, random_transitions


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
