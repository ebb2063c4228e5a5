"""Instance-dependent and fixed labels: rates, directions, draws, checksums."""

import json
import math
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from epsbook.noise import (
    CIFAR10_MAP,
    CIFAR100_BLOCKS,
    CIFAR100_SUPERCLASSES,
    MNIST_MAP,
    NoiseSpec,
    in_place_transition,
)
from epsbook.noise.instance import (
    draw_rows,
    flip_rates,
    instance_rows,
    normals,
    uniforms,
)
from epsbook.noise.labels import label_sha256, realized_rate, realized_transition
from epsbook.noise.transition import fixed_labels

K = 5
RNG = np.random.default_rng(0)
TRUE = RNG.integers(K, size=6000)
X = RNG.standard_normal((6000, 12))
FROZEN = {  # seed 7; never to change
    ("exact", 0.1): "b9e69118ef9de525bf1b5f156bdb17a2439cf2db04488a7c97fa264edf5d2a04",
    ("iid", 0.1): "4f3726e3633e3b77edf34d37cd9f30780f760eb3164c11a55534d71529271bd1",
    ("exact", 0): "dcc4f0b9a6e9b815ca20f5e6b266969ed84fde0ec9c3f20e81e66c1fb345d49a",
}


def spec_of(draw, spread):
    return NoiseSpec.instance(0.4, spread=spread, draw=draw)


def test_numbers_are_normal_and_repeat():
    z = normals(3, 20_000, use="a")
    assert stats.kstest(z, "norm").pvalue > 0.001
    np.testing.assert_allclose(normals(3, 100, use="a"), z[:100], rtol=0, atol=1e-12)
    assert np.abs(normals(3, 100, use="b") - z[:100]).min() > 1e-12
    u = uniforms(0, 100_000, use="a")
    assert 0 < u.min() and u.max() < 1


@pytest.mark.parametrize("rate, spread", [(0.1, 0.1), (0.4, 0.1), (0.5, 0.6)])
def test_rates_are_truncated_normal(rate, spread):
    drawn = flip_rates(rate, spread, 20_000, seed=0)
    ends = -rate / spread, (1 - rate) / spread
    law = stats.truncnorm(*ends, loc=rate, scale=spread)
    assert stats.kstest(drawn, law.cdf).pvalue > 0.001
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert (flip_rates(rate, 0, 5, seed=0) == rate).all()


def test_rows_follow_the_definition():
    rows = instance_rows(X[:50], TRUE[:50], K, rate=0.3, spread=0.1, seed=4)
    rates = flip_rates(0.3, 0.1, 50, seed=4)
    for x, i, q, row in zip(X[:50], TRUE[:50], rates, rows, strict=True):
        w = normals(4, 12 * K, use=f"direction {i}").reshape(12, K)
        size = np.exp(x @ w)
        size[i] = 0
        wanted = q * size / size.sum()
        wanted[i] = 1 - q
        np.testing.assert_allclose(row, wanted, atol=1e-12)


def test_a_row_depends_on_its_sample_alone():
    whole = instance_rows(X, TRUE, K, rate=0.3, spread=0.1, seed=4)
    part = instance_rows(X[:100], TRUE[:100], K, rate=0.3, spread=0.1, seed=4)
    np.testing.assert_allclose(part, whole[:100], atol=1e-12)


def test_exact_draws_fix_the_number_of_wrong_labels():
    for seed in range(5):
        given = spec_of("exact", 0).corrupt(TRUE, K, seed, features=X)
        assert realized_rate(TRUE, given) == 0.4
        rows = instance_rows(X, TRUE, K, 0.4, 0.1, seed)
        expected = 6000 - rows[np.arange(6000), TRUE].sum()
        given = spec_of("exact", 0.1).corrupt(TRUE, K, seed, features=X)
        assert abs((given != TRUE).sum() - expected) < 1


@pytest.mark.parametrize("draw", ["exact", "iid"])
def test_draws_follow_the_rows(draw):
    rows = instance_rows(X[:40], TRUE[:40], K, 0.4, 0.1, seed=0)
    counts = np.zeros((40, K))
    for seed in range(3000):
        counts[np.arange(40), draw_rows(rows, TRUE[:40], draw, seed)] += 1
    live = rows * 3000 > 5
    z = (counts - 3000 * rows)[live] / np.sqrt(3000 * rows * (1 - rows))[live]
    assert abs(z).max() < 4.5, "each label as often as its probability says"


def test_similar_samples_make_similar_mistakes():
    twins = np.repeat(X[:500], 2, axis=0)
    true = np.repeat(TRUE[:500], 2)
    given = spec_of("iid", 0.1).corrupt(true, K, 0, features=twins).reshape(-1, 2)
    both = (given != true.reshape(-1, 2)).all(1)
    agree = (given[both, 0] == given[both, 1]).mean()
    assert agree > 0.6, "class-conditional noise agrees in about one of four"


def test_tensors_images_and_arrays_agree():
    spec = spec_of("exact", 0.1)
    array = spec.corrupt(TRUE, K, 1, features=X.astype(np.float32))
    images = torch.from_numpy(X).float().reshape(6000, 3, 2, 2)
    tensor = spec.corrupt(torch.from_numpy(TRUE), K, 1, features=images)
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize("draw, spread", FROZEN)
def test_frozen_labels(draw, spread):
    given = spec_of(draw, spread).corrupt(
        np.arange(3000) % 7,
        7,
        seed=7,
        features=np.sin(np.arange(30_000.0)).reshape(3000, 10),
    )
    assert label_sha256(given) == FROZEN[draw, spread]


@pytest.mark.parametrize(
    "features, error, message",
    [
        (None, TypeError, r"instance noise needs features="),
        (X[:5], ValueError, r"must have shape \(6000, \.\.\.\), got \(5, 12\)"),
        (X[:, 0], ValueError, r"must have shape \(6000, \.\.\.\), got \(6000,\)"),
        (np.ones((6000, 2), int), TypeError, "features must be floating point"),
        (np.full((6000, 2), np.nan), ValueError, "features must be finite"),
    ],
)
def test_features_that_are_none(features, error, message):
    with pytest.raises(error, match=message):
        NoiseSpec.instance(0.4).corrupt(TRUE, K, seed=0, features=features)


def test_what_belongs_to_another_kind_is_refused():
    with pytest.raises(TypeError, match="symmetric noise takes no features="):
        NoiseSpec.symmetric(0.4).corrupt(TRUE, K, seed=0, features=X)
    with pytest.raises(TypeError, match="fixed noise needs given="):
        NoiseSpec.fixed("cifar10n-worse").corrupt(TRUE, 10, seed=0)
    with pytest.raises(ValueError, match="instance noise has no one matrix: measure"):
        NoiseSpec.instance(0.4).transition(10)
    with pytest.raises(ValueError, match=r"spread must be 0 or in \[0.001, 1\]"):
        NoiseSpec.instance(0.4, spread=-1)


# Labels that were given once ---------------------------------------------------


def test_other_labels_are_refused():
    spec = NoiseSpec.fixed("cifar10n-worse")
    with pytest.raises(ValueError, match=r"is not 'cifar10n-worse': its SHA-256 is"):
        spec.corrupt(TRUE, 10, seed=0, given=TRUE)
    with pytest.raises(ValueError, match="name must be one of cifar10n-aggre, "):
        NoiseSpec.fixed("cifar10n")


def test_labels_with_the_checksum_are_returned(monkeypatch):
    true, wrong = np.roll(TRUE, 7), int((np.roll(TRUE, 7) != TRUE).sum())
    known = {"small": {"sha256": label_sha256(TRUE), "classes": K, "wrong": wrong}}
    monkeypatch.setattr("epsbook.noise.kinds.fixed_labels", lambda: known)
    monkeypatch.setattr("epsbook.noise.transition.fixed_labels", lambda: known)
    given = NoiseSpec.fixed("small").corrupt(true, K, seed=0, given=TRUE)
    assert (given == TRUE).all() and wrong > 0
    for other in (TRUE, np.sort(true), np.roll(true, 1)):
        with pytest.raises(ValueError, match=r"true must be in torchvision's order"):
            NoiseSpec.fixed("small").corrupt(other, K, seed=0, given=TRUE)
    with pytest.raises(ValueError, match=rf"num_classes must be {K}, got {K + 1}"):
        NoiseSpec.fixed("small").corrupt(true, K + 1, seed=0, given=TRUE)
    with pytest.raises(ValueError, match="equally long, got 5 and 6000"):
        NoiseSpec.fixed("small").corrupt(TRUE[:5], K, seed=0, given=TRUE)


@pytest.mark.skipif(
    not (Path(os.environ.get("EPSBOOK_DATA", "none")) / "cifar10n.npz").exists(),
    reason="EPSBOOK_DATA holds no cifar10n.npz",
)
def test_the_released_human_labels_are_known():
    archive = np.load(Path(os.environ["EPSBOOK_DATA"]) / "cifar10n.npz")
    clean = archive["clean_label"].astype(np.int64)
    file = files("epsbook.results").joinpath("labels-cifar10n.json")
    recorded = json.loads(file.read_text("utf-8"))
    for short in ("aggre", "worse", "random1", "random2", "random3"):
        name = f"cifar10n-{short}"
        key = next(k for k in archive.files if k.replace("_label", "") == short)
        given = NoiseSpec.fixed(name).corrupt(clean, 10, 0, given=archive[key])
        assert (given != clean).sum() == fixed_labels()[name]["wrong"]
        with pytest.raises(ValueError, match=rf"'{name}' are wrong, but [89]\d\."):
            NoiseSpec.fixed(name).corrupt(np.sort(clean), 10, 0, given=given)
        counts = realized_transition(clean, given, 10) * 5000
        np.testing.assert_allclose(counts, recorded["counts"][name], atol=1e-6)
    three = sum(archive[f"random_label{a}"] != clean for a in (1, 2, 3))
    found = [np.bincount(three[clean == i], minlength=4).tolist() for i in range(10)]
    assert found == recorded["wrong_of_three"]


# Maps --------------------------------------------------------------------------


def test_superclasses_are_a_partition():
    for groups in (CIFAR100_SUPERCLASSES, CIFAR100_BLOCKS):
        assert sorted(sum(groups, ())) == list(range(100))
        assert {len(g) for g in groups} == {5} and len(groups) == 20
    fish = (1, 32, 67, 73, 91)  # aquarium fish, flatfish, ray, shark, trout
    assert CIFAR100_SUPERCLASSES[1] == fish
    T = NoiseSpec.superclass(0.3, CIFAR100_SUPERCLASSES).transition(100)
    assert T[91, 1] == 0.3 and T[1, 32] == 0.3 and math.isclose(T[67, 67], 0.7)


@pytest.mark.parametrize(
    "groups, error, message",
    [
        ([[1, 2], [2, 3]], ValueError, "must not share a class"),
        ([{1, 2}], TypeError, "groups must be tuples of classes"),
        ([0, 1], TypeError, "groups must be tuples of classes, like"),
        ([[1]], ValueError, "must hold two classes or more"),
        ([], ValueError, "must hold two classes or more"),
        ("ab", TypeError, "groups must be tuples of classes"),
        ([["a", "b"]], TypeError, "a class in groups must be an integer"),
    ],
)
def test_groups_that_are_none(groups, error, message):
    with pytest.raises(error, match=message):
        NoiseSpec.superclass(0.4, groups)


def in_place(labels, rate, mapping, rng):
    for source, target in mapping.items():
        found = np.flatnonzero(labels == source)
        labels[found[rng.random(len(found)) < rate]] = target
    return labels


@pytest.mark.parametrize("mapping", [CIFAR10_MAP, MNIST_MAP])
def test_flips_in_place_draw_from_the_product(mapping):
    true = np.arange(200_000) % 10
    given = in_place(true.copy(), 0.4, mapping, np.random.default_rng(0))
    T = in_place_transition(0.4, mapping, 10)
    np.testing.assert_allclose(realized_transition(true, given, 10), T, atol=0.015)
    wrong = NoiseSpec.asymmetric(0.4, mapping).transition(10)
    assert abs(T - wrong).max() > 0.1


def test_mappings_without_an_order_are_refused():
    for mapping in ([(3, 5)], (), None, {}):
        with pytest.raises(TypeError, match="mapping must be a dict in order, got"):
            in_place_transition(0.4, mapping, 10)


def test_features_too_large_for_a_score_are_refused():
    with pytest.raises(ValueError, match="too large: standardize them"):
        NoiseSpec.instance(0.4).corrupt(
            TRUE, K, seed=0, features=X / abs(X).max() * 1e308
        )


def test_cats_come_back():
    T = in_place_transition(0.4, CIFAR10_MAP, 10)
    np.testing.assert_allclose(T[3, [3, 5]], [0.76, 0.24])
    np.testing.assert_allclose(T[5, [3, 5]], [0.4, 0.6])
    assert math.isclose(1 - T.trace() / 10, 0.184)
