"""Chapter 13: what a doubted label says, by its complement, by peers, by a memory."""

import torch
from claims.machine import (
    N,
    TINY,
    answers,
    check,
    generator,
    squared,
    symmetric,
    zero_one,
)

from epsbook.losses import BootstrapLoss, CELoss, ELRLoss, NLNLLoss
from epsbook.theory.risk import (
    loss_table,
    random_distributions,
    random_problems,
    random_transitions,
)


def kl(q, p):
    "Relative entropy of rows; 0 log 0 is 0."
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)


def inside(p):
    "Distributions p, a little away from the border."
    p = p.clamp_min(1e-6)
    return p / p.sum(-1, keepdim=True)


def complementary(p):
    "The mean of NLNL over all draws, for every label: (..., k)."
    costs = -torch.log1p(-p)
    return (costs.sum(-1, keepdim=True) - costs) / (p.shape[-1] - 1)


def pairs(k, seed=0):
    "Posteriors and answers, (N, k) each; some of them are near to each other."
    q, p = (
        inside(random_distributions(N, k, generator=generator(seed + s)))
        for s in (0, 1)
    )
    p[::3] = inside(q[::3] + 0.05 * (p[::3] - q[::3]))
    return q, p


@check(
    "Theorem 13.2",
    "on average NLNL is least at the posterior of the labels: it costs D(q', p') more",
    "1.1 of the divergence",
    "the other label is drawn evenly (the next class twice as often as each other)",
)
def proper(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (3, 5, 10) if drop else (2, 3, 10):
        q, p = pairs(k, seed=k)
        chance = (1 - torch.eye(k).double()) / (k - 1)
        if drop:
            chance = chance + torch.eye(k).double().roll(1, 1) / (k - 1)
            chance = chance / chance.sum(-1, keepdim=True)
        cost = -torch.log1p(-p) @ chance.T  # of each label
        least = -torch.log1p(-q) @ chance.T
        found = (q * (cost - least)).sum(-1)
        claimed = kl((1 - q) / (k - 1), (1 - p) / (k - 1)) * (1.1 if mutant else 1)
        off = (found - claimed).abs() > TINY * (1 + claimed)
        large = claimed > 1e-4
        wrong, total = wrong + off.sum(), total + N
        ratio = max(ratio, (found[large] / claimed[large]).max())
        if not (mutant or drop):  # and it is the library's loss
            few, n = p[:20].log(), 4000
            loss = NLNLLoss(num_draws=n, generator=generator(k))
            seen = loss_table(loss, few)
            costs = -torch.log1p(-p[:20])
            error = costs.std(-1, keepdim=True) * (k / n) ** 0.5
            off = (seen - complementary(p[:20])).abs() > 6 * error + TINY
            wrong, total = wrong + off.sum(), total + off.numel()
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 13.3",
    "a drawn complementary label tells two answers apart by 1/(K-1) of what a label does",
    "0.9 of it",
    "the other label is drawn evenly (it is always the next class)",
)
def worth(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        q, p = pairs(k, seed=3 * k)
        # Half the problems have two classes only, where it is reached.
        q[N // 2 :, 2:], p[N // 2 :, 2:] = 0, 0
        q, p = (x / x.sum(-1, keepdim=True) for x in (q, p))
        chance = (1 - torch.eye(k).double()) / (k - 1)
        if drop:
            chance = torch.eye(k).double().roll(1, 1)
        if drop and k == 2:
            continue
        bound = kl(q, p) / (k - 1) * (0.9 if mutant else 1)
        found = kl(q @ chance, p @ chance)
        off = found > bound + TINY
        wrong, total = wrong + off.sum(), total + N
        large = bound > 1e-4
        ratio = max(ratio, (found[large] / bound[large]).max())
    return wrong, total, None if mutant or drop else ratio


def peer_risk(problems, table, alpha, T=None):
    "Expected peer loss, exactly: every sample with every peer."
    given = problems.posterior if T is None else problems.noisy_posterior(T)
    own = torch.einsum("nx,nxj,nxj->n", problems.p_x, given, table)
    pair = torch.einsum("nx,nz,nzj,nxj->n", problems.p_x, problems.p_x, given, table)
    return own - alpha * pair


@check(
    "Theorem 13.4",
    "noise multiplies the risk of peer loss by 1 - κ, whatever the classes' shares",
    "η for κ",
    "the noise is symmetric, or there are two classes (any T)",
    "α is 1 (0.5)",
)
def peer(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        if drop and k == 2:
            continue
        problems = random_problems(N // 3, 4, k, seed=k)
        if k == 2:
            T = random_transitions(N // 3, 2, seed=7)
            keep = T.diagonal(dim1=-2, dim2=-1).sum(-1)[:, 0] - 1
            if mutant:
                keep = 0.9 * keep
        else:
            eta = (k - 1) / k * torch.rand(N // 3, generator=generator(k)).double()
            T = symmetric(eta, k)[:, None]
            keep = 1 - (eta if mutant else eta * k / (k - 1))
            if "symmetric" in drop:
                T = random_transitions(N // 3, k, seed=k)
        alpha = 0.5 if "α" in drop else 1
        h = answers(N // 3, 4, k, seed=k + 1)
        for loss in (CELoss(), squared, zero_one):
            table = loss_table(loss, h) if loss is not squared else squared(h)
            table = zero_one(h) if loss is zero_one else table
            found = peer_risk(problems, table, alpha, T)
            claimed = keep * peer_risk(problems, table, alpha)
            off = (found - claimed).abs() > TINY * (1 + claimed.abs())
            wrong, total = wrong + off.sum(), total + len(off)
            large = claimed.abs() > 1e-2
            ratio = max(ratio, (found[large] / claimed[large]).max())
        if not (mutant or drop):  # and one input is answered by posterior - share
            share = (problems.p_x[..., None] * problems.posterior).sum(1)
            best = (problems.posterior - share[:, None]).argmax(-1)
            each = torch.eye(k).double()
            table = 1 - each[best]
            least = peer_risk(problems, table, 1)
            for c in range(k):
                other = best.clone()
                other[:, 0] = c
                off = peer_risk(problems, 1 - each[other], 1) < least - TINY
                wrong, total = wrong + off.sum(), total + len(off)
    return wrong, total, None if mutant or drop else ratio


@check(
    "Proposition 13.5",
    "bootstrapping pulls at the label at least 2β - 1 times as hard as cross-entropy",
    "1.1 times as much",
    "the vote is the answer itself (that of another network)",
)
def bootstrap(mutant=False, drop=""):
    wrong = total = ratio = 0
    for k in (2, 3, 10):
        h = answers(N, k, seed=k)
        y = torch.randint(0, k, (N,), generator=generator(k))
        # A third of the answers is torn between the label and another class.
        torn = torch.full((N // 3, k), 1e-9).double()
        torn[:, 0], torn[:, 1] = 0.501, 0.499
        h[: N // 3], y[: N // 3] = torn.log(), 1
        h.requires_grad_()
        p_y = h.detach().softmax(-1).gather(-1, y[:, None])[:, 0]
        for hard in (True, False):
            for beta in (0.5, 0.8, 0.95):
                loss = BootstrapLoss(beta=beta, hard=hard).per_sample(h, y)
                if drop:
                    z = answers(N, k, seed=k + 9).softmax(-1)
                    z = torch.eye(k).double()[z.argmax(-1)] if hard else z
                    target = beta * torch.eye(k).double()[y] + (1 - beta) * z
                    loss = CELoss().per_sample(h, target)
                (slope,) = torch.autograd.grad(loss.sum(), h)
                pull = -slope.gather(-1, y[:, None])[:, 0]
                least = (2 * beta - 1) * (1 - p_y) * (1.1 if mutant else 1)
                off = pull < least - TINY
                wrong, total = wrong + off.sum(), total + N
                large = least > 1e-2
                ratio = max(
                    ratio, (least[large] / pull[large]).max() if beta > 0.5 else 0
                )
    return wrong, total, None if mutant or drop else ratio


def elr(h, t, lam):
    "(13.9) of label 0, logits (n, m, k) and memories (n, k)."
    agreement = (h.softmax(-1) * t[:, None]).sum(-1)
    return lam * torch.log1p(-agreement) - h.log_softmax(-1)[..., 0]


def memories(k, seed=0):
    "Memories, (N, k), in which class 1 leads; class 0 is to be the label."
    t = random_distributions(N, k, generator=generator(seed))
    t[::2] = t[::2] ** 2
    lead = t.argmax(-1, keepdim=True)
    first, top = t[:, 1:2].clone(), t.gather(-1, lead)
    t = t.scatter(-1, lead, first)
    t[:, 1:2] = top
    t = t / t.sum(-1, keepdim=True)
    return 0.99 * t + 0.01 / k


def edge(share, k):
    "Answers that give `share` to class 1, the rest to class 0."
    p = torch.zeros(*share.shape, k).double() + 1e-12
    p[..., 1], p[..., 0] = share, 1 - share
    return p.clamp_min(1e-12).log()


@check(
    "Theorem 13.6",
    "ELR's best answer shares between the label and the class that memory leads with",
    "0.9 of the share",
    "the class is the one that leads in memory (any class but the label)",
)
def best(mutant=False, drop=""):
    wrong = total = 0
    for k in (3, 5) if drop else (2, 3, 10):
        for lam in (0.5, 1.0, 2.0, 3.0, 7.0):
            t = memories(k, seed=k)[: N // 5]
            if drop:
                t[:, 1:] = t[:, 1:].flip(-1)
            gap, rest = t[:, 1] - t[:, 0], 1 - t[:, 0]
            share = (lam * gap - rest) / ((lam - 1) * gap)
            share = torch.where(lam * gap > rest, share, torch.zeros_like(share))
            share = share * (0.9 if mutant else 1)
            least = elr(edge(share, k)[:, None], t, lam)
            steps = torch.linspace(0, 0.999, 50).double().expand(len(t), 50)
            others = answers(len(t), 20, k, seed=k + 5)
            tried = torch.cat([edge(steps, k), others], 1)
            off = elr(tried, t, lam).amin(1) < least[:, 0] - 1e-7
            wrong, total = wrong + off.sum(), total + len(t)
        if not (mutant or drop):  # and it is the library's, but for its clamp
            loss = ELRLoss(num_samples=N, num_classes=k).double().eval()
            loss.targets.copy_(t := memories(k, seed=k))
            y, h = torch.zeros(N).long(), 0.1 * answers(N, k, seed=k)
            found = loss.per_sample(h, y, index=torch.arange(N))
            off = (found - elr(h[:, None], t, 3.0)[:, 0]).abs() > 1e-3
            wrong, total = wrong + off.sum(), total + N
    return wrong, total, None


@check(
    "Corollary 13.7",
    "a memory that follows its answers keeps its class if λΔ > 2(1 - t_y), else not",
    "1.1 of the limit",
    "the class leads in memory (a third class does)",
)
def kept(mutant=False, drop=""):
    wrong = total = 0
    for lam in (1.5, 2.5, 3.0, 7.0):
        t = memories(4, seed=int(lam))[: N // 3]
        sure = 0.9 * torch.rand(len(t), 1, generator=generator(int(lam))).double()
        t = (1 - sure) * t + sure * torch.eye(4).double()[1]
        if drop:
            t = t[:, [0, 2, 1, 3]]
        need = 2 * (1 - t[:, 0]) * (1.1 if mutant else 1)
        limit = lam * (t[:, 1] - t[:, 0]) - need
        a = torch.linspace(0, 1 - 1e-6, 101).double()
        for _ in range(80):  # the best answer of a grid, then the memory follows
            best = t[:, 1:].amax(1, keepdim=True)
            agreement = t[:, :1] * (1 - a) + best * a
            cost = lam * torch.log1p(-agreement) - torch.log1p(-a)
            p = a[cost.argmin(-1)]
            now = torch.zeros_like(t).scatter(
                1, 1 + t[:, 1:].argmax(1, True), p[:, None]
            )
            now[:, 0] = 1 - p
            t = 0.7 * t + 0.3 * now
        stays, clear = t[:, 1] > 0.5, limit.abs() > 0.1
        wrong, total = wrong + ((stays != (limit > 0)) & clear).sum(), total + len(t)
    return wrong, total, None
