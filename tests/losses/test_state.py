"""What is changed on a loss later: it counts at once, or it is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from epsbook.losses import (
    BackwardLoss,
    CELoss,
    EpsCELoss,
    ForwardLoss,
    GCELoss,
    GLSLoss,
    MAELoss,
    MSELoss,
    NoiseAdaptationLoss,
)

ADAPTED = NoiseAdaptationLoss(noise_rate=0.2, inclusive=True)
SUMS = {
    "curves": lambda: 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss(),
    "mixed": lambda: 0.5 * GLSLoss(r=0.1) + 2 * EpsCELoss(m=10),
    "others": lambda: 2 * MSELoss() - GLSLoss(r=-1),
    "varying": lambda: CELoss() + copy.deepcopy(ADAPTED),
}


@pytest.fixture(params=SUMS)
def make(request):
    return SUMS[request.param]


def batch(n=6, k=5):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits.requires_grad_(), torch.arange(n) % k


def by_hand(loss, *inputs):
    "The sum, each term on its own."
    return sum(c * t(*inputs) for c, t in zip(loss.coefs, loss.losses, strict=True))


def agree(loss, other=by_hand, ways=2):
    "Value and gradient, for labels and for probabilities."
    logits, y = batch()
    for target in (y, torch.eye(5).double()[y])[:ways]:
        got, want = loss(logits, target), other(loss, logits, target)
        torch.testing.assert_close(got, want)
        (a,), (b,) = (torch.autograd.grad(v, logits) for v in (got, want))
        torch.testing.assert_close(a, b)


# ---- coefficients and terms -------------------------------------------------


def test_coefficients_that_are_set_count_at_once(make):
    loss = make()
    agree(loss)
    loss.coefs[0] = 0.25
    loss.coefs[-1] = -3
    assert loss.coefs == (0.25, -3)
    agree(loss)
    loss.coefs = [2, 7]
    assert loss.coefs[:] == [2, 7] and repr(loss).startswith("2 * ")
    agree(loss)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), 1 * loss):
        twin.coefs[0] = 0.125
        agree(twin)
        assert loss.coefs[0] == 2


@pytest.mark.filterwarnings("ignore")
def test_a_coefficient_is_annealed_under_compile(make, request):
    "With one recompilation, however many values it takes."
    torch.compiler.reset()
    request.addfinalizer(torch.compiler.reset)  # all losses share their code
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    loss, (logits, y) = make(), batch()
    fast = torch.compile(loss, fullgraph=True, backend=backend)
    for epoch in range(12):
        loss.coefs[0] = 1 - epoch / 11
        got, want = fast(logits, y), by_hand(loss, logits, y)
        torch.testing.assert_close(got, want)
        (a,), (b,) = (torch.autograd.grad(v, logits) for v in (got, want))
        torch.testing.assert_close(a, b)
    assert len(graphs) <= 2


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda c: c.__setitem__(0, float("nan")), ValueError, "finite"),
        (lambda c: c.__setitem__(0, "1"), TypeError, "must be a number"),
        (lambda c: c.__setitem__(0, torch.ones(())), TypeError, r"float\(coefficient"),
        (lambda c: c.__setitem__(2, 1.0), IndexError, "range"),
        (lambda c: c.__setitem__(slice(None), [1]), ValueError, "number of terms"),
    ],
)
def test_other_coefficients_are_refused(make, change, kind, says):
    loss = make()
    kept = list(loss.coefs)
    with pytest.raises(kind, match=says):
        change(loss.coefs)
    with pytest.raises(ValueError, match="number of terms"):
        loss.coefs = [1, 2, 3]
    assert loss.coefs == kept
    agree(loss)


@pytest.mark.parametrize("factor", [torch.ones(()), nn.Parameter(torch.ones(()))])
def test_what_is_to_be_learned_multiplies_the_value(factor):
    for product in (lambda: factor * CELoss(), lambda: CELoss() * factor):
        with pytest.raises(TypeError, match=r"use float\(coefficient\)"):
            product()


def test_terms_that_are_replaced_or_changed_count_at_once(make):
    loss = make()
    loss.losses[0] = GCELoss(q=0.3)
    agree(loss)
    loss.losses[0].q = 0.9
    agree(loss)
    loss.losses[1] = MSELoss()
    agree(loss)
    loss.losses[0] = MAELoss() - MSELoss()
    agree(loss)
    assert "MSELoss" in repr(loss)
    loss.losses.append(CELoss())
    with pytest.raises(ValueError, match="number of terms"):
        loss(*batch())


def test_parameters_that_are_set_are_checked():
    loss = EpsCELoss(m=10)
    for value, kind in ((-1, ValueError), (nn.Parameter(torch.ones(())), TypeError)):
        with pytest.raises(kind, match="m must be"):
            loss.m = value
    assert loss.m == 10 and not list(loss.parameters())


# ---- options ----------------------------------------------------------------

WEIGHT = torch.arange(1.0, 6).double()
OPTIONS = [{"ignore_index": 1}, {"reduction": "sum"}, {"weight": WEIGHT}]


@pytest.mark.parametrize(
    "options", [*OPTIONS, {k: v for o in OPTIONS for k, v in o.items()}]
)
def test_options_are_given_once_to_a_sum(make, options):
    logits, y = batch()
    loss = make()
    before, given = loss(logits, y), loss.with_options(**options)
    parts = [t.with_options(**options) for t in loss.losses]
    want = sum(c * t(logits, y) for c, t in zip(loss.coefs, parts, strict=True))
    torch.testing.assert_close(given(logits, y), want)
    torch.testing.assert_close(loss(logits, y), before)
    for twin in (2 * given, copy.deepcopy(2 * given), (2 * given).with_options()):
        torch.testing.assert_close(twin(logits, y), 2 * want)
    if "weight" not in options:
        names = {"EpsCELoss": EpsCELoss, "MAELoss": MAELoss, "GLSLoss": GLSLoss}
        names |= {"CELoss": CELoss, "MSELoss": MSELoss}
        names |= {"NoiseAdaptationLoss": NoiseAdaptationLoss}
        again = eval(repr(given), names)
        torch.testing.assert_close(again(logits, y), want)


@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_set_on_the_sum_and_refused_on_a_term(make, options):
    ((name, value),) = options.items()
    logits, y = batch()
    loss = make()
    want = loss.with_options(**options)(logits, y)
    setattr(loss, name, value)
    torch.testing.assert_close(loss(logits, y), want)
    loss, kept = make(), make()(logits, y)
    setattr(loss.losses[1], name, value)
    for call in (loss, loss.per_sample, lambda x, y: loss.per_class(x)):
        with pytest.raises(ValueError, match=f"{name} was set on .*, a term of a sum"):
            call(logits, y)
    setattr(loss, name, value)  # now it is what the sum has
    torch.testing.assert_close(loss(logits, y), want)
    setattr(loss, name, getattr(make(), name))
    setattr(loss.losses[1], name, getattr(make(), name))
    torch.testing.assert_close(loss(logits, y), kept)


def test_a_sum_says_that_the_weights_of_its_terms_do_not_count():
    weighted = CELoss(weight=WEIGHT) + MSELoss(weight=WEIGHT)
    bare = weighted.with_options(weight=None)
    assert repr(bare).endswith(".with_options(weight=None)")
    torch.testing.assert_close(bare(*batch()), (CELoss() + MSELoss())(*batch()))


def test_weights_are_moved_and_loaded_with_their_terms(make):
    loss = make().with_options(weight=WEIGHT)
    loss = sum(c * t.with_options(weight=WEIGHT) for c, t in loss._terms())
    logits, y = batch()
    want = loss(logits, y)
    other = make().with_options(weight=torch.ones(5).double())
    other = sum(c * t.with_options(weight=torch.ones(5)) for c, t in other._terms())
    other.double().load_state_dict(loss.state_dict(), assign=True)
    for moved in (loss.float().double(), other, copy.deepcopy(loss)):
        torch.testing.assert_close(moved(logits, y), want)
    assert loss.to("meta")(logits.to("meta"), y.to("meta")).device.type == "meta"


@pytest.mark.parametrize("options", [{"redution": "sum"}, {"reduction": "avg"}])
def test_wrong_options_are_refused(make, options):
    with pytest.raises((TypeError, ValueError), match=r"options are weight|must be"):
        make().with_options(**options)


# ---- the transition matrix --------------------------------------------------


def matrix(seed, k=5):
    g = torch.Generator().manual_seed(seed)
    noise = torch.rand(k, k, generator=g, dtype=torch.float64).softmax(1)
    return 0.7 * torch.eye(k).double() + 0.3 * noise


@pytest.mark.parametrize("kind", [ForwardLoss, BackwardLoss])
@pytest.mark.filterwarnings("ignore")
def test_a_matrix_that_is_set_counts_at_once(kind, request):
    torch.compiler.reset()
    request.addfinalizer(torch.compiler.reset)
    loss, other = kind(transition=matrix(0)), kind(transition=matrix(1))
    fast = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits, y = batch()
    for t in (matrix(0), matrix(1), matrix(2)):
        loss.transition, want = t, kind(transition=t)(logits, y)
        for call in (loss, fast, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            torch.testing.assert_close(call(logits, y), want)
    loss.transition.copy_(matrix(1))  # written into, not set
    agree(loss, lambda loss, *inputs: other(*inputs))
    loss.float().double().load_state_dict(other.state_dict())
    agree(loss, lambda loss, *inputs: other(*inputs))
    both = 2 * loss
    loss.transition = matrix(3)
    agree(both, lambda both, *inputs: 2 * kind(transition=matrix(3))(*inputs))
    for wrong, says in ((2 * matrix(0), "sum to 1"), (-matrix(0), "negative")):
        with pytest.raises(ValueError, match=says):
            loss.transition = wrong
    agree(loss, lambda loss, *inputs: kind(transition=matrix(3))(*inputs))


def test_a_matrix_that_cannot_be_used_is_not_set():
    flat = torch.full((5, 5), 0.2).double()
    loss = BackwardLoss(transition=matrix(0))
    with pytest.raises(ValueError, match="cannot be inverted"):
        loss.transition = flat
    with pytest.raises(ValueError, match="cannot be inverted"):
        loss.transition.copy_(flat)
        loss(*batch())
    with pytest.raises(ValueError, match="never gives label 4"):
        ForwardLoss(transition=matrix(0)).transition = torch.eye(5)[[0, 1, 2, 3, 3]]


@pytest.mark.parametrize("kind", [ForwardLoss, BackwardLoss, ForwardLoss.learned])
def test_a_matrix_that_asks_for_a_gradient_is_told_where_to_go(kind):
    scores = torch.zeros(5, 5, requires_grad=True)
    for t in (nn.Parameter(matrix(0)), scores.softmax(1)):
        with pytest.raises(TypeError, match=r"ForwardLoss.learned\(transition"):
            kind(transition=t)
        loss = kind(transition=matrix(0))
        with pytest.raises(TypeError, match=r"ForwardLoss.learned\(transition"):
            loss.transition = t


def test_a_learned_matrix_has_its_gradient():
    loss = ForwardLoss.learned(transition=matrix(0)).double()
    fixed, (logits, y) = ForwardLoss(transition=matrix(0)), batch()
    torch.testing.assert_close(loss.transition, matrix(0), rtol=1e-6, atol=1e-6)
    loss.transition = matrix(1)  # from here on
    fixed.transition = loss.transition.detach()
    agree(loss, lambda loss, *inputs: fixed(*inputs))
    agree(0.5 * loss + CELoss())
    q = torch.rand(6, 5).double().softmax(1)
    for target in (y, q):
        call = lambda w, q: functional_call(loss, {"scores": w}, (logits, q))
        assert torch.autograd.gradcheck(call, (loss.scores, target))
    x = logits.detach()
    one = lambda w, x, y: functional_call(loss, {"scores": w}, (x, y))
    each = vmap(grad(one), (None, 0, 0))(loss.scores.detach(), x, y)
    (mean,) = torch.autograd.grad(loss(x, y), loss.scores)
    torch.testing.assert_close(each.mean(0), mean)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(twin(x, y), loss(x, y))
    twin.load_state_dict(ForwardLoss.learned(transition=matrix(2)).state_dict())
    torch.testing.assert_close(twin.transition.float(), matrix(2).float())
    assert eval(repr(loss).replace("5 x 5", "matrix(1)"))(x, y).isfinite()
    with pytest.raises(ValueError, match="zeros, which no step could change"):
        ForwardLoss.learned(transition=torch.eye(3))


@pytest.mark.filterwarnings("ignore")
def test_a_matrix_is_learned_under_compile_and_stays_one(request):
    torch.compiler.reset()
    request.addfinalizer(torch.compiler.reset)
    g = torch.Generator().manual_seed(0)
    clean = torch.arange(5).repeat(400)
    given = torch.multinomial(matrix(0)[clean], 1, generator=g)[:, 0]
    loss = ForwardLoss.learned(transition=matrix(1))
    fast = torch.compile(loss, fullgraph=True, backend="aot_eager")
    steps = torch.optim.SGD(loss.parameters(), lr=5)
    before = loss(20 * torch.eye(5)[clean], given).item()
    for _ in range(50):
        steps.zero_grad()
        value = fast(20 * torch.eye(5)[clean], given)
        value.backward()
        steps.step()
    assert value < before
    counted = torch.stack([given[clean == i].bincount(minlength=5) for i in range(5)])
    torch.testing.assert_close(loss.transition, counted / 400, rtol=0, atol=0.02)
    torch.testing.assert_close(loss.transition.sum(1), torch.ones(5))


@pytest.mark.parametrize("kind", [ForwardLoss, BackwardLoss])
def test_a_matrix_can_be_kept_in_single_precision(kind):
    "As devices without float64 ask for: `loss.float()` before they get the loss."
    t = 0.6 * torch.eye(4, dtype=torch.float64) + 0.1
    loss, exact = kind(transition=t).float(), kind(transition=t)
    logits, y = torch.randn(8, 4), torch.arange(8) % 4
    for matrix in (t, t.flip(0), t.flip(0).float()):
        loss.transition = exact.transition = matrix
        assert {b.dtype for b in loss.buffers()} == {torch.float32}
        torch.testing.assert_close(loss(logits, y), exact(logits, y))
    loss.transition.copy_(t)
    torch.testing.assert_close(loss(logits, y), kind(transition=t)(logits, y))
