"""What the checks of numbered claims share: problems, answers, and a register."""

import torch

from epsbook.theory.risk import random_distributions

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
