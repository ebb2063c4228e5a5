"""Chapter 10: top-k."""

import itertools

import torch
from claims.machine import N, TINY, answers, check, generator, nce, zero_one

from epsbook.losses import CELoss, EpsCELoss, MAELoss, NNCELoss
from epsbook.theory.risk import loss_table, random_distributions


def posteriors(count, k, seed=0, least=1e-4):
    "Label probabilities, the largest first, none below `least`."
    q = random_distributions(count, k, generator=generator(seed)).clamp_min(least)
    return (q / q.sum(-1, keepdim=True)).sort(-1, descending=True).values


def ranks(p, q, slack=0.0):
    "Does p rank as q does: q_i > q_j implies p_i > p_j?"
    above = q[..., :, None] > q[..., None, :]
    right = p[..., :, None] > p[..., None, :] + slack
    return (right | ~above).flatten(-2).all(-1)


@check(
    "Proposition 10.2",
    "all top-k errors are least, however ties are broken, if and only if p ranks as q",
    "k up to K - 2",
    "whatever the order at a tie (ties in favor)",
)
def ranking(mutant=False, drop=""):
    wrong = total = 0
    for k in (3, 4, 6):
        g = generator(k)
        q = torch.randint(1, 2 * k, (N, k), generator=g).double()
        p = torch.randint(0, k, (N, k), generator=g).double()
        p[::2] = q[::2] + torch.randint(-1, 2, (N // 2, k), generator=g) / 2
        # Ties of p: the less likely label first, which is the worst order.
        first = q.argsort(dim=-1, stable=True, descending=bool(drop))
        order = p.gather(-1, first).argsort(dim=-1, stable=True, descending=True)
        hit = q.gather(-1, first.gather(-1, order)).cumsum(-1)
        most = q.sort(-1, descending=True).values.cumsum(-1)
        asked = slice(0, k - 2 if mutant else k - 1)
        least = (hit[:, asked] == most[:, asked]).all(-1)
        wrong, total = wrong + (least != ranks(p, q)).sum(), total + N
    return wrong, total, None


def slopes(count, steep, seed):
    "Decreasing curves with -slope c x^-a + d (1 + 0.9 sin(o x)); a = 0 or more."
    g = generator(seed)
    c, d, o = (torch.rand(count, 1, 1, generator=g).double() + 0.1 for _ in range(3))
    a = (0.5 + 0.45 * torch.rand(count, 1, 1, generator=g).double()) * steep
    c, o = c * (c > 0.3) + steep * 0.1, 40 * o

    def curve(x):
        rise = x ** (1 - a) / (1 - a)
        return -c * rise - d * (x - 0.9 * ((o * x).cos() - 1) / o)

    return curve


@check(
    "Proposition 10.3",
    "a loss of one probability ranks if its slope at 0 is infinite; else a corner wins",
    "q_k B < 1.1 q_t A",
    "the slope at 0 is infinite (a finite one)",
    "the slope is nowhere 0 (flat above 0.3)",
    "K is at least 3",
)
def slope_at_zero(mutant=False, drop=""):
    wrong = total = 0
    step = torch.logspace(-13, -0.5, 26).double()
    if not mutant and "K" not in drop[:1]:
        for k in (3, 4):  # an answer that does not rank can be improved
            q = posteriors(N, k, k, least=0.02)
            p = torch.randint(0, 4, (N, k), generator=generator(k + 1)).double()
            p[:, 0] += 1
            p = p / p.sum(-1, keepdim=True)
            curve = slopes(N, 0.0 if "infinite" in drop else 1.0, k + 2)
            if "nowhere" in drop:
                curve = lambda x, f=curve: f(x.clamp_max(0.3))
            better = torch.zeros(N, dtype=torch.bool)
            cost = curve(p[..., None])[..., 0]
            for i, j in itertools.permutations(range(k), 2):  # from j to i
                moved = torch.minimum(step, p[:, j, None])
                rise = curve((p[:, j, None] - moved)[..., None])[..., 0]
                fall = curve((p[:, i, None] + moved)[..., None])[..., 0]
                change = q[:, i, None] * (fall - cost[:, i, None])
                change += q[:, j, None] * (rise - cost[:, j, None])
                better |= (change < -1e-15).any(-1)
                swap = (q[:, i] - q[:, j]) * (cost[:, j] - cost[:, i])
                better |= swap < -1e-15
            lost = ~ranks(p, q)
            wrong, total = wrong + (lost & ~better).sum(), total + lost.sum()
    if not drop or "K" in drop[:1]:
        x = torch.linspace(0, 1, 501).double()[1:].expand(N // 2, 1, -1)
        for k in (2,) if drop else (3, 5):
            curve = slopes(N // 2, 0.0, k + 7)
            top, low = curve(torch.zeros(1, 1, 1)), curve(torch.ones(1, 1, 1))
            steep = ((top - curve(x)) / x).amax((1, 2))
            flat = ((curve(1 - x) - low) / x).amin((1, 2))
            # The second label as likely as the condition allows, or nearly.
            share = torch.rand(N // 2, generator=generator(k)).double()
            share = (1.1 if mutant else 1) * (1 - 0.05 * share)
            q = torch.ones(N // 2, k).double()
            q[:, 1:] = share[:, None] * (flat / steep)[:, None]
            q[:, 2:] *= 0.5
            q = q / q.sum(-1, keepdim=True)
            rival = torch.eye(k)[0].double() + 0 * q
            rivals = answers(50, N // 2, k, seed=k).softmax(-1)
            small = x[0, 0, ::4][:, None, None] * (torch.eye(k)[1] - rival)
            rivals = torch.cat([rivals, rival + small])
            risk = (q * curve(rivals.permute(1, 2, 0)).permute(2, 0, 1)).sum(-1)
            corner = (q * curve(rival[..., None])[..., 0]).sum(-1)
            bad = (risk < corner - 1e-12).any(0)
            if not mutant:  # and then no ranking is left
                bad |= ranks(rival, q)
            wrong, total = wrong + bad.sum(), total + len(bad)
    return wrong, total, None


def water(q, m):
    "(10.4): the best answer to CE of the ε-softmax, labels in order."
    k = q.shape[-1]
    p, done = torch.zeros_like(q), torch.zeros(len(q), dtype=torch.bool)
    for n in range(2, k + 1):
        some = q[:, 1:n].sum(-1)
        b = q[:, 0] + some - n * (1 - q[:, 0]) * m
        v = (b + (b * b + 4 * n * some * m).sqrt()) / (2 * n)
        v = torch.where(
            b < 0, 2 * some * m / ((b * b + 4 * n * some * m).sqrt() - b), v
        )
        rest = q[:, n:] / q[:, n:].sum(-1, keepdim=True) * (1 - n * v[:, None])
        level = torch.cat([v[:, None].expand(-1, n), rest], -1)
        fits = (level[:, n] <= v) if n < k else ~done
        p[fits & ~done] = level[fits & ~done]
        done |= fits
    return p


def above_best(p, q, m):
    """How far the mean loss of p can be above the least, at most; labels in order.

    The mean loss is convex where no entry exceeds the first. So the least is not
    below its tangent at p, and that is least at a corner of the region: an even
    split over the first class and some others.
    """
    slope = -q / (p + m * torch.eye(q.shape[-1])[0].double())
    others = slope[:, 1:].sort(-1).values
    split = torch.cat([slope[:, :1], others], -1).cumsum(-1)
    split = split / torch.arange(1, q.shape[-1] + 1)
    return (slope * p).sum(-1) - split.min(-1).values


def mean_loss(p, q, m, tau=0.0):
    return (q * loss_table(EpsCELoss(m=m, tau=tau), p.log())).sum(-1)


@check(
    "Theorem 10.4",
    "CE of the ε-softmax ranks if and only if the lead exceeds m/(m+1)",
    "m/(m+1) less a tenth",
    "no floor (a floor of 0.01)",
    "one label leads (two do)",
)
def lead(mutant=False, drop=""):
    wrong = total = 0
    for k, m in itertools.product((2, 3, 6), (0.2, 1.0, 10.0, 100.0)):
        q = posteriors(N // 4, k, k)
        limit = m / (m + 1)
        if "two" in drop:
            q[:, :2] = q[:, :2].mean(-1, keepdim=True)
        margin = q[:, 0] - q[:, 1]
        formula = (m + 1) * q - m * torch.eye(k)[0].double()
        good = margin > limit
        if "floor" in drop:  # is the formula better than the corner?
            corner = torch.eye(k)[:1].double().expand_as(q)[good]
            sure = mean_loss(corner, q[good], m, 0.01)
            bad = sure < mean_loss(formula[good], q[good], m, 0.01)
            wrong, total = wrong + bad.sum(), total + good.sum()
            continue
        best = torch.where(good[:, None], formula, water(q, m))
        sure = above_best(best, q, m) < 1e-9
        claimed = margin > (0.9 * limit if mutant else limit)
        clear = (margin - limit).abs() > 1e-6
        bad = (claimed != ranks(best, q, slack=1e-12)) | ~sure
        wrong, total = wrong + (bad & clear).sum(), total + clear.sum()
    return wrong, total, None


@check(
    "Proposition 10.5",
    "below that lead the first n tie and the rest keep their shares",
    "v a tenth larger",
    "the lead is at most m/(m+1)",
    "the largest entry stays where q is largest",
)
def water_filling(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, m in itertools.product((2, 3, 5, 10), (0.2, 1.0, 10.0, 1e3, 1e5)):
        q = posteriors(N // 4, k, k + 1)
        below = q[:, 0] - q[:, 1] <= m / (m + 1)
        q = q[~below if "lead" in drop else below]
        p = water(q, m)
        if "stays" in drop:  # the largest entry at the second label
            swap = [1, 0, *range(2, k)]
            q = q[:, swap]
            p = water(q, m).clamp_min(1e-12)
            # Best there, and yet not best: the order of the labels wins.
            other = water(q[:, swap], m)
            bad = mean_loss(p, q, m) > mean_loss(other, q[:, swap], m) + 1e-12
            wrong, total = wrong + bad.sum(), total + len(q)
            continue
        if mutant:
            n = ((p - p[:, :1]).abs() < 1e-12).sum(-1, keepdim=True)
            tied = (p - p[:, :1]).abs() < 1e-12
            up = torch.minimum(1.1 * p[:, :1], 1 / n)
            rest = (1 - n * up) / (1 - n * p[:, :1]).clamp_min(1e-300)
            p = torch.where(tied, up, p * rest).clamp_min(1e-300)
        gap = above_best(p, q, m)
        # The same mean loss by the library, where the first index gets m.
        ours, least = mean_loss(p, q, m), mean_loss(p, q, m) - gap
        wrong += ((gap > 1e-9) | ~p.isfinite().all(-1)).sum()
        total += len(q)
        if len(q) and not (mutant or drop):
            large = least.abs() > 1e-3
            ratio = max(ratio, (ours / least)[large].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 10.6",
    "the corner loses to a move toward label k if (10.6) holds",
    "log(s/s_0) > 0.9 for 1",
    "s is at most 1/2",
)
def corner_loses(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        g = generator(k)
        q = posteriors(N, k, k + 2, least=1e-3)
        lead = q[:, 0] - q[:, 1]
        keep = lead > 1e-3
        q, lead = q[keep], lead[keep]
        count = len(q)
        m = 10 ** (6 * torch.rand(count, generator=g).double() - 0.5)
        tau = 10 ** (-9 + 3 * torch.rand(count, generator=g).double())
        cut = tau * (m + 1)
        s = cut * torch.exp(3 * torch.rand(count, generator=g).double())
        s = torch.where(torch.arange(count) % 4 == 0, 0.6 + 0 * s, s)
        weight = q[:, 1] / (2 * lead * s)  # that of MAE, to that of CE_ε
        if not drop:
            s = s.clamp_max(0.5)
        holds = q[:, 1] * ((s / cut).log() - (0.9 if mutant else 1))
        bound = q[:, 0] * s / (m + 1 - s) - holds
        moved = torch.eye(k)[:1].double().repeat(count, 1)
        moved[:, 0] -= s
        moved[:, 1] += s
        corner = torch.eye(k)[:1].double().expand(count, k)
        mae = weight * (q * loss_table(MAELoss(), moved.log())).sum(-1)
        mae -= weight * (q * loss_table(MAELoss(), corner.log())).sum(-1)
        change = mae + eps_ce(moved, q, m, tau) - eps_ce(corner, q, m, tau)
        true = (bound < 0) & (s < 1)
        wrong += (true & (change >= 0)).sum()
        total += true.sum()
        if not (mutant or drop):
            clear = true & (bound < -1e-3)
            ratio = max(ratio, (bound / change)[clear].max())
    return wrong, total, None if mutant or drop else ratio


def eps_ce(p, q, m, tau):
    "Mean of (8.4), with one m and one floor for each row, from its definition."
    top = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1])
    f = (p + m[:, None] * top) / (m[:, None] + 1)
    return -(q * torch.maximum(f, tau[:, None]).log()).sum(-1)


@check(
    "Proposition 10.7",
    "symmetric and at most C/(K-1): excess risk is between two multiples of L(h, t)",
    "0.9 (q_t - q_min) for q_t - q_min",
    "the loss is symmetric (cross-entropy)",
    "no loss exceeds C/(K-1) (NCE, K = 3)",
)
def no_ranking(mutant=False, drop=""):
    wrong = total = ratio = 0
    kinds = [CELoss()] if "cross" in drop else [nce] if "NCE" in drop else []
    for k in (3,) if drop else (3, 4, 10):
        q = posteriors(N, k, k + 3)
        q = q[q[:, 0] - q[:, 1] > 1e-3]
        h = 3 * torch.randn(len(q), k, generator=generator(k)).double()
        h[::2] += 6 * torch.eye(k)[0]
        for loss in kinds or [MAELoss(), NNCELoss(), zero_one, "any"]:
            if loss == "any":  # any table of losses that the hypotheses allow
                off = random_distributions(len(q), k - 1, generator=generator(k + 9))
                off = off * torch.rand(len(q), 1, generator=generator(1)).double()
                table = torch.cat([off.sum(-1, keepdim=True), 1 - off], -1)
                table[::3, 1:] = 1
                table[::3, -1] = 1 - table[::3, 0]  # all is lost on the last label
            else:
                table = loss_table(loss, h)
            most = table.sum(-1) / (k - 1)
            excess = (q * table).sum(-1) - (1 - q[:, 0]) * most
            low = (q[:, 0] - q[:, 1]) * table[:, 0]
            high = (q[:, 0] - q[:, -1]) * table[:, 0] * (0.9 if mutant else 1)
            wrong += ((excess < low - TINY) | (excess > high + TINY)).sum()
            total += len(q)
            if not (mutant or drop):
                large = high > 1e-3
                ratio = max(ratio, (excess / high)[large].max())
    return wrong, total, None if mutant or drop else ratio


def cosine(logits):
    "Minus the entries of the centered logits, divided by their length."
    z = logits - logits.mean(-1, keepdim=True)
    return -z / z.norm(dim=-1, keepdim=True).clamp_min(1e-300)


@check(
    "Proposition 10.8",
    "the cosine loss is symmetric, and each wrong order costs (10.9) or more",
    "a factor of 1.1",
    "the logits are centered",
    "they are divided by their length",
)
def symmetric_and_ranking(mutant=False, drop=""):
    wrong = total = ratio = 0

    def loss(logits):
        if "centered" in drop:
            return -logits / logits.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        if "length" in drop:
            return -(logits - logits.mean(-1, keepdim=True))
        return cosine(logits)

    for k in (2, 3, 10):
        q = posteriors(N, k, k + 4, least=1e-3)
        d = q - 1 / k
        i = torch.randint(0, k, (N,), generator=generator(k))
        j = (i + 1 + torch.randint(0, k - 1, (N,), generator=generator(5))) % k
        i, j = torch.minimum(i, j), torch.maximum(i, j)  # q_i >= q_j
        row = torch.arange(N)
        size = d.norm(dim=-1)
        ahead = q[row, i] - q[row, j]
        keep = (size > 1e-3) & (ahead > 1e-3)
        # Answers with h_i <= h_j: random ones, and q with the two made equal.
        wild, level = answers(N, k, seed=k + 5), q.clone()
        level[row, i] = level[row, j] = (q[row, i] + q[row, j]) / 2
        level += 1e-13 * torch.randn(N, k, generator=generator(6)).double() * (k > 2)
        low, high = torch.minimum(wild[row, i], wild[row, j]), wild[row, i]
        wild[row, j], wild[row, i] = torch.maximum(high, wild[row, j]), low
        for h in (wild, level) if k > 2 else (wild,):
            table = loss(h)
            even = table.sum(-1).abs() < 1e-9
            excess = (q * table).sum(-1) - (q * loss(q)).sum(-1)
            owed = ahead**2 / (4 * size) * (1.1 if mutant else 1)
            bad = (excess < owed * (1 - 1e-6)) | ~even
            wrong, total = wrong + (bad & keep).sum(), total + keep.sum()
            tight = keep & (owed > 1e-6)
            ratio = max(ratio, (owed / excess)[tight].max())
    return wrong, total, None if mutant or drop else ratio
