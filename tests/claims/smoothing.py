"""Chapter 11: generalized label smoothing."""

import itertools

import torch
from claims.machine import (
    N,
    TINY,
    answers,
    check,
    differ,
    generator,
    squared,
    symmetric,
    zero_one,
)

from epsbook.losses import BackwardLoss, CELoss, ForwardLoss, GLSLoss
from epsbook.theory.risk import (
    FiniteProblem,
    loss_table,
    random_distributions,
    random_problems,
    random_transitions,
)


def smoothing(r, k):
    "S_r for rates of any shape (...), shape (..., k, k)."
    r = torch.as_tensor(r, dtype=torch.float64)[..., None, None]
    return (1 - r) * torch.eye(k) + r / k


def rates(count, seed=0, most=0.9):
    "Smoothing rates, half of them positive and below `most`, half down to -20."
    u = torch.rand(count, generator=generator(seed)).double()
    negative = 1 - 10 ** (1.32 * torch.rand(count, generator=generator(seed + 1)))
    return torch.where(torch.arange(count) % 2 == 0, most * u, negative.double())


def random_flips(count, k, seed):
    "Noise that leaves as many labels of each class as there are: mixed permutations."
    share = random_distributions(count, 4, generator=generator(seed))
    orders = torch.rand(count, 4, k, generator=generator(seed + 1)).argsort(-1)
    return (share[..., None, None] * torch.eye(k).double()[orders]).sum(1)


@check(
    "Theorem 11.2",
    "smoothing by r and then by s is smoothing by r + s - rs",
    "r + s for r + s - rs",
    "the share goes evenly to all classes (to the next one)",
    "r is below 1, so that it can be undone (r = 1)",
)
def group(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, s in itertools.product((2, 3, 10), (-9.0, -0.8, 0.3)):
        r = rates(N // 6, seed=k)
        one = r + s if mutant else r + s - r * s
        table = loss_table(CELoss(), answers(len(r), k, seed=k))[..., None]
        inner = loss_table(GLSLoss(r=s), answers(len(r), k, seed=k))[..., None]
        if "next" in drop:  # a share of the next class for one of all
            turn = torch.eye(k).double().roll(1, 1)

            def matrix(x, turn=turn):
                x = torch.as_tensor(x)[..., None, None]
                return (1 - x) * torch.eye(len(turn)) + x * turn

            both, claimed = matrix(r) @ matrix(s) @ table, matrix(one) @ table
        else:
            r = torch.ones_like(r) if "undone" in drop else r
            one = torch.ones_like(r) if "undone" in drop else one
            both, claimed = smoothing(r, k) @ inner, smoothing(one, k) @ table
        off, count, most = differ(both, claimed)
        back = (-r / (1 - r)).nan_to_num(neginf=-1e9)
        undone = smoothing(back, k) @ both
        lost = (undone - inner).abs() > 1e-6 * (1 + inner.abs())
        wrong = wrong + off + (0 if mutant or "next" in drop else lost.sum())
        total, ratio = total + count, max(ratio, most)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Theorem 11.3",
    "rate r on symmetric noise has the clean risk of rate κ + r - κr, for every answer",
    "η for κ",
    "wrong labels spread evenly (any T)",
    "one rate for all classes",
    "one rate for all inputs",
)
def noise_smooths(mutant=False, drop=""):
    wrong = total = ratio = 0
    bases = [CELoss(), squared, zero_one]
    for k, eta, r in itertools.product((2, 3, 10), (0.1, 0.4), (-6.0, -0.8, 0.3)):
        eta = eta * 2 * (k - 1) / k
        T = symmetric(eta, k)
        if "evenly" in drop:
            T = random_transitions(N // 9, k, seed=k)
        if "classes" in drop:
            each = torch.linspace(0, eta, k)
            T = symmetric(each, k)[torch.arange(k), torch.arange(k)]
        if "inputs" in drop:
            T = symmetric(torch.tensor([0, eta, eta]), k)
        problems = random_problems(N // 9, 3, k, seed=k)
        h = answers(N // 9, 3, k, seed=k + 1)
        kappa = eta if mutant else eta * k / (k - 1)
        one = kappa + r - kappa * r
        for base in bases:
            if base is bases[0]:
                found = problems.risk(GLSLoss(r=r), h, T)
                claimed = problems.risk(GLSLoss(r=one), h)
            else:
                table = loss_table(base, h)
                found = problems.risk(lambda x, t=table, r=r: smooth(t, r, x), h, T)
                claimed = problems.risk(lambda x, t=table, s=one: smooth(t, s, x), h)
            off, count, most = differ(found, claimed)
            wrong, total, ratio = wrong + off, total + count, max(ratio, most)
    return wrong, total, None if mutant or drop else ratio


def smooth(table, r, like):
    "(11.1) for the losses `table`, in the shape of the logits `like`."
    return ((1 - r) * table + r * table.mean(-1, keepdim=True)).reshape(like.shape)


@check(
    "Corollary 11.4",
    "backward correction of symmetric noise is smoothing by -κ/(1-κ), label by label",
    "-η/(1-η) for -κ/(1-κ)",
    "wrong labels spread evenly (any T)",
)
def backward(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, share in itertools.product((2, 3, 10), (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)):
        eta = share * (k - 1) / k
        h = answers(N // 6, k, seed=k)
        T = symmetric(eta, k)
        if drop:
            T = random_transitions(1, k, seed=k)[0, 0]
            eta = 1 - T.diagonal().mean().item()
        kappa = eta if mutant else eta * k / (k - 1)
        found = loss_table(BackwardLoss(transition=T), h)
        claimed = loss_table(GLSLoss(r=-kappa / (1 - kappa)), h)
        off = (found - claimed).abs() > 1e-7 * (1 + claimed.abs())
        large = claimed.abs() > 1e-2
        ratio = max(ratio, (found[large] / claimed[large]).max())
        wrong, total = wrong + off.sum(), total + off.numel()
    return wrong, total, None if mutant or drop else ratio


def divergence(q, p):
    "Kullback-Leibler divergence of p from q, along the last dimension."
    return (torch.special.xlogy(q, q) - q * p.log()).sum(-1)


@check(
    "Proposition 11.5",
    "backward's excess risk is the divergence, forward's that after the noise: less",
    "(1-κ)² for 1-κ",
    "wrong labels spread evenly (any T with a diagonal of 1-κ or less)",
    "all answers are allowed, so that both choose alike (two are)",
)
def forward(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, share in itertools.product((2, 3, 10), (0.2, 0.5, 0.9)):
        kappa = torch.tensor(share).double()
        T = smoothing(kappa, k)
        if "evenly" in drop:
            T = random_transitions(1, k, seed=k + int(10 * share))[0, 0]
            kappa = 1 - T.diagonal().min()
        problems = random_problems(N // 3, 1, k, seed=k)
        q = problems.posterior.clamp_min(1e-9)
        q = q / q.sum(-1, keepdim=True)
        problems = FiniteProblem(problems.p_x, q)
        q = problems.posterior
        h = answers(2, N // 3, 1, k, seed=k + 1)
        sure, half = q.argmax(-1, keepdim=True), len(q[:, 0]) // 2
        near = torch.zeros_like(q).scatter(-1, sure, 1.0)
        h[0, half:] = (0.999 * q + 0.001 * near)[half:].log()
        ahead, back = ForwardLoss(transition=T), BackwardLoss(transition=T)
        if "allowed" in drop:
            one, two = (problems.risk(x, h, T) for x in (ahead, back))
            bad = (one[0] < one[1]) != (two[0] < two[1])
            wrong, total = wrong + bad.sum(), total + len(bad)
            continue
        h = h[0]
        best = q.log()
        excess = [
            problems.risk(x, h, T) - problems.risk(x, best, T) for x in (ahead, back)
        ]
        p = h.softmax(-1)
        clean = divergence(q, p)[:, 0]
        noisy = divergence(q @ T, p @ T)[:, 0]
        scale = 1e-9 * (1 + problems.risk(CELoss(), h) / (1 - min(kappa.item(), 0.95)))
        bound = clean * (1 - kappa) ** (2 if mutant else 1)
        bad = (excess[0] - noisy).abs() > scale
        bad |= (excess[1] - clean).abs() > 100 * scale
        bad |= noisy > bound + scale
        table = loss_table(ahead, h)
        low, high = -T.diagonal().max().log(), -T.min().log()
        bad |= ((table < low - TINY) | (table > high + TINY)).any(-1)[:, 0]
        wrong, total = wrong + bad.sum(), total + len(bad)
        large = clean > 1e-4
        ratio = max(ratio, (noisy / bound)[large].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 11.6",
    "at the far end noise only shrinks: its risk is 1 - κ times the clean one",
    "1 - η for 1 - κ",
    "wrong labels spread evenly (any T)",
    "the limit is reached (r = -8)",
)
def far_end(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, share in itertools.product((2, 3, 10), (0.2, 0.5, 0.9)):
        eta = share * (k - 1) / k
        T = random_transitions(N, k, seed=k) if "evenly" in drop else symmetric(eta, k)
        problems = random_problems(N, 3, k, seed=k)
        h = answers(N, 3, k, seed=k + 2)
        table = loss_table(CELoss(), h)
        others = (table.sum(-1, keepdim=True) - table) / (k - 1)
        apart = table - others  # a label against one drawn from the others
        end = (k - 1) / k * apart
        far = loss_table(GLSLoss(r=-1e7), h) / (1 + 1e7)
        near = loss_table(GLSLoss(r=-8), h) / 9
        end = near if "reached" in drop else end
        bad = (end.sum(-1).abs() > 1e-8 * table.sum(-1)).any(-1)
        if not drop:
            size = 1e-6 * table.sum(-1, keepdim=True)
            bad |= ((far - end).abs() > size).flatten(1).any(-1)
        found = problems.risk(lambda x, t=end: t.reshape(x.shape), h, T)
        claimed = problems.risk(lambda x, t=end: t.reshape(x.shape), h)
        claimed = (1 - (eta if mutant else share)) * claimed
        bad |= (found - claimed).abs() > TINY * claimed.abs().clamp_min(1)
        large = claimed.abs() > 1e-3
        ratio = max(ratio, (found[large] / claimed[large]).max())
        wrong, total = wrong + bad.sum(), total + len(bad)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 11.7",
    "with equal noisy priors peer loss is 1 - α times smoothing by -α/(1-α)",
    "-α for -α/(1-α)",
    "all labels are given equally often",
)
def peer(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, alpha in itertools.product((2, 3, 5), (0.2, 0.5, 0.9)):
        count = N // 3
        if drop:
            problems = random_problems(count, k, k, seed=k)
        else:  # every input K times, its classes turned: all are equally frequent
            q = random_distributions(count, 1, k, generator=generator(k))
            q = torch.cat([q.roll(i, -1) for i in range(k)], 1)
            problems = FiniteProblem(torch.full((count, k), 1 / k), q)
        T = random_flips(count, k, seed=k)[:, None]
        h = answers(count, k, k, seed=k + 3)
        given = problems.noisy_posterior(T)
        table = loss_table(CELoss(), h)
        one = torch.einsum("nx,nxj,nxj->n", problems.p_x, given, table)
        two = torch.einsum("nx,nz,nzj,nxj->n", problems.p_x, problems.p_x, given, table)
        found = one - alpha * two
        r = -alpha if mutant else -alpha / (1 - alpha)
        claimed = (1 - alpha) * problems.risk(GLSLoss(r=r), h, T)
        off, number, most = differ(found, claimed)
        wrong, total, ratio = wrong + off, total + number, max(ratio, most)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 11.8",
    "bounded below if and only if (1-r) q + r/K has no negative entry; then that is best",
    "an entry of -0.01 is allowed",
    "logits may be as large as they like (up to 1)",
)
def bounded(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        q = random_distributions(2 * N // 3, k, generator=generator(k))
        least = q.min(-1).values
        border = k * least / (k * least - 1)  # the r at which an entry becomes 0
        u = torch.rand(len(q), generator=generator(k + 1)).double()
        r = border + 0.5 * (u - 0.5)
        r = torch.where(torch.arange(len(q)) % 4 == 0, border * (1 - 1e-9), r)
        r = torch.where(torch.arange(len(q)) % 4 == 1, border - 0.005 * k * u, r)
        r = r.clamp_max(0.99)
        t = (1 - r)[:, None] * q + r[:, None] / k
        holds = t.min(-1).values >= (-0.01 if mutant else 0)
        # How low does the loss get? Along a ray, away from the worst class.
        size = 1.0 if "logits" in drop else 1e9
        ray = -size * torch.nn.functional.one_hot(t.argmin(-1), k).double()
        near = answers(20, len(q), k, seed=k + 2)
        if "logits" in drop:
            ray, near = ray, near / near.abs().amax(-1, keepdim=True).clamp_min(1)
        h = torch.cat([ray[None], 1e3 * near, near])
        table = loss_table(CELoss(), h)
        smoothed = (1 - r)[:, None] * table + r[:, None] * table.mean(-1, keepdim=True)
        low = (q * smoothed).sum(-1).amin(0)
        entropy = -torch.special.xlogy(t, t.clamp_min(1e-300)).sum(-1)
        falls = low < -5
        clear = t.min(-1).values.abs() > 1e-7
        fine = holds & (t.min(-1).values >= 0)
        bad = (holds == falls) & clear
        bad |= fine & (low < entropy - 1e-9)
        p = t[fine].log()
        at = loss_table(CELoss(), p)
        rr, qq = r[fine][:, None], q[fine]
        reached = (qq * ((1 - rr) * at + rr * at.mean(-1, keepdim=True))).sum(-1)
        finite = t[fine].min(-1).values > 1e-9
        off = (reached - entropy[fine]).abs() > 1e-6
        wrong += bad.sum() + (off & finite).sum()
        total += len(q)
        if not (mutant or drop):
            rest = fine & (entropy > 1e-3)
            ratio = max(ratio, (entropy[rest] / low[rest]).max())
    return wrong, total, None if mutant or drop else ratio
