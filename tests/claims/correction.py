"""Chapter 12: losses that know how labels go wrong, and what can be known of it."""

import math

import torch
from claims.machine import N, TINY, answers, check, differ, generator, symmetric

from epsbook.losses import BackwardLoss, CELoss, ForwardLoss, GCELoss, MAELoss
from epsbook.losses import NoiseAdaptationLoss
from epsbook.noise import NoiseSpec
from epsbook.noise.estimate import estimate_rate
from epsbook.theory.risk import loss_table, random_distributions, random_problems
from epsbook.theory.risk import random_transitions


def eye(k):
    return torch.eye(k, dtype=torch.float64)


def matrices(count, k, seed=0):
    "Random T with a leading diagonal, (count, k, k); few are near singular."
    T = random_transitions(count, k, seed=seed)[:, 0]
    return 0.9 * T + 0.1 * eye(k)


def through(T, p):
    "T' p, for a batch of both."
    return (p.unsqueeze(-2) @ T).squeeze(-2)


def kl(q, p):
    "Relative entropy of rows; 0 log 0 is 0."
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)


@check(
    "Proposition 12.1",
    "noise adaptation: its range, and its gradient weight p/(p + c/s)",
    "c for c/s in the weight",
    "the noise is symmetric (pair noise of the same rate)",
)
def adaptation(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10) if not drop else (3, 10):
        h = answers(N, k, seed=k).requires_grad_()
        y = torch.randint(0, k, (N,), generator=generator(k))
        eta = (
            0.001 + 0.95 * (k - 1) / k * torch.rand(N, generator=generator(1)).double()
        )
        c, s = eta / (k - 1), 1 - eta * k / (k - 1)
        T = symmetric(eta, k)
        if drop:
            part = eta[:, None, None]
            T = (1 - part) * eye(k) + part * eye(k).roll(1, 1)
        p = h.softmax(-1)
        loss = -through(T, p).gather(-1, y[:, None])[:, 0].log()
        (slope,) = torch.autograd.grad(loss.sum(), h)
        p_y = p.detach().gather(-1, y[:, None])
        w = p_y / (p_y + (c / (1 if mutant else s))[:, None])
        claimed = w * (p.detach() - eye(k)[y])
        off = (slope - claimed).abs().max(-1).values > 1e-10
        loss = loss.detach()
        off |= (loss > -c.log() + TINY) | (loss < -(c + s).log() - TINY)
        wrong, total = wrong + off.sum(), total + N
        ratio = max(ratio, (loss / -c.log()).max())
        if not (mutant or drop):  # and it is the library's
            ours = NoiseAdaptationLoss(noise_rate=0.3, inclusive=True)
            found = ours.per_sample(h.detach(), y)
            off, n, _ = differ(found, -(0.3 / k + 0.7 * p_y[:, 0]).log())
            wrong, total = wrong + off, total + n
    return wrong, total, None if mutant or drop else ratio


@check(
    "Theorem 12.2",
    "forward: the excess noisy risk of p bounds its distance from the posterior",
    "0.95 of half the largest distance of two rows of the inverse",
    "the matrix is that of the noise (another one)",
    "it can be inverted (two equal rows)",
)
def forward(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 5):
        T = matrices(N, k, k)
        T[::4] = symmetric(
            0.9 * (k - 1) / k * torch.rand(N, generator=generator(2)), k
        )[::4]
        q, p = (random_distributions(N, k, generator=generator(i)) for i in (3, 4))
        q[::2] = 0.5 / k + 0.5 * q[::2]
        side = eye(k)[torch.randint(k, (N,), generator=generator(5))]
        p[::2] = 0.99 * q[::2] + 0.01 * side[::2]  # near the posterior
        q[::8] = 1 / k
        p[::8] = q[::8]
        p[::8, 0] += 1e-2
        p[::8, 1] -= 1e-2
        if "inverted" in drop:
            T[:, 1] = T[:, 0]
        rows = torch.linalg.pinv(T)
        norm = (rows[:, :, None] - rows[:, None]).abs().sum(-1).flatten(1).amax(1) / 2
        other = matrices(N, k, k + 1) if "another" in drop else T
        noisy = through(other, q)
        excess = kl(noisy, through(T, p)) - kl(noisy, through(T, q))
        far = (p - q).abs().sum(-1)
        norm = norm * (0.95 if mutant else 1)
        limit = norm * (2 * excess.clamp_min(0)).sqrt()
        # The upper half of the claim: no more than without noise.
        off = (far > limit * (1 + 1e-6) + 1e-6) | (excess > kl(q, p) + TINY)
        wrong, total = wrong + off.sum(), total + N
        large = far > 1e-3
        ratio = max(ratio, (far / limit)[large].max())
    if not (mutant or drop):  # the excess is that of the library's loss
        problems = random_problems(N, 1, 3, seed=1)
        for T in (NoiseSpec.pair(0.4).transition(3), symmetric(0.4, 3)):
            T = torch.as_tensor(T)
            h = answers(N, 1, 3, seed=2)
            loss = ForwardLoss(transition=T)
            found = problems.risk(loss, h, T) - problems.risk(
                loss, problems.posterior.log().clamp_min(-60), T
            )
            q, p = problems.posterior[:, 0], h.softmax(-1)[:, 0]
            off = (found - kl(q @ T, p @ T)).abs() > 1e-8
            wrong, total = wrong + off.sum(), total + N
    return wrong, total, None if mutant or drop else ratio


def level(noisy, rate):
    "Best answers for a symmetric matrix of inclusive `rate`: water-filling."
    k = noisy.shape[-1]
    floor = (rate / k)[:, None]
    order = noisy.sort(-1, descending=True).values
    best = torch.zeros_like(noisy)
    for n in range(1, k + 1):  # the first n classes stand above the floor
        lam = order[:, :n].sum(-1, keepdim=True) / (1 - (k - n) * floor)
        z = torch.maximum(noisy / lam, floor)
        fits = (order[:, n - 1 : n] >= floor * lam)[:, 0]
        if n < k:
            fits &= (order[:, n : n + 1] <= floor * lam)[:, 0]
        best[fits] = ((z - floor) / (1 - rate[:, None]))[fits]
    return best


def beaten(T, noisy, best, seed):
    "Where a step from `best` toward another answer has a lower expected loss."
    off = torch.zeros(len(best), dtype=torch.bool)
    least = -torch.xlogy(noisy, through(T, best)).sum(-1)
    k = best.shape[-1]
    for i in range(3):
        rival = random_distributions(N, k, generator=generator(seed + i))
        rival = eye(k)[rival.argmax(-1)] if i == 2 else rival
        for step in (0.01, 0.3):
            found = through(T, (1 - step) * best + step * rival)
            off |= -torch.xlogy(noisy, found).sum(-1) < least - TINY
    return off


def gap(T, noisy, p):
    "By how much the mean forward loss of p can exceed the least, at most."
    ahead = (noisy / through(T, p).clamp_min(1e-300)).unsqueeze(-2) * T
    return ahead.sum(-1).max(-1).values - 1


def outside(mutant):
    "(12.7): pair noise, a certain answer; violations and problems."
    wrong = total = 0
    for k in (3, 5, 10):
        eta, said = 0.02 + 0.96 * torch.rand(2, N, generator=generator(k)).double()
        T, assumed = (
            (1 - x)[:, None, None] * eye(k) + x[:, None, None] * eye(k).roll(1, 1)
            for x in (eta, said)
        )
        low, high = eta / (1 + eta), 1 / (2 - eta)
        if mutant:
            low, high = low / 1.1, high * 1.1
        inside = (said >= low) & (said <= high)
        clear = ((said - low).abs() > 1e-6) & ((said - high).abs() > 1e-6)
        sure = eye(k)[torch.zeros(N, dtype=torch.long)]
        near = sure * (1 - 1e-7) + 1e-7 / k
        off = gap(assumed, T[:, 0], near) > 1e-5
        wrong, total = wrong + (clear & (off == inside)).sum(), total + clear.sum()
    return wrong, total


@check(
    "Proposition 12.3",
    "a wrong matrix: the best answer inside and at the border; how far off for pairs",
    "cut at 0 and divided by the sum; a window a tenth wider",
    "the formula has no negative entry",
    "the floor is the same for all classes (pair noise, classes cut off)",
)
def wrong_matrix(mutant=False, drop=""):
    wrong = total = 0
    for k in (2, 3, 5, 10):
        q = random_distributions(N, k, generator=generator(k))
        noisy = through(matrices(N, k, k), q)
        assumed = matrices(N, k, k + 1)
        formula = torch.linalg.solve(assumed.mT, noisy[..., None])[..., 0]
        inside = (formula >= 0).all(-1)
        if "negative" in drop:  # outside: cut, it is not the best
            cut = formula.clamp_min(0)
            cut = cut / cut.sum(-1, keepdim=True)
            off = gap(assumed, noisy, cut)[~inside] > 1e-6
            wrong, total = wrong + off.sum(), total + len(off)
            continue
        rate = 0.99 * torch.rand(N, generator=generator(7)).double()
        even = symmetric(rate * (k - 1) / k, k)
        best = level(noisy, rate)
        if mutant:
            best = ((noisy - (rate / k)[:, None]) / (1 - rate[:, None])).clamp_min(0)
            best = best / best.sum(-1, keepdim=True)
        if "floor" in drop:
            pair = (1 - rate)[:, None, None] * eye(k) + rate[:, None, None] * eye(
                k
            ).roll(1, 1)
            best, even = level(noisy, rate), 0.999 * pair + 0.001 / k
        off = (gap(even, noisy, best) > 1e-8) | beaten(even, noisy, best, k)
        off |= (best < 0).any(-1) | ((best.sum(-1) - 1).abs() > 1e-8)
        # The order of the noisy posterior is kept.
        above = noisy[:, :, None] > noisy[:, None] + TINY
        off |= (above & (best[:, :, None] < best[:, None] - TINY)).any((1, 2))
        wrong, total = wrong + off.sum(), total + N
        if not (mutant or drop):
            off = (gap(assumed, noisy, formula) > 1e-8)[inside]
            off |= beaten(assumed, noisy, formula.clamp_min(0), k)[inside]
            wrong, total = wrong + off.sum(), total + len(off)
    if not drop:
        off, n = outside(mutant)
        wrong, total = wrong + off, total + n
    return wrong, total, None


LOSSES = (CELoss(), MAELoss(), GCELoss(q=0.7))


def corrected(T, table):
    "Backward: the losses of all labels, weighed by the rows of the inverse."
    return torch.linalg.solve(T, table[..., None])[..., 0]


@check(
    "Theorem 12.4",
    "backward: its mean over the noise is the clean loss, for every loss and answer",
    "the transpose of the inverse",
    "the matrix is that of the noise (the rate a tenth too small)",
    "one matrix for all inputs (two, and their mean)",
)
def backward(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        T = matrices(N, k, k)
        if "too small" in drop:
            real = T
            T = eye(k) + 0.9 * (T - eye(k))
        elif "inputs" in drop:
            real, T = T, (T + matrices(N, k, k + 1)) / 2
        else:
            real = T
        for loss in LOSSES:
            table = loss_table(loss, answers(N, k, seed=k + 2))
            weighed = corrected(T.mT if mutant else T, table)
            found = (real @ weighed[..., None])[..., 0]
            off, n, r = differ(found, table)
            wrong, total, ratio = wrong + off, total + n, max(ratio, r)
    if not (mutant or drop):
        T = torch.as_tensor(NoiseSpec.pair(0.3).transition(5))
        h = answers(N, 5, seed=1)
        found = loss_table(BackwardLoss(transition=T), h) @ T.mT
        off, n, r = differ(found, loss_table(CELoss(), h))
        wrong, total, ratio = wrong + off, total + n, max(ratio, r)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 12.5",
    "backward: variance times 1/(1-κ)², and below every bound for some answer",
    "1/(1-η)² for 1/(1-κ)², and the inverse transposed",
    "the noise is symmetric (pair noise)",
    "the matrix moves some label (a permutation)",
)
def price(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        eta = 0.95 * (k - 1) / k * torch.rand(N, generator=generator(k)).double()
        T = symmetric(eta, k)
        if "symmetric" in drop:
            part = (0.45 * torch.rand(N, generator=generator(k)).double())[
                :, None, None
            ]
            T = (1 - part) * eye(k) + part * eye(k).roll(1, 1)
            eta = part[:, 0, 0]
        kappa = eta * k / (k - 1)
        if "permutation" not in drop:
            table = loss_table(GCELoss(q=0.7), answers(N, k, seed=k))
            weighed = corrected(T, table)
            q = random_distributions(N, k, generator=generator(k + 1))

            def spread(values, T=T, q=q):
                mean = (T @ values[..., None])[..., 0]
                square = (T @ values[..., None] ** 2)[..., 0]
                return (q * (square - mean**2)).sum(-1)

            found, plain = spread(weighed), spread(table)
            by = (1 - (eta if mutant else kappa)) ** 2
            off = (found * by - plain).abs() > 1e-9 * found.abs().clamp_min(1)
            clear = (plain > 1e-6) & (eta > 0.02)
            wrong, total = wrong + (off & clear).sum(), total + clear.sum()
            ratio = max(ratio, (found * by / plain)[clear].max())
        # A class that p nearly leaves out, at a label whose row is negative there.
        T = 0.95 * matrices(N, k, k + 3) + 0.05 / k
        if "permutation" in drop:
            T = eye(k).roll(1, 1).double().expand(N, k, k)
        inverse = torch.linalg.inv(T)
        least = inverse.flatten(1).argmin(-1)
        label, out = least // k, least % k
        rows = torch.arange(N)
        low = []
        for size in (10.0, 1000.0):
            h = torch.zeros(N, k).double()
            h[rows, out] = -size
            ce = -h.log_softmax(-1)
            low.append((inverse[rows, label] * ce).sum(-1))
        # The slope is the negative entry, up to what the others lose.
        slope = (low[1] - low[0]) / 990
        claimed = inverse[rows, out, label] if mutant else inverse[rows, label, out]
        off = (slope - claimed).abs() > 1e-3 * inverse.abs().amax((1, 2))
        off |= slope > -1e-6
        wrong, total = wrong + off.sum(), total + N
    return wrong, total, None if mutant or drop else ratio


@check(
    "Theorem 12.6",
    "with certain inputs the true matrix has the least volume, and the least trace",
    "0.95 of the rival's volume and trace",
    "each class has a certain input (none does)",
    "the rival's diagonal leads its columns, for the trace",
)
def volume(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 5, 10):
        rival = matrices(N, k, k)
        column = rival.max(-2).values
        leads = (rival.diagonal(dim1=-2, dim2=-1) >= column).all(-1)
        # What the rival answers for the certain inputs: any distributions.
        M = random_distributions(N, k, k, generator=generator(k))
        near = torch.rand(N, 1, 1, generator=generator(k + 1)).double() ** 2
        M[::2] = (1 - near[::2] / 2) * eye(k) + near[::2] / 2 * M[::2]
        M[::50] = eye(k).roll(1, 0)  # another order of the rows
        true = M @ rival
        if "certain" in drop:  # no class less likely than 0.1 / k
            true = rival
            rival = (0.9 * eye(k) + 0.1 / k) @ true
            q = 0.1 / k + 0.9 * random_distributions(N, k, generator=generator(k))
            p = (q - 0.1 / k) / 0.9  # the rival's answers, and they explain the labels
            assert (through(rival, p) - through(true, q)).abs().max() < TINY
        det, most = torch.linalg.det(true).abs(), torch.linalg.det(rival).abs()
        off = det > most * (0.95 if mutant else 1) + 1e-12
        if not (mutant or drop):  # equal volume: only in another order
            corners = M.amax(-1).amin(-1)
            off |= (det > most * (1 - 1e-9)) & (corners < 1 - 1e-6)
            order = (corners == 1) & (M.sum(-2) == 1).all(-1)
            off |= (det < most * (1 - 1e-9)) & order & (most > 1e-6)
        trace = true.diagonal(dim1=-2, dim2=-1).sum(-1)
        top = rival.diagonal(dim1=-2, dim2=-1).sum(-1)
        more = trace > top * (0.95 if mutant else 1) + 1e-9
        if "trace" in drop:  # the rival in another order
            top = rival.roll(1, -2).diagonal(dim1=-2, dim2=-1).sum(-1)
            off, more, leads = off & False, trace > top + 1e-9, leads | True
        off |= more & leads
        wrong, total = wrong + off.sum(), total + N
        ratio = max(ratio, (det / most)[most > 1e-6].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 12.7",
    "agreement of sure predictions gives the rate; its variance is that of a share",
    "K for K - 1 in the factor",
    "the noise is symmetric (pair noise)",
    "the accuracy is known (0.05 less than it is)",
)
def rate_from_agreement(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        g = generator(k)
        # Any joint law of true class and prediction.
        joint = random_distributions(N, k * k, generator=g).reshape(N, k, k)
        joint = joint / 3 + 2 / 3 * eye(k) / k
        a = joint.diagonal(dim1=1, dim2=2).sum(-1)
        eta = 0.9 * (k - 1) / k * torch.rand(N, generator=g).double()
        T = symmetric(eta, k)
        if "symmetric" in drop:
            part = eta[:, None, None]
            T = (1 - part) * eye(k) + part * eye(k).roll(1, 1)
        if k == 2 and "symmetric" in drop:
            continue
        agree = (joint * T).sum((1, 2))  # T is symmetric in both classes
        if "symmetric" in drop:
            agree = torch.einsum("nij,nij->n", joint, T)
        said = a - 0.05 if "known" in drop else a
        top = k if mutant else k - 1
        found = (said - agree) * top / (said * k - 1)
        off, n, r = differ(found, eta)
        wrong, total = wrong + off, total + n
        ratio = max(ratio, r) if not (mutant or drop) else 0
    if not (mutant or drop):  # the library's estimate, and its error bar
        k, n, eta = 4, 200, 0.3
        g, seen = generator(9), []
        for _ in range(N):
            true = torch.randint(0, k, (n,), generator=g)
            shift = torch.randint(1, k, (n,), generator=g)
            off = torch.rand(n, generator=g) < eta
            given = torch.where(off, (true + shift) % k, true)
            miss = (torch.rand(n, generator=g) < 0.1) * torch.randint(
                1, k, (n,), generator=g
            )
            guess = eye(k)[(true + miss) % k]  # nine in ten are right
            seen.append(estimate_rate(given, guess, keep=1, accuracy=0.9)[:2])
        rate, error = torch.tensor(seen).double().T
        inside = ((rate - eta).abs() <= 2 * error).double().mean().item()
        drift = abs(rate.mean().item() - eta) * math.sqrt(N) / rate.std().item()
        wrong += int(not 0.94 < inside < 0.975) + int(drift > 4)
        total += N
    return wrong, total, None if mutant or drop else ratio
