"""Chapter 8: ε-softmax."""

import torch
from claims.machine import N, TINY, answers, check, generator

from epsbook.losses import EpsCELoss, MAELoss, eps_softmax, epsilon
from epsbook.theory.risk import loss_table, random_distributions, simplex_grid


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
