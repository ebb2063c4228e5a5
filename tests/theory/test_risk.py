"""Finite problems against plain sums, brute force and arithmetic by hand."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsbook.losses import CELoss, EpsCELoss, EpsFocalLoss, Loss, MAELoss
from epsbook.noise import NoiseSpec
from epsbook.theory.risk import (
    FiniteProblem,
    best_of,
    enumerated_problems,
    loss_table,
    random_distributions,
    random_problems,
    random_transitions,
    simplex_grid,
    simplex_minimum,
)

LOSSES = {
    "ce": CELoss(),
    "mae": MAELoss(),
    "ce_eps": EpsCELoss(m=2),
    "fl_eps": EpsFocalLoss(m=2, gamma=0.5),
    "sum": 0.3 * EpsCELoss(m=10) + 2 * MAELoss(),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def plain_risk(problem, loss, logits, transition):
    "One problem, loop by loop."
    total = 0.0
    n, k = problem.posterior.shape
    for x in range(n):
        for i, j in itertools.product(range(k), range(k)):
            T = transition[x] if np.ndim(transition) == 3 else transition
            p = problem.p_x[x] * problem.posterior[x, i] * float(T[i][j])
            if p > 0:
                label = torch.tensor([j])
                total += p * loss(logits[x : x + 1], label)
    return float(total)


@every_loss
@pytest.mark.parametrize("by_input", [False, True])
def test_risk_is_the_plain_sum(loss, by_input):
    problems = random_problems(5, 3, 4, seed=1)
    h = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    T = random_transitions(5, 4, seed=2)
    T = (
        T.expand(5, 3, 4, 4)
        if not by_input
        else random_transitions(15, 4, seed=3).reshape(5, 3, 4, 4)
    )
    found = problems.risk(loss, h, T)
    for b in range(5):
        one = FiniteProblem(problems.p_x[b], problems.posterior[b])
        wanted = plain_risk(one, loss, h[b], T[b].numpy())
        assert math.isclose(found[b], wanted, rel_tol=1e-12)
        assert math.isclose(one.risk(loss, h[b], T[b]), wanted, rel_tol=1e-12)


def test_shapes_broadcast():
    problems = random_problems(6, 3, 4, seed=0)
    h = torch.randn(3, 4)
    T = NoiseSpec.symmetric(0.3).transition(4)
    assert problems.risk(CELoss(), h).shape == (6,)
    assert problems.risk(CELoss(), torch.randn(2, 1, 3, 4)).shape == (2, 6)
    assert problems.risk(CELoss(), h, T).shape == (6,)
    assert problems.noisy(np.stack([T] * 3)).posterior.shape == (6, 3, 4)
    one = FiniteProblem([0.5, 0.5], [[1, 0], [0, 1]])
    many = one.noisy(np.eye(2)[None, None].repeat(7, 0))
    assert many.posterior.shape == (7, 2, 2) and many.p_x.shape == (7, 2)
    assert one.error(torch.randn(5, 2, 2)).shape == (5,)


def test_a_label_that_never_occurs_costs_nothing():
    problem = FiniteProblem([0.0, 1.0], [[0.5, 0.5], [1.0, 0.0]])
    corner = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).log()
    assert problem.risk(CELoss(), corner) == 0
    assert problem.risk(CELoss(), corner, [[0.9, 0.1], [0, 1]]) == math.inf


def test_error_counts_labels_not_ranked_first():
    problem = FiniteProblem([1.0], [[0.1, 0.2, 0.7]])
    h = torch.tensor([[3.0, 2.0, 1.0]])
    found = [problem.error(h, k).item() for k in (1, 2, 3)]
    np.testing.assert_allclose(found, [0.9, 0.7, 0.0], atol=1e-15)
    assert math.isclose(problem.error(torch.zeros(1, 3)), 0.9)  # ties: first index


def test_float32_and_lists_are_taken():
    rows = torch.rand(4, 3).softmax(-1)
    problem = FiniteProblem([0.25] * 4, rows)
    assert problem.posterior.dtype == torch.float64
    torch.testing.assert_close(
        problem.posterior.sum(-1), torch.ones(4).double(), atol=1e-15, rtol=0
    )


@pytest.mark.parametrize(
    "p_x, posterior, message",
    [
        ([0.5, 0.6], [[1, 0], [0, 1]], r"p_x must be at least 0 and sum to 1"),
        ([0.5, 0.5], [[1, 0], [0.5, 0.6]], r"posterior must .*use x / x.sum"),
        ([1.5, -0.5], [[1, 0], [0, 1]], "p_x must be at least 0"),
        ([math.nan, 1], [[1, 0], [0, 1]], "p_x must be at least 0"),
        ([1.0], [[1, 0], [0, 1]], r"must have shape \(\*p_x.shape, K\)"),
        ([1.0], [[1.0]], r"K >= 2, got \(1, 1\)"),
        ([], [[1, 0]], "p_x must have entries"),
    ],
)
def test_what_is_no_problem(p_x, posterior, message):
    with pytest.raises(ValueError, match=message):
        FiniteProblem(p_x, posterior)


@pytest.mark.parametrize(
    "T, message",
    [
        (np.eye(3), r"transition must be \(\.\.\., 2, 2\), got \(3, 3\)"),
        ([[0.5, 0.6], [0, 1]], "transition must be at least 0 and sum to 1"),
        ([0.5, 0.5], r"got \(2,\)"),
    ],
)
def test_what_is_no_transition(T, message):
    with pytest.raises(ValueError, match=message):
        FiniteProblem([1.0], [[0.5, 0.5]]).noisy(T)


@pytest.mark.parametrize(
    "logits", [torch.zeros(9, 3), torch.zeros(2, 4), torch.zeros(3)]
)
def test_logits_of_other_inputs_are_refused(logits):
    problem = FiniteProblem([1.0], [[0.5, 0.3, 0.2]])
    for call in (
        lambda: problem.risk(CELoss(), logits),
        lambda: problem.error(logits),
        lambda: best_of(problem, CELoss(), logits),
    ):
        with pytest.raises(ValueError, match=r"logits must be \(\.\.\., 1, 3\), got"):
            call()


@pytest.mark.parametrize("values", ["p", [[0.5, 0.5], [1.0]], NoiseSpec.pair(0.1)])
def test_what_holds_no_numbers(values):
    with pytest.raises(TypeError, match="transition must hold numbers, got"):
        FiniteProblem([1.0], [[0.5, 0.5]]).noisy(values)


def test_the_wrong_row_is_shown():
    T = np.eye(10)
    T[7, 7] = 0.5
    with pytest.raises(
        ValueError, match=r"0\.5, 0\.0, 0\.0\]: use x / x.sum\(-1, keep"
    ):
        FiniteProblem([1.0], [[0.1] * 10]).noisy(T)
    assert (
        FiniteProblem([1.0], [[0.5, 0.5]]).noisy(np.eye(2)[::-1]).posterior[0, 0] == 0.5
    )


def test_the_best_of_one():
    best = best_of(FiniteProblem([1.0], [[0.5, 0.5]]), CELoss(), torch.zeros(1, 1, 2))
    assert best.index == 0 and best.gap == math.inf


# Generators ------------------------------------------------------------------


def test_generators_make_distributions():
    g = torch.Generator().manual_seed(0)
    q = random_distributions(2000, 5, generator=g)
    assert q.dtype == torch.float64 and (q.sum(-1) - 1).abs().max() < 1e-12
    assert q.max() > 0.999 and q.max(-1).values.min() < 0.25, "from even to certain"
    T = random_transitions(500, 6, seed=0)[:, 0]
    assert (T.max(-1).indices == torch.arange(6)).all()
    assert (T.sum(-1) - 1).abs().max() < 1e-12
    certain = random_problems(50, 3, 4, seed=0, certain=True)
    assert set(certain.posterior.unique().tolist()) == {0.0, 1.0}
    again = random_problems(50, 3, 4, seed=0, certain=True)
    assert torch.equal(certain.p_x, again.p_x)


@pytest.mark.parametrize("k, n", [(2, 5), (3, 4), (4, 6)])
def test_the_grid_is_all_of_it(k, n):
    grid = simplex_grid(k, n)
    wanted = {p for p in itertools.product(range(n + 1), repeat=k) if sum(p) == n}
    found = {tuple(np.rint(row * n).astype(int)) for row in grid.numpy()}
    assert found == wanted and len(grid) == len(wanted)


def test_every_problem_is_enumerated_once():
    problems = enumerated_problems(inputs=2, num_classes=2, n=3)
    assert problems.posterior.shape == (16, 2, 2)
    assert len({tuple(q.flatten().tolist()) for q in problems.posterior}) == 16
    assert len(enumerated_problems(1, 3, 4).p_x) == len(simplex_grid(3, 4))
    with pytest.raises(ValueError, match="problems, at most a million"):
        enumerated_problems(4, 4, 10)


# Minima ----------------------------------------------------------------------


@every_loss
def test_best_of_a_family(loss):
    problems = random_problems(20, 3, 4, seed=1)
    family = torch.randn(20, 6, 3, 4).double()
    best = best_of(problems, loss, family)
    risks = torch.stack([problems.risk(loss, family[:, f]) for f in range(6)], -1)
    assert torch.equal(best.index, risks.argmin(-1))
    ordered = risks.sort(-1).values
    torch.testing.assert_close(best.risk, ordered[:, 0])
    torch.testing.assert_close(best.gap, ordered[:, 1] - ordered[:, 0])


def brute(loss, q, n):
    "Least expected loss over the grid; at a tie the argmax is the best one."
    p = simplex_grid(len(q), n)
    best = math.inf
    for winner in range(len(q)):
        allowed = p[:, winner] == p.max(-1).values
        top = torch.zeros_like(p, dtype=torch.bool)
        top[:, winner] = True
        cost = torch.where(q == 0, 0, q * loss.phi(p.log(), top)).sum(-1)
        best = min(best, cost[allowed].min().item())
    return best


@every_loss
def test_simplex_minimum_is_that_of_the_grid(loss):
    g = torch.Generator().manual_seed(3)
    for q in [*random_distributions(6, 3, generator=g), torch.tensor([1.0, 0, 0])]:
        q = q.double() / q.sum()
        found = simplex_minimum(loss, q, n=12)
        assert math.isclose(found.risk, brute(loss, q, 12), abs_tol=1e-12)
        finer = brute(loss, q, 96)
        assert found.risk - found.gap <= finer + 1e-12 <= found.risk + 2e-12


@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_the_certificate_holds_for_cross_entropy(k, n, seed):
    q = random_distributions(k, generator=torch.Generator().manual_seed(seed))
    found = simplex_minimum(CELoss(), q, max(k, n))
    entropy = -torch.special.xlogy(q, q).sum().item()
    assert found.risk - found.gap <= entropy + 1e-12
    assert entropy <= found.risk + 1e-12
    assert math.isclose(found.answer.sum(), 1)


def test_what_has_no_certificate_is_refused():
    class Rising(MAELoss):
        def phi(self, log_py, top):
            return log_py.exp()

    with pytest.raises(ValueError, match="no decreasing curve: use best_of"):
        simplex_minimum(Rising(), [0.5, 0.5])

    class Brier(Loss):
        def _every(self, logits):
            return -2 * logits.softmax(-1)

    for loss in (lambda h: h, MAELoss() + 10 * Brier()):
        with pytest.raises(TypeError, match="no curve: use best_of"):
            simplex_minimum(loss, [0.5, 0.5])
    with pytest.raises(ValueError, match="no decreasing curve"):  # inf - inf
        simplex_minimum(CELoss() - 0.5 * CELoss(), [0.5, 0.5])
    with pytest.raises(ValueError, match="n must be at least 3, got 2"):
        simplex_minimum(CELoss(), [0.5, 0.3, 0.2], n=2)
    with pytest.raises(ValueError, match="q must be at least 0"):
        simplex_minimum(CELoss(), [0.5, 0.6])


def test_loss_table_takes_functions_and_losses():
    h = torch.randn(2, 3, 4)
    table = loss_table(CELoss(), h)
    assert table.shape == (2, 3, 4) and table.dtype == torch.float64
    torch.testing.assert_close(table, loss_table(lambda x: -x.log_softmax(-1), h))


def test_class_weights_are_refused_and_not_left_out():
    w, q = torch.tensor([1.0, 9.0]), [0.6, 0.4]
    problem, family = FiniteProblem([1.0], [q]), torch.zeros(3, 1, 2)
    for loss in (CELoss(weight=w), 2 * CELoss(weight=w) + MAELoss(weight=w)):
        plain = loss.with_options(weight=None)
        for call in (
            lambda loss: loss_table(loss, family),
            lambda loss: problem.risk(loss, family[0]),
            lambda loss: best_of(problem, loss, family),
            lambda loss: simplex_minimum(loss, q),
        ):
            with pytest.raises(ValueError, match=r"weights.*with_options\(weight=None"):
                call(loss)
            call(plain)


def test_ten_thousand_problems_of_ten_classes_are_one_call():
    problems = random_problems(10_000, 8, 10, seed=0)
    h = torch.randn(10_000, 8, 10).double()
    T = random_transitions(10_000, 10, seed=0)
    start = time.perf_counter()
    problems.risk(0.01 * EpsCELoss(m=1e5) + 5 * MAELoss(), h, T)
    print(f"{time.perf_counter() - start:.2f} s")
