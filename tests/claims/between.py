"""Chapter 5: between cross-entropy and MAE."""

import itertools
import math

import torch
from claims.machine import N, TINY, answers, check, differ, generator, symmetric

from epsbook.losses import ClippedCELoss, GCELoss, RCELoss
from epsbook.theory.risk import loss_table, random_distributions, random_problems


def leading(count, k, seed):
    "Posteriors, the likeliest label first, none of probability 0."
    q = random_distributions(count, k, generator=generator(seed)) + 1e-5
    return (q / q.sum(-1, keepdim=True)).sort(-1, descending=True).values


def longest(r):
    "b(r): up to this cut a label r times less likely than the rest is dropped."
    return (1 + r).log() + r * (1 / r).log1p()


def parts(q):
    "The posterior restricted to each set of labels, (n, sets, k), corner first."
    sets = torch.tensor(list(itertools.product((1, 0), repeat=q.shape[-1]))[:-1])
    sets = sets[sets.sum(-1).argsort(stable=True)]
    first = (sets[:, 0] == 1) & (sets.sum(-1) == 1)
    part = q[:, None] * torch.cat([sets[first], sets[~first]])
    return part / part.sum(-1, keepdim=True)


@check(
    "Theorem 5.1",
    "clipped cross-entropy: the corner is best up to the cut b, and no further",
    "1.1 b for b",
    "b is that of the likeliest wrong label (of the least likely)",
)
def clipped(mutant=False, drop=""):
    wrong = total = 0
    for k, cut in itertools.product((2, 3, 5), torch.linspace(1, 7, 25).tolist()):
        q = leading(N // 25, k, int(100 * cut))
        if k < 4:  # odds on both sides of the limit
            g, at = generator(k), torch.linspace(1, 3000, 300_000).double()
            near = at[(longest(at) - cut).abs().argmin()]
            odds = near * (0.9 + 0.2 * torch.rand(len(q), generator=g).double())
            q[::2, 0] = odds[::2] * q[::2, 1]
            q = q / q.sum(-1, keepdim=True)
        keep = q[:, 0] > q[:, 1]
        limit = longest(q[:, :1] / q[:, 1:])
        limit = limit.max(-1).values if drop else limit.min(-1).values
        found = parts(q)
        more = random_distributions(len(q), 30, k, generator=generator(k))
        found = torch.cat([found, more], 1)
        costs = loss_table(ClippedCELoss(max_loss=cut), found.log())
        risk = (costs * q[:, None]).sum(-1)
        loses = risk.min(-1).values < risk[:, 0] - 1e-12
        promised = cut <= (1.1 if mutant else 1) * limit
        clear = (cut / limit - 1).abs() > 1e-6
        bad = (loses == promised) & clear & keep
        wrong, total = wrong + bad.sum(), total + len(q)
    return wrong, total, None


def along_tangent(start):
    "Cross-entropy that goes on along its tangent below the probability `start`."

    def table(logits):
        p = logits.softmax(-1)
        below = 1 - math.log(start) - p / start
        return torch.where(p < start, below, -logits.log_softmax(-1))

    return table


@check(
    "Proposition 5.2",
    "a clipped slope: the spread for any K, and the odds that the corner stands",
    "a spread and odds 10 % larger",
    "p₀ is at least 1/K (0.3/K)",
)
def clipped_slope(mutant=False, drop=""):
    wrong = total = 0
    for k, share in itertools.product((3, 4, 10), (0.0, 0.3, 0.7, 1.0)):
        start = 1 / k + share * (0.5 - 1 / k)
        start = 0.3 / k if drop else start
        table, g = along_tangent(start), generator(k)
        p = random_distributions(N // 10, k, generator=g)
        ends = torch.stack([torch.ones(k) / k, torch.eye(k)[0]]).double()
        S = table(torch.cat([p, ends]).log().clamp_min(-700)).sum(-1)
        claimed = (1 / start - 1 + math.log(start)) * (1.1 if mutant else 1)
        bad = ((S.max() - S.min()) - claimed).abs() > TINY
        wrong, total = wrong + bad * len(S), total + len(S)
        # Small steps from the corner to one label, and random answers.
        odds = torch.rand(len(p), generator=g).double() * 2 * start
        q = torch.zeros(len(p), k).double()
        q[:, 0], q[:, 1] = 1 / (1 + odds), odds / (1 + odds)
        step = torch.logspace(-6, -0.31, 30).double()[:, None] * (
            torch.eye(k)[1] - torch.eye(k)[0]
        )
        rivals = torch.cat([torch.eye(k)[0] + step, p[:100]]).clamp_min(0)
        gap = table(rivals.log().clamp_min(-700)) - table(
            torch.eye(k)[:1].double().log().clamp_min(-700)
        )
        loses = (q @ gap.T).min(-1).values < -1e-12
        promised = odds <= start * (1.1 if mutant else 1)
        clear = (odds / start - 1).abs() > 1e-3
        bad = (loses == promised) & clear
        wrong, total = wrong + bad.sum(), total + len(q)
    return wrong, total, None


def flow(weight, h, seconds, steps=150):
    "Logits after that time of gradient flow on label 0, by Runge and Kutta."
    dt = (seconds / steps)[:, None]
    e = torch.zeros_like(h)
    e[:, 0] = 1

    def slope(h):
        log_p = h.log_softmax(-1)
        return weight(log_p[:, 0])[:, None] * (e - log_p.exp())

    for _ in range(steps):
        a = slope(h)
        b = slope(h + dt * a / 2)
        c = slope(h + dt * b / 2)
        d = slope(h + dt * c)
        h = h + dt * (a + 2 * b + 2 * c + d) / 6
    return h


@check(
    "Proposition 5.3",
    "the time to even odds for any weight, against gradient flow",
    "a time 10 % longer",
    "the logits start equal (normal, deviation 0.3)",
)
def time_to_half(mutant=False, drop=""):
    wrong = total = 0
    nodes = 400
    for k in (3, 5, 10):
        g = generator(k)
        q, a, b = (torch.rand(N // 3 + 1, generator=g).double() for _ in range(3))
        a, b = a + 0.1, b * (k - 1)

        def weight(log_p, a=a, b=b, q=q):
            "a p^q + b p, of a GCE and half of b MAE."
            return a * (q * log_p).exp() + b * log_p.exp()

        # The midpoint rule in log p, once on half the width for its error.
        def integral(nodes, k=k, weight=weight):
            low, high = -math.log(k), -math.log(2)
            x = low + (torch.arange(nodes).double() + 0.5) / nodes * (high - low)
            each = [1 / (weight(v) * (1 - v.exp()) ** 2) for v in x]
            return torch.stack(each).mean(0) * (high - low) * (k - 1) / k

        seconds = (4 * integral(2 * nodes) - integral(nodes)) / 3
        h = torch.zeros(len(q), k).double()
        if drop:
            h = 0.3 * torch.randn(len(q), k, generator=g).double()
        h = flow(weight, h, seconds * (1.1 if mutant else 1))
        bad = (h.softmax(-1)[:, 0] - 0.5).abs() > 1e-6
        wrong, total = wrong + bad.sum(), total + len(bad)
    return wrong, total, None


@check(
    "Proposition 5.4",
    "the best answer for GCE is the posterior to the power 1/(1 - q), normalized",
    "a power 10 % larger",
    "no floor (τ = 0.2)",
)
def gce_answer(mutant=False, drop=""):
    wrong = total = 0
    for k, power in itertools.product((2, 3, 5, 10), (0, 0.3, 0.5, 0.7)):
        q = leading(N // 10, k, k)
        loss = GCELoss(q=power, tau=0.2 if drop else 0)
        best = q.log() / (1 - power) * (1.1 if mutant else 1)
        g = generator(k)
        near = best[:, None] + 0.02 * torch.randn(len(q), 20, k, generator=g).double()
        far = random_distributions(len(q), 20, k, generator=g).log()
        rivals = torch.cat([near, far], 1)
        risk = (loss_table(loss, rivals) * q[:, None]).sum(-1).min(-1).values
        least = (loss_table(loss, best) * q).sum(-1)
        bad = risk < least - 1e-13
        wrong, total = wrong + bad.sum(), total + len(q)
    return wrong, total, None


@check(
    "Theorem 5.5",
    "symmetric noise hides at most this excess risk of GCE; a uniform answer reaches it",
    "0.9 of the bound",
    "the noise is symmetric (pair noise)",
)
def gce_bound(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k, power in itertools.product((3, 10), (0.3, 0.7)):
        g, loss = generator(k), GCELoss(q=power)
        hidden = (k ** (1 - power) - 1) / power
        rate = torch.rand(N, generator=g).double() * 0.95 * (k - 1) / k
        T = symmetric(rate, k)[:, None]
        if drop:
            eye, eta = torch.eye(k).double(), rate[:, None, None, None]
            T = (1 - eta) * eye + eta * eye.roll(1, -1)
        problems = random_problems(N, 2, k, seed=k)
        many = answers(20, N, 2, k, seed=2)
        many[0], many[1] = 0, problems.posterior.log()
        noisy, clean = problems.risk(loss, many, T), problems.risk(loss, many)
        best = noisy.argmin(0)
        excess = clean[best, range(N)] - clean.min(0).values
        bound = rate * hidden / (k - 1 - rate * k) * (0.9 if mutant else 1)
        wrong, total = wrong + (excess > bound + TINY).sum(), total + N
        # A pair that ties: uniform answers against sure ones, wrong on a share.
        rate = rate[rate < 1 - k**-power]
        claimed = rate * hidden / (k - 1 - rate * k)
        astray = (1 - k**-power - power * claimed)[:, None]
        sure = torch.full((2, k), -800.0).double()
        sure[0, 0], sure[1, 1] = 0, 0
        costs = loss_table(loss, torch.stack([sure, torch.zeros(2, k).double()]))
        mix = torch.cat([1 - astray, astray], -1)
        own = (mix * costs[:, None, :, 0]).sum(-1)
        sums = (mix * costs.sum(-1)[:, None]).sum(-1)
        noisy = own * (1 - rate * k / (k - 1)) + sums * rate / (k - 1)
        tied = (noisy[0] - noisy[1]).abs() < TINY
        found = own[1] - own[0]
        off = tied & (found > claimed * (0.9 if mutant else 1) + TINY)
        wrong, total = wrong + off.sum(), total + len(rate)
        ratio = max(ratio, (found / claimed)[tied & (claimed > 1e-3)].max())
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 5.6",
    "reverse cross-entropy is -A/2 times MAE",
    "1.1 A for A",
    "the label is one-hot (0.9, and the rest evenly)",
)
def reverse(mutant=False, drop=""):
    found, claimed = [], []
    for k, floor in itertools.product((2, 3, 10), (1e-4, math.exp(-4))):
        h = answers(N // 3, k, seed=k)
        label = torch.eye(k).double()[torch.arange(len(h)) % k]
        if drop:
            label = 0.9 * label + 0.1 * (1 - label) / (k - 1)
        plain = -(h.softmax(-1) * label.clamp_min(floor).log()).sum(-1)
        A = math.log(floor) * (1.1 if mutant else 1)
        mae = (h.softmax(-1) - torch.eye(k)[torch.arange(len(h)) % k]).abs().sum(-1)
        found += [plain, RCELoss(log_zero=A).per_sample(h, label.argmax(-1))]
        claimed += [-A / 2 * mae, plain]
    return differ(torch.cat(found), torch.cat(claimed))
