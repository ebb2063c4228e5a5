"""The loss that is one number a batch: what it is, and what it refuses."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from epsbook.losses import CELoss, DMILoss, MAELoss
from epsbook.losses.recipes import build_loss


def batch(n=40, k=3, scale=2, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits.to(dtype), torch.randint(k, (n,), generator=g)


def by_hand(logits, y, tau):
    "The definition in numpy, in float64, sample by sample."
    k, matrix = logits.shape[1], np.zeros((logits.shape[1],) * 2)
    for row, label in zip(logits.double().numpy(), y.numpy(), strict=True):
        p = np.exp(row - row.max())
        matrix[label] += p / p.sum()
    return -np.log(abs(np.linalg.det(matrix)) + tau), k


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("tau", [0, 1e-3, 1])
def test_equals_the_definition(k, tau):
    logits, y = batch(200, k)
    want, _ = by_hand(logits, y, tau)
    assert abs(DMILoss(tau=tau)(logits, y).item() - want) < 1e-9


def test_the_released_number():
    # -log(|det| + 0.001) of M = [[1.2, 0.8], [0.5, 1.5]], by hand: det 1.4.
    p = torch.tensor([[7, 3], [5, 5], [4, 6], [1, 9]]).double() / 10
    y = torch.tensor([0, 0, 1, 1])
    assert abs(DMILoss()(p.log(), y).item() + math.log(1.4 + 1e-3)) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_any_noise_shifts_the_expected_matrix_by_a_constant(seed):
    "Exact: each sample stands once for each given label, as often as T says."
    logits, y = batch(30, 3, seed=seed)
    times = torch.tensor([[3, 6, 1], [2, 2, 6], [8, 1, 1]])
    rows = [(i, j) for i in range(30) for j in range(3) for _ in range(times[y[i], j])]
    index, given = (torch.tensor(x) for x in zip(*rows, strict=True))
    loss = DMILoss(tau=0)
    moved = loss(logits[index], given) - loss(logits, y)
    want = -times.double().det().abs().log()
    assert abs(moved - want) < 1e-9


def test_the_names_of_the_classes_are_not_seen():
    logits, y = batch(50, 4)
    other = logits[:, torch.tensor([2, 0, 3, 1])]
    torch.testing.assert_close(DMILoss()(other, y), DMILoss()(logits, y))


@pytest.mark.parametrize("tau", [0, 1e-3])
def test_has_its_derivatives(tau):
    logits, y = batch(12, 3)
    loss = DMILoss(tau=tau)
    logits.requires_grad_()
    call = lambda x: loss(x, y)
    assert torch.autograd.gradcheck(call, logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_is_finite_for_extreme_logits(dtype, scale):
    logits, y = batch(64, 10, scale, dtype=dtype)
    logits.requires_grad_()
    value = DMILoss()(logits, y)
    (g,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and g.isfinite().all()


def test_many_classes_do_not_underflow():
    logits, y = batch(3000, 1000, 3, dtype=torch.float32)
    y[:1000] = torch.arange(1000)
    logits[range(3000), y] += 8
    logits.requires_grad_()
    value = DMILoss(tau=0)(logits, y)
    (g,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and g.isfinite().all() and (g != 0).any()
    exact = DMILoss(tau=0)(logits.double(), y)
    assert abs(value - exact) < 1e-3 * abs(exact)


def test_a_batch_without_a_class_teaches_nothing():
    logits, _ = batch(20, 3)
    y = torch.arange(20) % 2
    logits.requires_grad_()
    value = DMILoss()(logits, y)
    (g,) = torch.autograd.grad(value, logits)
    assert abs(value.item() - 3 * math.log(10)) < 1e-9 and (g == 0).all()
    assert DMILoss(tau=0)(logits, y) == math.inf


def test_nan_stays_nan_and_dense_batches_are_flat():
    logits, y = batch(24, 3)
    dense = logits.view(2, 12, 3).movedim(2, 1)
    torch.testing.assert_close(DMILoss()(dense, y.view(2, 12)), DMILoss()(logits, y))
    logits[0, 0] = torch.nan
    assert DMILoss()(logits, y).isnan()


def test_ignored_labels_are_left_out():
    logits, y = batch()
    ignored = torch.arange(40) % 5 == 0
    want = DMILoss()(logits[~ignored], y[~ignored])
    logits[ignored] = torch.nan
    got = DMILoss()(logits, y.masked_fill(ignored, -100))
    torch.testing.assert_close(got, want)


REFUSED = [
    (lambda x, y: DMILoss(reduction="none"), 'use reduction="mean"'),
    (lambda x, y: DMILoss(reduction="sum"), 'use reduction="mean"'),
    (lambda x, y: DMILoss().with_options(reduction="sum")(x, y), "loss per sample"),
    (lambda x, y: DMILoss().per_sample(x, y), "loss per sample"),
    (lambda x, y: DMILoss().per_class(x), "loss per class"),
    (lambda x, y: DMILoss()(x, x.softmax(1)), r"target.argmax\(1\)"),
    (lambda x, y: DMILoss(weight=torch.ones(3))(x, y), "class weights"),
    (lambda x, y: DMILoss(weight=torch.ones(3))(x, x.softmax(1)), "class weights"),
    (
        lambda x, y: (DMILoss() + CELoss()).with_options(reduction="none")(x, y),
        "loss per sample",
    ),
    (
        lambda x, y: (DMILoss() + CELoss()).with_options(
            reduction="none", ignore_index=1
        )(x, y),
        "loss per sample",
    ),
    (lambda x, y: DMILoss()(x, y + 1), "labels must lie in 0..2"),
]


@pytest.mark.parametrize("call", range(len(REFUSED)))
def test_parts_of_a_batch_are_refused_with_a_remedy(call):
    refused, says = REFUSED[call]
    with pytest.raises(ValueError, match=says):
        refused(*batch())


def test_adds_up_with_other_losses_and_copies():
    logits, y = batch()
    both = 0.5 * DMILoss() + CELoss() - MAELoss()
    want = 0.5 * DMILoss()(logits, y) + CELoss()(logits, y) - MAELoss()(logits, y)
    torch.testing.assert_close(both(logits, y), want)
    torch.testing.assert_close(copy.deepcopy(both)(logits, y), want)
    assert repr(build_loss([{"loss": "DMILoss", "tau": 0.001}])) == "DMILoss(tau=0.001)"


def test_transformations_of_torch():
    logits = torch.stack([batch(seed=i)[0] for i in range(3)])
    y, loss = batch()[1], DMILoss()
    got = vmap(grad(lambda x: loss(x, y)))(logits)
    for x, g in zip(logits, got, strict=True):
        x = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(loss(x, y), x)
        torch.testing.assert_close(g, want)


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_a_break():
    torch.compiler.reset()
    logits, y = batch()
    fast = torch.compile(DMILoss(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(logits, y), DMILoss()(logits, y))
