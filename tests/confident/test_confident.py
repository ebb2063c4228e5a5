"""Confident learning: who predicts whom, what is thrown away, what is refused."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from epsbook import confident, data, losses, noise, train
from epsbook.train.measure import corrupted

SPEC = noise.NoiseSpec.symmetric(0.4)


def small(**changes):
    "Sixty digits without augmentation: a network learns them by heart."
    fields = {"epochs": 2, "batch_size": 16, "samples": 60}
    return train.protocol_for("digits", "smoke", **(fields | changes))


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    return data.load("digits")


# ---- folds -----------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_are_even_in_all_and_in_each_class(folds):
    given = np.random.default_rng(0).integers(0, 7, 1000)
    fold = confident.fold_of(given, folds, seed=1)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.sum() == 1000 and np.ptp(sizes) <= 1
    for k in range(7):
        assert np.ptp(np.bincount(fold[given == k], minlength=folds)) <= 1


def test_folds_depend_on_the_seed_and_not_on_which_labels_are_wrong():
    true = np.repeat(np.arange(10), 500)
    given = SPEC.corrupt(true, 10, seed=1)
    one, two = (confident.fold_of(given, 5, seed) for seed in (1, 2))
    assert (one == confident.fold_of(torch.from_numpy(given), 5, 1)).all()
    assert (one != two).mean() > 0.7
    shares = [(true != given)[one == k].mean() for k in range(5)]
    assert np.ptp(shares) < 0.06  # 5 standard deviations are 0.08


@pytest.mark.parametrize(
    ("given", "folds", "error", "says"),
    [
        (np.zeros(9, int), 1, ValueError, "folds must be at least 2"),
        (np.zeros(9, int), 10, ValueError, "10 folds need"),
        (np.zeros(9, int), 2.0, TypeError, "folds must be an integer"),
        (np.array([0, 0, 3]), 2, ValueError, "class 3 is given once"),
        (np.zeros(9), 2, TypeError, "labels must be integers"),
    ],
)
def test_folds_that_cannot_be_are_refused(given, folds, error, says):
    with pytest.raises(error, match=says):
        confident.fold_of(given, folds, 0)


# ---- cross-validation ----------------------------------------------------------


def test_each_image_is_predicted_once_by_a_network_that_has_not_seen_it(
    digits, monkeypatch
):
    seen, fit = [], train.fit

    def watched(part, *args, **kwargs):
        seen.append((part, kwargs["checkpoint"]))
        return fit(part, *args, **kwargs)

    monkeypatch.setattr(confident.train, "fit", watched)
    p = small()
    found = confident.out_of_sample(digits, SPEC, losses.CELoss(), p, folds=3)
    assert found.shape == (60, 10) and found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones(60).double())

    def images(x):
        return Counter(row.numpy().tobytes() for row in x)

    whole = images(digits.train_images[:60])
    assert sum((images(part.test_images) for part, _ in seen), Counter()) == whole
    for part, _ in seen:
        assert images(part.train_images) + images(part.test_images) == whole


def test_a_network_that_memorizes_does_not_see_its_own_label(digits):
    "With random labels, out-of-sample answers must know nothing of them."
    spec = noise.NoiseSpec.symmetric(1.0, inclusive=True)
    p = small(epochs=60, samples=200)
    asked = digits, spec, losses.CELoss(), p
    given = corrupted(digits, spec, 1)[:200]
    found = confident.out_of_sample(*asked, folds=4, seed=1)
    own = (found.argmax(1) == given).double().mean().item()
    assert own < 0.25  # chance is 0.1, and 7 standard deviations are 0.15
    whole = (*asked[:3], small(epochs=60, samples=200, validation=0))
    assert train.fit(*whole, seed=1)["curves"]["memorized"][-1] > 0.9


def test_the_seed_decides_all_and_a_checkpoint_goes_on(digits, tmp_path, monkeypatch):
    asked = digits, SPEC, losses.CELoss(), small()
    options = {"folds": 2, "seed": 1}
    first = confident.out_of_sample(*asked, **options)
    assert torch.equal(
        confident.out_of_sample(*asked, **options, folder=tmp_path), first
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold1.pt", "fold2.pt"]

    def refuse(*_):
        raise AssertionError("an epoch was trained again")

    monkeypatch.setattr(train, "_epoch", refuse)
    assert torch.equal(
        confident.out_of_sample(*asked, **options, folder=tmp_path), first
    )
    monkeypatch.undo()
    other = confident.out_of_sample(*asked, folds=2, seed=2)
    assert not torch.equal(other, first)


def test_a_fold_that_cannot_be_trained_is_refused_before_the_first(digits, monkeypatch):
    monkeypatch.setattr(confident.train, "fit", None)
    p = small(samples=66, batch_size=32)
    with pytest.raises(ValueError, match="last batch would hold one"):
        confident.out_of_sample(digits, SPEC, losses.CELoss(), p, folds=66)


# ---- pruning ----------------------------------------------------------------


def test_a_pruned_data_set_has_the_given_labels_of_what_is_left(digits):
    given = corrupted(digits, SPEC, 1)
    wrong = given != digits.train_labels
    kinds = wrong, wrong.numpy(), torch.where(wrong)[0], np.flatnonzero(wrong)
    for issues in kinds:
        clean = confident.prune(digits, given, issues)
        assert torch.equal(clean.train_labels, digits.train_labels[~wrong])
        assert torch.equal(clean.train_images, digits.train_images[~wrong])
        assert torch.equal(clean.test_images, digits.test_images)
        assert clean.name == "digits-pruned"
    none = confident.prune(digits, given, torch.zeros(0, dtype=torch.int64))
    assert torch.equal(none.train_labels, given)
    few = confident.prune(digits, given[:60], [3, 5])
    assert len(few.train_labels) == 58
    p = small(batch_size=15)
    r = train.fit(few, noise.NoiseSpec.clean(), losses.CELoss(), p, 0)
    assert r["dataset"] == "digits-pruned" and r["realized_rate"] == 0


@pytest.mark.parametrize(
    ("issues", "error", "says"),
    [
        (np.zeros(59, bool), ValueError, r"issues must be \(60,\)"),
        (np.array([60]), ValueError, "issues must lie in 0..59, got 60 at position 0"),
        (np.array([0.5]), TypeError, "issues must be integers"),
        (np.arange(60) % 2, ValueError, r"mask of 0 and 1, pass issues.astype\(bool"),
        (torch.zeros(60).int(), ValueError, "issues repeats position 0"),
        ([7, 3, 7], ValueError, "issues repeats position 7"),
        (np.ones(60, bool), ValueError, "class 0 would lose all its examples"),
    ],
)
def test_pruning_refuses_what_it_cannot_do(digits, issues, error, says):
    with pytest.raises(error, match=says):
        confident.prune(digits, digits.train_labels[:60], issues)


def test_pruning_wants_labels_of_training_images(digits):
    given = torch.zeros(2000, dtype=torch.int64)
    with pytest.raises(ValueError, match="2000 for 1297"):
        confident.prune(digits, given, [0])


# ---- the extra ---------------------------------------------------------------


def test_importing_it_imports_nothing_large():
    code = "import sys, epsbook.confident; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("cleanlab", "sklearn", "pandas", "skorch", "crowdkit"):
        assert f"'{name}'" not in done.stdout
