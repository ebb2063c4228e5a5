"""Chapters 15 to 17: data, networks, training."""

import itertools
import math

import torch
from claims.machine import N, TINY, check, generator, symmetric

from epsbook.theory.risk import random_distributions, random_transitions


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
