"""Chapter 3: exact risks and their minima."""

import torch
from claims.machine import N, TINY, answers, check, differ, generator

from epsbook.losses import CELoss
from epsbook.noise import NoiseSpec
from epsbook.theory.risk import (
    best_of,
    enumerated_problems,
    loss_table,
    random_distributions,
    random_problems,
    random_transitions,
    simplex_grid,
)


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
        ours = ours.round(decimals=12)  # ties stay ties on every processor
    if drop:
        chosen = best_of(problems, CELoss(), others[:, :4]).index
        ours = others[torch.arange(count), chosen]
    wrong = torch.zeros(count, dtype=torch.bool)
    for k in (1, 2, 3):
        least = torch.stack([problems.error(others[:, f], k) for f in range(8)])
        wrong |= problems.error(ours, k) > least.min(0).values + TINY
    return wrong.sum(), count, None
