"""Noise: matrices, draws, frozen labels, round trips, and what is refused."""

import hashlib
import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from epsbook.noise import (
    CIFAR10_MAP,
    MNIST_MAP,
    NoiseSpec,
    draw,
    inclusive_rate,
    label_sha256,
    realized_rate,
    realized_transition,
    symmetric_rate,
)
from epsbook.noise.draw import apportion, carry, random_order
from epsbook.noise.labels import as_labels

K = 10
TRUE = np.arange(2000) % K
SKEWED = np.repeat(np.arange(K), np.arange(1, K + 1) * 37)
BANDED = 0.7 * np.eye(K) + 0.2 * np.eye(K, k=1) + 0.1 * np.eye(K, k=-2)
BANDED /= BANDED.sum(axis=1, keepdims=True)
KINDS = {
    "clean": NoiseSpec.clean(),
    "symmetric": NoiseSpec.symmetric(0.37),
    "symmetric iid": NoiseSpec.symmetric(0.37, draw="iid"),
    "inclusive": NoiseSpec.symmetric(0.37, inclusive=True),
    "inclusive iid": NoiseSpec.symmetric(0.37, inclusive=True, draw="iid"),
    "pair": NoiseSpec.pair(0.37),
    "pair iid": NoiseSpec.pair(0.37, draw="iid"),
    "asymmetric": NoiseSpec.asymmetric(0.37, CIFAR10_MAP),
    "asymmetric iid": NoiseSpec.asymmetric(0.37, CIFAR10_MAP, draw="iid"),
    "superclass": NoiseSpec.superclass(0.37, [(0, 3, 5), (1, 9), (2, 4, 8, 6)]),
    "superclass iid": NoiseSpec.superclass(0.37, [(0, 3, 5), (1, 9)], draw="iid"),
    "transition": NoiseSpec.from_transition(BANDED),
    "transition iid": NoiseSpec.from_transition(BANDED, draw="iid"),
}
FROZEN = {  # of SKEWED with seed 7; never to change
    "clean": "e968d155e0cdb170714ce8734bf52b95414cb24a5e7603836d33c8763d779fa6",
    "symmetric": "800592f0984632a339822f8dfd0e94d77fa13f7b4a515e249c255a850889008c",
    "symmetric iid": "d94d43beed2f2cbd369c525cebad13923b5c160523cc93935e985b5c9368440f",
    "inclusive": "2eb159c579acf3b4d1cc4492ddd7abb88025d8b48538f92a38b9ed220fb21f90",
    "inclusive iid": "12f71854af7154716f83fcbd81c40ab171be57011a0537ed251021bec37a6b7c",
    "pair": "b4ec7a3436b8e01695f5fd3817923307dd496005298d543959bfea79b96753d1",
    "pair iid": "350421f73cc56858460e9dfbdc2c559cccbc83aaeb54baa4695a0b8796d4f8c5",
    "asymmetric": "4c0b247bcc60ccdf315c7eb630a5951c9cd0a5a7928012f5509b52ed3ec34b2d",
    "asymmetric iid": "eb25d187f2d1d15dc707a716c6d2d3ae87f7231c54f85a30b4fe6af7e1464350",
    "superclass": "a315adc62d85bb6b724ef3605061f0e305aa21a3287a07e42f03e3979f928b60",
    "superclass iid": "e2a9fa7875f8a633f5ee9159a2ed653ea0a4f0963e1792d0806aa895f793ffa2",
    "transition": "bc138385fb139171f212fddbb4491062574183b1e9f1430e2b060b43d5190b19",
    "transition iid": "055695f14f57d9de035b98428b37181acc19766f64c1eff4caf168a93cc475a8",
}
ORDER = "06746a10e1b2f0a2899dfba7ac1c788256b98fd48fda133ad30543ce7990f929"
every_kind = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS.keys())


def counts_of(true, given_labels):
    counts = np.zeros((K, K))
    np.add.at(counts, (true, given_labels), 1)
    return counts


# Matrices ------------------------------------------------------------------


@every_kind
def test_rows_are_distributions(spec):
    matrix = spec.transition(K)
    assert matrix.dtype == np.float64 and matrix.shape == (K, K)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-15 * K)


def test_symmetric_excludes_the_true_class():
    matrix = NoiseSpec.symmetric(0.9).transition(K)
    np.testing.assert_allclose(matrix, np.full((K, K), 0.1), atol=1e-16)
    matrix = NoiseSpec.symmetric(1).transition(3)
    assert matrix.tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_conventions_convert(k):
    inclusive = NoiseSpec.symmetric(0.5, inclusive=True).transition(k)
    exclusive = NoiseSpec.symmetric(symmetric_rate(0.5, k)).transition(k)
    np.testing.assert_allclose(inclusive, exclusive, atol=1e-15)
    assert math.isclose(inclusive_rate(symmetric_rate(0.3, k), k), 0.3)


def test_pure_chance_is_rate_one():
    for k in range(2, 500):  # one rounding error more is forgiven
        for rate in ((k - 1) / k, math.nextafter((k - 1) / k, 1)):
            assert 1 - 1e-12 < inclusive_rate(rate, k) <= 1


def test_maps():
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    named = {names[i]: names[j] for i, j in CIFAR10_MAP.items()}
    assert named == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }
    assert MNIST_MAP == {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
    matrix = NoiseSpec.asymmetric(0.4, CIFAR10_MAP).transition(K)
    assert math.isclose(1 - np.trace(matrix) / K, 0.2)  # half of the classes
    with pytest.raises(TypeError):
        CIFAR10_MAP[0] = 1


def test_pair_closes_the_circle():
    matrix = NoiseSpec.pair(0.25).transition(4)
    assert matrix[3].tolist() == [0.25, 0, 0, 0.75]
    assert matrix[0].tolist() == [0.75, 0.25, 0, 0]


def test_float32_rows_are_made_to_sum_to_one():
    rows = torch.softmax(torch.randn(50, 50, generator=torch.manual_seed(0)), 1)
    assert (rows.double().sum(1) - 1).abs().max() > 1e-9
    matrix = NoiseSpec.from_transition(rows).transition(50)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(matrix, rows, rtol=1e-6)


# Exact draws ---------------------------------------------------------------


def test_exact_counts():
    labels = NoiseSpec.symmetric(0.4).corrupt(TRUE, K, seed=1)
    counts = counts_of(TRUE, labels)
    assert (np.diag(counts) == 120).all()  # .6 of 200
    off = counts[~np.eye(K, dtype=bool)]  # 80 shared among nine: 8 or 9
    assert sorted(set(off)) == [8, 9] and (counts == 9).sum() == 80
    assert realized_rate(TRUE, labels) == 0.4


def test_two_way_map_does_not_flip_back():
    spec = NoiseSpec.asymmetric(0.5, {3: 5, 5: 3})
    counts = counts_of(TRUE, spec.corrupt(TRUE, K, seed=0))
    assert counts[3, 3] == counts[3, 5] == counts[5, 3] == counts[5, 5] == 100
    untouched = [i for i in range(K) if i not in (3, 5)]
    assert (counts[untouched, untouched] == 200).all()


def test_chained_map_moves_one_step():
    labels = NoiseSpec.asymmetric(1, {0: 1, 1: 2}).corrupt(TRUE, K, seed=0)
    assert labels.tolist() == np.where(TRUE < 2, TRUE + 1, TRUE).tolist()


@pytest.mark.parametrize("true", [TRUE, SKEWED, TRUE[:7]], ids=["even", "skew", "7"])
@pytest.mark.parametrize("seed", [0, 1, 2**70])
@pytest.mark.parametrize(
    "spec", [x for x in KINDS.values() if x.draw != "iid"], ids=str
)
def test_exact_counts_are_within_one(spec, true, seed):
    counts = counts_of(true, spec.corrupt(true, K, seed))
    sizes = np.bincount(true, minlength=K)[:, None]
    expected = sizes * spec.transition(K)
    assert (np.abs(counts - expected) < 1).all()
    assert (counts.sum(axis=1) == sizes[:, 0]).all()
    assert (counts[spec.transition(K) == 0] == 0).all()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_exact_counts_are_within_one_for_any_matrix(data):
    k = data.draw(st.integers(2, 6))
    weights = st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(any)
    rows = np.array([data.draw(weights) for _ in range(k)], dtype=float)
    rows /= rows.sum(axis=1, keepdims=True)
    true = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=1)))
    labels = NoiseSpec.from_transition(rows).corrupt(true, k, seed=3)
    counts = np.zeros((k, k))
    np.add.at(counts, (true, labels), 1)
    sizes = np.bincount(true, minlength=k)
    assert (np.abs(counts - sizes[:, None] * rows) < 1 + 1e-9).all()
    assert (counts.sum(axis=1) == sizes).all()
    assert (counts[rows == 0] == 0).all()


@given(st.lists(st.integers(0, 30), min_size=2, max_size=4), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_apportion_is_nearest(weights, total):
    if not any(weights):
        weights[0] = 1
    expected = total * np.array(weights) / sum(weights)
    keys = np.random.PCG64(0).random_raw(len(weights))[None]
    found = apportion(expected[None], np.array([total]), keys)[0]
    grid = itertools.product(range(total + 1), repeat=len(weights))
    best = min(np.abs(np.array(x) - expected).sum() for x in grid if sum(x) == total)
    assert found.sum() == total
    assert np.abs(found - expected).sum() <= best + 1e-9


@pytest.mark.parametrize(
    "spec, k, each",
    [
        (NoiseSpec.symmetric(0.3), 1000, 2),
        (NoiseSpec.symmetric(0.2), 10, 4),
        (NoiseSpec.symmetric(0.2), 100, 4),
        (NoiseSpec.symmetric(0.6), 100, 1),
        (NoiseSpec.symmetric(1.0), 100, 2),
        (NoiseSpec.symmetric(0.5, inclusive=True), 200, 1),
        (NoiseSpec.pair(0.1), 100, 3),
        (NoiseSpec.asymmetric(0.3, {i: i + 1 for i in range(0, 100, 2)}), 100, 1),
        (NoiseSpec.from_transition(np.kron(np.eye(40), BANDED)), 400, 2),
    ],
    ids=str,
)
def test_small_classes_are_not_all_rounded_alike(spec, k, each):
    true, matrix = np.repeat(np.arange(k), each), spec.transition(k)
    wanted, expected = each * (k - np.trace(matrix)), each * matrix
    drawn = [spec.corrupt(true, k, seed) for seed in range(8)]
    for labels in drawn:
        assert abs((labels != true).sum() - wanted) <= max(1, len(true) / 1000)
        counts = realized_transition(true, labels, k) * each
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
        assert (counts[matrix == 0] == 0).all()
    rows = {tuple(np.flatnonzero(x != true) // each) for x in drawn}
    assert len(rows) > 1 or wanted in (0, len(true))


def test_what_is_carried_is_what_is_expected_on_average():
    # Remainders .6 and .3 in each of ten rows: in 400 draws, those shares.
    k = 10
    matrix = 0.1 * np.eye(k)
    for share, by in ((0.6, 1), (0.3, 2)):
        matrix += share * np.roll(np.eye(k), by, axis=1)
    counts = np.zeros((k, k))
    for seed in range(400):
        keys = np.random.PCG64(seed).random_raw(k * k).reshape(k, k)
        found = carry(matrix, np.ones(k, int), keys, seed * 2**30 // 400)
        assert (found >= 0).all() and (found.sum(1) == 1).all() and found.trace() == 1
        counts += found
    assert np.abs(counts / 400 - matrix).max() < 5 * math.sqrt(0.24 / 400)


def test_rounding_neither_makes_nor_breaks_a_tie():
    half, keys = 1e-12, np.array([[9, 1]], dtype=np.uint64)
    for shift in (half, -half):  # .5 and .5, but for rounding: the keys decide
        expected = np.array([[1.5 + shift, 2.5 - shift]])
        assert apportion(expected, np.array([4]), keys).tolist() == [[1, 3]]
    expected = np.array([[1.5 + 1e-6, 2.5 - 1e-6]])  # not a tie
    assert apportion(expected, np.array([4]), keys).tolist() == [[2, 2]]
    expected = np.array([[3 - half, 2 + half]])  # whole, but for rounding
    assert apportion(expected, np.array([5]), keys).tolist() == [[3, 2]]


def test_ties_go_to_every_class_equally():
    # 10 samples, rate .4: nine classes share four flips, each gets 0 or 1.
    true, hits = np.zeros(10, dtype=int), np.zeros(K)
    for seed in range(900):
        hits += np.bincount(
            NoiseSpec.symmetric(0.4).corrupt(true, K, seed), minlength=K
        )
    assert hits[0] == 900 * 6
    # Four of nine without replacement: less than multinomial variance.
    chi2 = ((hits[1:] - 400) ** 2 / (900 * 4 / 9 * 5 / 9)).sum() * 8 / 9
    assert 0.001 < stats.chi2.sf(chi2, df=8) < 0.999


def test_every_sample_is_flipped_equally_often():
    true, flips = np.repeat([0, 1], 25), np.zeros(50)
    for seed in range(500):
        flips += NoiseSpec.pair(0.4).corrupt(true, 2, seed) != true
    # 10 of 25 in each half; scaled so that 48 degrees of freedom are right.
    chi2 = ((flips - 200) ** 2 / (500 * 0.4 * 0.6)).sum() * 24 / 25
    assert 0.001 < stats.chi2.sf(chi2, df=48) < 0.999


# Iid draws -----------------------------------------------------------------


def p_value(spec, matrix, seeds=20):
    """Chi-square of the pooled counts of `seeds` draws against `matrix`."""
    counts = sum(
        counts_of(SKEWED, spec.corrupt(SKEWED, K, seed)) for seed in range(seeds)
    )
    expected = counts.sum(axis=1, keepdims=True) * matrix
    live = matrix > 0
    assert (counts[~live] == 0).all()
    chi2 = ((counts[live] - expected[live]) ** 2 / expected[live]).sum()
    return stats.chi2.sf(chi2, df=live.sum() - K)


@pytest.mark.parametrize(
    "spec", [x for x in KINDS.values() if x.draw == "iid"], ids=str
)
def test_iid_draws_follow_the_matrix(spec):
    matrix = spec.transition(K)
    assert 0.001 < p_value(spec, matrix) < 0.999
    other = 0.9 * matrix + 0.1 * np.eye(K)  # a rate of .333 for .37
    assert p_value(spec, other) < 1e-6


def test_iid_labels_are_independent_of_each_other():
    spec = NoiseSpec.symmetric(0.5, draw="iid")
    whole = spec.corrupt(TRUE, K, seed=5)
    assert (spec.corrupt(TRUE[:100], K, seed=5) == whole[:100]).all()
    wrong = np.concatenate(
        [spec.corrupt(TRUE, K, seed) != TRUE for seed in range(20)]
    ).astype(float)
    neighbors = np.corrcoef(wrong[:-1], wrong[1:])[0, 1]
    assert abs(neighbors) < 4 / math.sqrt(len(wrong))


@pytest.mark.parametrize("raw, given_label", [(0, 1), (2**64 - 1, 10)])
def test_iid_never_gives_what_has_probability_zero(monkeypatch, raw, given_label):
    """The smallest and largest random number, zeros at both ends of the row."""
    monkeypatch.setattr(
        draw, "raw_keys", lambda seed, n, use="": np.full(n, raw, np.uint64)
    )
    row = [0.0] + [0.1] * 10 + [0.0]  # adds up to less than 1 in float64
    assert np.cumsum(row)[-1] < 1
    spec = NoiseSpec.from_transition([row] * 12, draw="iid")
    assert (spec.corrupt(np.arange(12), 12, seed=0) == given_label).all()


# Both ----------------------------------------------------------------------


@every_kind
def test_input_is_not_touched(spec):
    true = SKEWED.copy()
    labels = spec.corrupt(true, K, seed=0)
    assert (true == SKEWED).all() and not np.shares_memory(true, labels)
    tensor = torch.from_numpy(true)
    labels = spec.corrupt(tensor, K, seed=0)
    assert (true == SKEWED).all() and labels.data_ptr() != tensor.data_ptr()
    labels[:] = 0
    assert (true == SKEWED).all()


@every_kind
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_torch_and_numpy_agree(spec, dtype):
    array = spec.corrupt(SKEWED, K, seed=4)
    tensor = spec.corrupt(torch.from_numpy(SKEWED).to(dtype), K, seed=4)
    assert isinstance(array, np.ndarray) and array.dtype == np.int64
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int64
    assert tensor.tolist() == array.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_labels_stay_on_their_device():
    labels = torch.from_numpy(SKEWED).cuda()
    noisy = NoiseSpec.symmetric(0.4).corrupt(labels, K, seed=0)
    assert noisy.device == labels.device
    cpu = NoiseSpec.symmetric(0.4).corrupt(SKEWED, K, seed=0)
    assert label_sha256(noisy) == label_sha256(cpu)


@every_kind
def test_seeds_decide(spec):
    first, again, other = (spec.corrupt(TRUE, K, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any() or spec.kind == "clean"


@pytest.mark.parametrize("name", KINDS)
def test_frozen_labels(name):
    assert label_sha256(KINDS[name].corrupt(SKEWED, K, seed=7)) == FROZEN[name]


def test_layout_of_the_input_does_not_matter():
    spec = NoiseSpec.symmetric(0.4, draw="iid")
    strided = np.stack([SKEWED, SKEWED], axis=1)[:, 0]
    swapped = SKEWED.astype(">i4")
    expected = label_sha256(spec.corrupt(SKEWED, K, seed=0))
    for labels in (strided, swapped):
        assert label_sha256(labels) == label_sha256(SKEWED)
        assert label_sha256(spec.corrupt(labels, K, seed=0)) == expected


def test_random_order_is_a_frozen_permutation():
    order = random_order(1000, seed=0)
    assert sorted(order) == list(range(1000)) and order.dtype == np.int64
    assert label_sha256(order) == ORDER
    assert (random_order(1000, seed=1) != order).any()


# Counting ------------------------------------------------------------------


def test_realized():
    true, labels = np.array([0, 0, 0, 0, 2]), torch.tensor([0, 0, 1, 2, 2])
    assert realized_rate(true, labels) == 0.4
    matrix = realized_transition(true, labels, 3)
    assert matrix[0].tolist() == [0.5, 0.25, 0.25]
    assert matrix[2].tolist() == [0, 0, 1]
    assert np.isnan(matrix[1]).all()  # no sample of class 1


@every_kind
def test_realized_transition_of_a_draw(spec):
    true = np.repeat(TRUE, 20)
    matrix = realized_transition(true, spec.corrupt(true, K, seed=2), K)
    np.testing.assert_allclose(matrix, spec.transition(K), atol=0.04)


def test_label_sha256_is_of_int64_bytes():
    little = b"\1\0\0\0\0\0\0\0" + b"\xfe" + 7 * b"\xff"
    assert label_sha256(np.array([1, -2])) == hashlib.sha256(little).hexdigest()
    assert label_sha256(torch.tensor([1, -2])) == label_sha256(np.array([1, -2]))
    assert label_sha256(np.array([-2, 1])) != label_sha256(np.array([1, -2]))


def test_labels_do_not_wrap_around():
    with pytest.raises(ValueError, match="must fit into int64, got 18446744073709"):
        label_sha256(np.array([0, 2**64 - 1], dtype=np.uint64))


def test_as_labels_copies():
    labels = np.array([0, 1])
    as_labels(labels)[0] = 5
    assert labels[0] == 0


# Descriptions --------------------------------------------------------------

RATES = st.floats(0, 1)
DRAWS = st.sampled_from(["exact", "iid"])
CLASSES = st.integers(0, 12)


@st.composite
def specs(draw):
    how = draw(DRAWS)
    mapping = draw(st.dictionaries(CLASSES, CLASSES, min_size=1))
    mapping = {i: j if i != j else i + 1 for i, j in mapping.items()}
    k = draw(st.integers(2, 4))
    weights = st.lists(st.floats(0.01, 1), min_size=k, max_size=k)
    rows = np.array([draw(weights) for _ in range(k)])
    rows /= rows.sum(axis=1, keepdims=True)
    rate, inclusive = draw(RATES), draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                NoiseSpec.clean(),
                NoiseSpec.symmetric(rate, inclusive=inclusive, draw=how),
                NoiseSpec.pair(rate, draw=how),
                NoiseSpec.asymmetric(rate, mapping, draw=how),
                NoiseSpec.from_transition(rows, draw=how),
            ]
        )
    )


@given(specs())
@settings(deadline=None)
def test_round_trips(spec):
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert json.loads(text) == spec.to_dict()
    again = NoiseSpec.from_dict(json.loads(text))
    assert again == spec and hash(again) == hash(spec)
    assert again.to_dict() == spec.to_dict() and repr(again) == repr(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    if spec.kind != "transition":
        assert eval(repr(spec)) == spec


def test_dict_says_what_the_kind_needs():
    spec = NoiseSpec.asymmetric(0.4, {5: 3, 3: 5})
    assert spec.to_dict() == {
        "kind": "asymmetric",
        "rate": 0.4,
        "mapping": [[3, 5], [5, 3]],
        "draw": "exact",
    }
    assert NoiseSpec.clean().to_dict() == {"kind": "clean"}


def test_repr_is_the_call():
    shown = [
        repr(spec)
        for spec in (
            NoiseSpec.clean(),
            NoiseSpec.symmetric(0),
            NoiseSpec.symmetric(0.4, inclusive=True, draw="iid"),
            NoiseSpec.from_transition(BANDED),
        )
    ]
    assert shown == [
        "NoiseSpec.clean()",
        "NoiseSpec.symmetric(0.0)",
        "NoiseSpec.symmetric(0.4, inclusive=True, draw='iid')",
        "NoiseSpec.from_transition(<10 x 10>)",
    ]


def test_specs_are_values():
    mapping = {3: 5, 5: 3}
    spec = NoiseSpec.asymmetric(0.4, mapping)
    assert spec == NoiseSpec.asymmetric(np.float64(0.4), {5: 3, np.int8(3): 5})
    assert spec != NoiseSpec.asymmetric(0.4, mapping, draw="iid")
    assert len({spec, NoiseSpec.asymmetric(0.4, dict(mapping)), NoiseSpec.clean()}) == 2
    mapping[3] = 7  # a later change of the dict changes nothing
    assert spec.transition(K)[3, 5] == 0.4
    rows = BANDED.copy()
    spec = NoiseSpec.from_transition(rows)
    rows[:] = 0
    assert spec == NoiseSpec.from_transition(BANDED.tolist())
    with pytest.raises(AttributeError):
        spec.rate = 0.5
    with pytest.raises(AttributeError):
        spec.new = 1


# What is refused -----------------------------------------------------------

NAN = float("nan")


@given(st.integers(2, 8), st.integers(0, 2**32), st.sampled_from(["f8", "f4", "f2"]))
@settings(deadline=None, max_examples=60)
def test_a_transposed_matrix_is_told_to_turn(k, seed, dtype):
    rng = np.random.default_rng(seed)
    turned = rng.dirichlet(np.full(k, 0.5), size=k).T.astype(dtype)
    assume(np.abs(turned.sum(1) - 1).max() > 0.1)
    with pytest.raises(ValueError, match=r"columns that sum to 1.* so use T\.T$"):
        NoiseSpec.from_transition(turned)


@pytest.mark.parametrize("wrong", [50 * BANDED, BANDED.astype("f2"), 0 * BANDED])
def test_no_remedy_makes_a_wrong_matrix_pass(wrong):
    for matrix in (wrong, wrong.T, BANDED.T + 0.1):
        with pytest.raises(ValueError, match="transition") as error:
            NoiseSpec.from_transition(matrix)
        assert "sum(" not in str(error.value) and "/" not in str(error.value)


@pytest.mark.parametrize("rate", [-0.1, 1.1, 40, NAN, math.inf, np.float32(-1)])
def test_rates_out_of_range(rate):
    for make in (
        NoiseSpec.symmetric,
        NoiseSpec.pair,
        lambda r: NoiseSpec.symmetric(r, inclusive=True),
        lambda r: NoiseSpec.asymmetric(r, {0: 1}),
        lambda r: symmetric_rate(r, K),
        lambda r: inclusive_rate(r, K),
    ):
        with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\] .*0\.4"):
            make(rate)


@pytest.mark.parametrize("rate", ["0.4", True, 0.4j, [0.4], torch.tensor(0.4)])
def test_rates_that_are_no_numbers(rate):
    with pytest.raises(TypeError, match="rate must be a number from 0 to 1, got"):
        NoiseSpec.symmetric(rate)


def test_rates_no_redraw_reaches():
    with pytest.raises(ValueError, match=r"at most 0\.9 for 10 classes, got 0\.95"):
        inclusive_rate(0.95, K)


@pytest.mark.parametrize(
    "matrix, message",
    [
        (
            [[0.9, 0.1], [0.2, 0.9]],
            r"rows must sum to 1, got 1.1 in row 1: T\[i, j\] is P\(given j",
        ),
        ([[NAN, 1.0], [0.2, 0.8]], "must be finite, got nan in row 0"),
        ([[1.0, NAN], [0.2, 0.8]], "must be finite, got nan in row 0"),
        ([[math.inf, 0], [0.2, 0.8]], "must be finite, got inf in row 0"),
        ([[0.2, 0.8], [NAN, NAN]], "row 1 is NaN, as of a class without samples"),
        ([[1.0, 0.0], [-0.2, 1.2]], "must not be negative, got -0.2 in row 1"),
        ([[0, 0], [0, 0]], "rows must sum to 1, got 0 in row 0"),
        ([[0.5, 0.50001], [0, 1]], r"rows must sum to 1, got 1\.00001 in row 0"),
        ([[0.5, 0.5]], r"must be K x K with K >= 2, got \(1, 2\)"),
        ([0.5, 0.5], r"must be K x K with K >= 2, got \(2,\)"),
        ([[1.0]], r"must be K x K with K >= 2, got \(1, 1\)"),
        ([], r"must be K x K with K >= 2, got \(0,\)"),
        (np.ones((2, 2, 2)) / 2, r"must be K x K with K >= 2, got \(2, 2, 2\)"),
        ([[1.0, 0.0], [1.0]], "must have rows of one length"),
    ],
)
def test_matrices_that_are_none(matrix, message):
    with pytest.raises(ValueError, match=message):
        NoiseSpec.from_transition(matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        "T",
        [["a", "b"], ["c", "d"]],
        np.eye(2, dtype=complex),
        np.eye(2, dtype=bool),
        [[1, None], [0, 1]],
        {0: 1},
    ],
)
def test_matrices_that_hold_no_numbers(matrix):
    with pytest.raises(TypeError, match="transition must hold numbers, got"):
        NoiseSpec.from_transition(matrix)


@pytest.mark.parametrize(
    "mapping, error, message",
    [
        ({3: 3}, ValueError, "must not send a class to itself"),
        ({}, ValueError, "must name sources, each just once"),
        ([[1, 2], [1, 3]], ValueError, "must name sources, each just once"),
        ([[1, 2, 3]], ValueError, "must hold pairs of classes"),
        ([1, 2], ValueError, "must hold pairs of classes"),
        ({-1: 2}, ValueError, "a class in mapping must be at least 0, got -1"),
        ({1: -2}, ValueError, "a class in mapping must be at least 0, got -2"),
        ({"cat": "dog"}, TypeError, "a class in mapping must be an integer, got 'cat'"),
        ({1.0: 2}, TypeError, "a class in mapping must be an integer, got 1.0"),
        ({True: 2}, TypeError, "a class in mapping must be an integer, got True"),
        ("cat", TypeError, "must be a dict like {3: 5}, got 'cat'"),
        (5, TypeError, "must be a dict like {3: 5}, got 5"),
    ],
)
def test_mappings_that_are_none(mapping, error, message):
    with pytest.raises(error, match=message):
        NoiseSpec.asymmetric(0.4, mapping)


def test_mappings_and_matrices_of_other_classes():
    with pytest.raises(ValueError, match=r"must stay within 0\.\.4, got"):
        NoiseSpec.asymmetric(0.4, CIFAR10_MAP).transition(5)
    with pytest.raises(ValueError, match=r"must stay within 0\.\.3, got"):
        NoiseSpec.asymmetric(0.4, {0: 4}).corrupt(np.array([0, 1]), 4, seed=0)
    with pytest.raises(ValueError, match="num_classes must be 10, as in T, got 3"):
        NoiseSpec.from_transition(BANDED).corrupt(np.array([0, 1, 2]), 3, seed=0)


@every_kind
@pytest.mark.parametrize(
    "k, error, message",
    [
        (1, ValueError, "num_classes must be at least 2, got 1"),
        (-3, ValueError, "num_classes must be at least 2, got -3"),
        (10.0, TypeError, "num_classes must be an integer, got 10.0"),
        (True, TypeError, "num_classes must be an integer, got True"),
        (None, TypeError, "num_classes must be an integer, got None"),
    ],
)
def test_class_counts_that_are_none(spec, k, error, message):
    with pytest.raises(error, match=message):
        spec.transition(k)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([0, 1], TypeError, "labels must be an array or a tensor, got list"),
        (3, TypeError, "labels must be an array or a tensor, got int"),
        (None, TypeError, "labels must be an array or a tensor, got NoneType"),
        (np.array([0.0, 1.0]), TypeError, "labels must be integers, got float64"),
        (np.array([True, False]), TypeError, "labels must be integers, got bool"),
        (np.array(["a"]), TypeError, "labels must be integers, got <U1"),
        (torch.zeros(3), TypeError, "labels must be integers, got torch.float32"),
        (torch.zeros(3).bfloat16(), TypeError, "must be integers, got torch.bfloat16"),
        (torch.zeros(3, requires_grad=True), TypeError, "integers, got torch.float32"),
        (torch.zeros(3).bool(), TypeError, "labels must be integers, got torch.bool"),
        (
            np.zeros((3, 1), int),
            ValueError,
            r"must have shape \(n,\), n >= 1, got \(3, 1\)",
        ),
        (np.ma.array([3], mask=[True]), TypeError, "not be masked: leave out"),
        (np.array(3), ValueError, r"must have shape \(n,\), n >= 1, got \(\)"),
        (np.zeros(0, int), ValueError, r"must have shape \(n,\), n >= 1, got \(0,\)"),
        (np.array([0, 10]), ValueError, r"lie in 0\.\.9, got 10 at position 1"),
        (np.array([0, 3, -1]), ValueError, r"lie in 0\.\.9, got -1 at position 2"),
        (np.array([2**63], np.uint64), ValueError, r"lie in 0\.\.9, got 9223372036854"),
    ],
)
def test_labels_that_are_none(labels, error, message):
    for call in (
        lambda: NoiseSpec.clean().corrupt(labels, K, seed=0),
        lambda: NoiseSpec.symmetric(0.4).corrupt(labels, K, seed=0),
        lambda: as_labels(labels, K),
        lambda: realized_transition(labels, TRUE, K),
        lambda: realized_transition(TRUE, labels, K),
    ):
        with pytest.raises(error, match=message):
            call()


def test_labels_of_different_samples():
    with pytest.raises(ValueError, match="equally long, got 2000 and 1999"):
        realized_rate(TRUE, TRUE[1:])
    with pytest.raises(ValueError, match="equally long, got 1999 and 2000"):
        realized_transition(TRUE[1:], TRUE, K)


@pytest.mark.parametrize(
    "seed, error, message",
    [
        (-1, ValueError, "seed must be at least 0, got -1"),
        (0.5, TypeError, "seed must be an integer, got 0.5"),
        (None, TypeError, "seed must be an integer, got None"),
        (True, TypeError, "seed must be an integer, got True"),
    ],
)
def test_seeds_that_are_none(seed, error, message):
    for spec in (NoiseSpec.symmetric(0.4), NoiseSpec.symmetric(0.4, draw="iid")):
        with pytest.raises(error, match=message):
            spec.corrupt(TRUE, K, seed)
    with pytest.raises(error, match=message):
        random_order(5, seed)


@pytest.mark.parametrize("n, error", [(0, ValueError), (2.5, TypeError)])
def test_orders_of_nothing(n, error):
    with pytest.raises(error, match="n must be"):
        random_order(n, seed=0)


@pytest.mark.parametrize(
    "plain, error, message",
    [
        ({}, ValueError, "kind must be one of clean, symmetric, .* got None"),
        (
            {"kind": "gaussian"},
            ValueError,
            "kind must be one of clean, .* got 'gaussian'",
        ),
        (
            {"kind": ["clean"]},
            ValueError,
            r"kind must be one of clean, .* got \['clean'\]",
        ),
        ({"kind": "symmetric", "rate": 0.4}, ValueError, "symmetric noise must have"),
        (
            {"kind": "clean", "rate": 0.4},
            ValueError,
            r"clean noise must have \(\), got",
        ),
        (
            {"kind": "pair", "rate": 0.4, "draw": "i.i.d."},
            ValueError,
            'draw must be "exact" or "iid", got \'i.i.d.\'',
        ),
        (
            {"kind": "pair", "rate": "0.4", "draw": "iid"},
            TypeError,
            "rate must be a num",
        ),
        ({"kind": "pair", "rte": 0.4, "draw": "iid"}, ValueError, "dict with keys of"),
        ([("kind", "clean")], ValueError, "noise must be a dict with keys of"),
        (None, ValueError, "noise must be a dict with keys of .* got None"),
    ],
)
def test_dicts_that_are_none(plain, error, message):
    with pytest.raises(error, match=message):
        NoiseSpec.from_dict(plain)


def test_choices_that_are_none():
    with pytest.raises(ValueError, match='draw must be "exact" or "iid", got 1'):
        NoiseSpec.pair(0.4, draw=1)
    with pytest.raises(TypeError, match="inclusive must be True or False, got 'no'"):
        NoiseSpec.symmetric(0.4, inclusive="no")
    with pytest.raises(ValueError, match=r"pair noise must have .*, got"):
        NoiseSpec("pair", rate=0.4, inclusive=True, draw="iid")
    with pytest.raises(TypeError):
        NoiseSpec.symmetric(0.4, True)  # inclusive is named, never guessed
