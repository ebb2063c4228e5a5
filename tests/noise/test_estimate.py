"""How labels went wrong, from predictions: anchors, the confident joint, a rate."""

import numpy as np
import pytest
import torch

from epsbook.noise import (
    NoiseSpec,
    anchor_points,
    anchor_transition,
    confident_joint,
    confident_transition,
    estimate_rate,
    realized_transition,
)

K = 5
ESTIMATES = [
    anchor_transition,
    lambda p: confident_transition(np.arange(len(p)) % K, p),
]


def predictions(n, k=K, seed=0, spread=1.0):
    "Random distributions, and labels of which each class has some."
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, spread), size=n)
    return rng.permutation(np.arange(n) % k), p


def by_loop(labels, p):
    "The confident joint from its definition, sample by sample."
    k = p.shape[1]
    limits = [p[labels == j, j].mean() for j in range(k)]
    counts = np.zeros((k, k))
    for label, row in zip(labels, p, strict=True):
        passed = [j for j in range(k) if row[j] >= limits[j] - 1e-6]
        if len(passed) == 1:
            counts[passed[0], label] += 1
        elif passed:
            counts[row.argmax(), label] += 1
    np.fill_diagonal(counts, np.maximum(counts.diagonal(), 1))
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_the_joint_is_its_definition(seed, spread):
    labels, p = predictions(300, seed=seed, spread=spread)
    counts = by_loop(labels, p)
    found = confident_joint(labels, p, calibrate=False)
    np.testing.assert_array_equal(found, counts)
    scaled = counts / counts.sum(0) * np.bincount(labels)
    joint = confident_joint(labels, p)
    np.testing.assert_allclose(joint, scaled, rtol=1e-12)
    np.testing.assert_allclose(joint.sum(), len(labels), rtol=1e-12)
    T = confident_transition(labels, p)
    np.testing.assert_allclose(T, scaled / scaled.sum(1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "spread"), [(2, 0.3), (5, 0.1), (5, 2.0), (20, 0.5)])
def test_the_joint_is_cleanlabs(seed, k, spread):
    count = pytest.importorskip("cleanlab.count", reason="compares with cleanlab")
    labels, p = predictions(1000, k, seed, spread)
    raw = count.compute_confident_joint(labels, p, calibrate=False)
    np.testing.assert_array_equal(confident_joint(labels, p, calibrate=False), raw.T)
    _, noise, _ = count.estimate_latent(raw, labels)
    ours = confident_joint(labels, p, calibrate=False)
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), noise.T, atol=1e-4)
    # cleanlab rounds the scaled counts, up to one sample an entry.
    scaled = count.compute_confident_joint(labels, p)
    assert np.abs(confident_joint(labels, p) - scaled.T).max() <= 1
    _, noise, _ = count.estimate_latent(scaled, labels)
    limit = k / confident_joint(labels, p).sum(1).min()
    assert np.abs(confident_transition(labels, p) - noise.T).max() <= limit


@pytest.mark.parametrize("spec", [NoiseSpec.symmetric(0.4), NoiseSpec.pair(0.4)])
def test_exact_predictions_give_the_matrix(spec):
    T, true = spec.transition(K), np.arange(5000) % K
    given = spec.corrupt(true, K, seed=1)
    drawn = realized_transition(true, given, K)
    np.testing.assert_allclose(anchor_transition(T[true]), T, atol=1e-12)
    np.testing.assert_allclose(confident_transition(given, T[true]), drawn, atol=1e-12)


def test_the_anchor_is_the_sample_of_its_rank():
    _, p = predictions(101, seed=3)
    for quantile, rank in [(1, 0), (0.97, 3), (0.5, 50), (1e-9, 100)]:
        found = anchor_points(p, quantile=quantile)
        assert found.dtype == np.int64 and found.shape == (K,)
        wanted = np.sort(p, axis=0)[::-1][rank]
        np.testing.assert_array_equal(p[found, np.arange(K)], wanted)
        rows = p[found] / p[found].sum(1, keepdims=True)
        T = anchor_transition(p, quantile=quantile)
        np.testing.assert_allclose(T, rows, rtol=1e-12)
    assert anchor_points(np.full((4, 2), 0.5)).tolist() == [0, 0]


def test_a_quantile_leaves_out_outliers():
    p = np.full((1000, 2), [0.7, 0.3])
    p[::2] = p[::2, ::-1]
    p[0], p[1] = [0.0, 1.0], [1.0, 0.0]  # predictions gone wrong
    np.testing.assert_allclose(anchor_transition(p), np.eye(2))
    np.testing.assert_allclose(
        anchor_transition(p, quantile=0.97), [[0.7, 0.3], [0.3, 0.7]]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_tensors_count_as_arrays(dtype):
    labels, p = predictions(500, seed=4)
    tensor = torch.tensor(p, dtype=dtype, requires_grad=True)
    wide = tensor.detach().double().numpy()
    given = torch.tensor(labels, dtype=torch.uint8)
    joint = confident_joint(given, tensor)
    np.testing.assert_array_equal(joint, confident_joint(labels, wide))
    np.testing.assert_array_equal(anchor_points(tensor), anchor_points(wide))
    assert estimate_rate(given, tensor) == estimate_rate(labels, wide)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("accuracy", [1.0, 0.9])
def test_the_error_bar_covers(k, rate, accuracy):
    rng, inside, seen = np.random.default_rng(0), 0, []
    for _ in range(2000):
        true = rng.integers(k, size=400)
        redrawn = rng.random(400) < rate * k / (k - 1)
        given = np.where(redrawn, rng.integers(k, size=400), true)
        wrong = rng.random(400) >= accuracy
        guess = np.where(wrong, (true + rng.integers(1, k, size=400)) % k, true)
        found = estimate_rate(given, np.eye(k)[guess], keep=1, accuracy=accuracy)
        inside += abs(found.rate - rate) <= 1.96 * found.error
        seen.append(found.rate)
    assert abs(np.mean(seen) - rate) < 5 * found.error / np.sqrt(2000)
    assert 0.93 < inside / 2000 < 0.99
    assert found.count == 400


def test_the_surest_are_kept():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    given = np.array([1, 0, 1, 1])
    assert estimate_rate(given, p, keep=0.25)[::2] == (1.0, 1)
    assert estimate_rate(given, p, keep=0.5)[::2] == (0.5, 2)
    assert estimate_rate(given, p, keep=1e-9).count == 1


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: 3 * p, ValueError, r"sum 3 in row 0: use logits.softmax\(1\)"),
        (lambda p: np.log(p), ValueError, r"got -\S+ in row 0: use logits.softmax"),
        (lambda p: p * np.nan, ValueError, "must be finite, got nan in row 0"),
        (lambda p: p[0], ValueError, r"must have shape \(n, K\).*\(5,\)"),
        (lambda p: p[:, :1], ValueError, "K >= 2"),
        (lambda p: p[:0], ValueError, "n >= 1"),
        (lambda p: (p > 0).astype(int), TypeError, "must be floating point"),
    ],
)
def test_no_probabilities_are_refused(estimate, change, error, message):
    _, p = predictions(50)
    with pytest.raises(error, match=message):
        estimate(change(p))


def test_labels_that_do_not_fit_are_refused():
    labels, p = predictions(50)
    for estimate in (confident_joint, confident_transition, estimate_rate):
        with pytest.raises(ValueError, match="equally long, got 49 and 50"):
            estimate(labels[1:], p)
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4"):
            estimate(labels + 1, p)
        with pytest.raises(TypeError, match="labels must be integers"):
            estimate(labels.astype(float), p)
    with pytest.raises(ValueError, match="class 3 is never given"):
        confident_joint(np.where(labels == 3, 0, labels), p)


def test_parameters_out_of_range_are_refused():
    labels, p = predictions(50)
    for quantile in (0, 1.1, -0.5, float("nan")):
        with pytest.raises(ValueError, match=r"quantile must lie in \(0, 1\]"):
            anchor_points(p, quantile=quantile)
    with pytest.raises(TypeError, match="keep must be a number"):
        estimate_rate(labels, p, keep="half")
    with pytest.raises(ValueError, match="keep must lie in"):
        estimate_rate(labels, p, keep=0)
    with pytest.raises(ValueError, match="accuracy must be above 1/5"):
        estimate_rate(labels, p, accuracy=0.2)
    never = np.eye(K)[[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="class 4 has probability 0 in every row"):
        anchor_points(never)
