"""What a run measures: its parts, four accuracies by hand, and three of a curve."""

import json
import math
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from epsbook import data
from epsbook.noise import NoiseSpec, label_sha256, realized_rate
from epsbook.noise.transition import fixed_labels
from epsbook.train import measure
from epsbook.train.measure import (
    accuracies,
    corrupted,
    margins,
    predict,
    recall,
    split,
    standardize,
)
from epsbook.train.protocol import protocol_for


def made(n=60, m=20, k=4):
    "Images that say their class: pixels are the true label, times ten."
    train, test = torch.arange(n) % k, torch.arange(m) % k
    x, t = (y.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).byte() * 10 for y in (train, test))
    return data.Dataset("made", x.clone(), train, t.clone(), test, k)


def asked(**changes):
    return protocol_for("digits", "smoke", **changes)


class Reader(nn.Module):
    "Reads the class off the first pixel."

    modes = ()

    def forward(self, x):
        self.modes = (*self.modes, (self.training, len(x)))
        return nn.functional.one_hot((x[:, 0, 0, 0] // 10).long(), 4).float()


class Zero(nn.Module):
    "Says class 0 whatever it sees."

    def forward(self, x):
        return torch.tensor([1.0, 0, 0, 0]).expand(len(x), 4)


# --- parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, sizes",
    [
        ({}, (51, 9)),
        ({"validation": 0}, (60, 0)),
        ({"validation": 0.5}, (30, 30)),
        ({"samples": 40}, (34, 6)),
        ({"samples": 40, "validation": 0}, (40, 0)),
        ({"samples": 60}, (51, 9)),
        ({"samples": 1000}, (51, 9)),
    ],
)
def test_the_protocol_decides_how_large_the_parts_are(changes, sizes):
    d = made()
    s = split(d, d.train_labels, asked(**changes), seed=1)
    assert (len(s.y), len(s.y_held)) == sizes
    assert (len(s.x), len(s.x_held), len(s.kept)) == (*sizes, sizes[0])
    assert len(s.wrong) == sizes[0] and s.num_classes == 4
    assert torch.equal(s.x_test, d.test_images) and len(s.y_test) == 20


@pytest.mark.parametrize("samples", [None, 40])
def test_every_image_is_kept_or_held_out_with_the_label_it_was_given(samples):
    d = made()
    given = corrupted(d, NoiseSpec.symmetric(0.4), seed=3)
    s = split(d, given, asked(samples=samples), seed=3)
    n = samples or 60
    held = torch.tensor(sorted(set(range(n)) - set(s.kept.tolist())))
    assert torch.equal(s.kept, s.kept.unique()) and s.kept.max() < n
    assert torch.equal(s.y, given[s.kept]) and torch.equal(s.y_held, given[held])
    assert torch.equal(s.x, d.train_images[s.kept])
    assert torch.equal(s.x_held, d.train_images[held])
    assert torch.equal(s.wrong, (given != d.train_labels)[s.kept])


def test_images_stay_as_they_are_stored():
    d = made()
    s = split(d, d.train_labels, asked(), seed=1)
    assert s.x.dtype == s.x_held.dtype == s.x_test.dtype == torch.uint8


def test_a_held_out_part_that_is_empty_keeps_its_shape():
    d = made()
    s = split(d, d.train_labels, asked(validation=0), seed=1)
    assert s.x_held.shape == (0, 1, 2, 2) and s.y_held.dtype == torch.int64
    assert torch.equal(s.kept, torch.arange(60))
    assert measure.scores(Reader(), s)["validation"] is None


def test_a_seed_decides_the_split():
    d = made()
    first, again, other = (
        split(d, d.train_labels, asked(), seed=seed).kept for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# --- standardized images and given labels ------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_bytes_and_floats_are_standardized_to_the_same_numbers(kind):
    g = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (50, 3, 4, 4), generator=g).byte()
    images = stored if kind == torch.uint8 else stored.float() / 255
    train, test = standardize(images[:40], images[40:])
    values = stored.double() / 255
    mean = values[:40].mean((0, 2, 3), keepdim=True)
    spread = values[:40].std((0, 2, 3), keepdim=True)
    assert train.dtype == test.dtype == torch.float32
    for found, part in ((train, values[:40]), (test, values[40:])):
        wanted = ((part - mean) / spread).float()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_instance_noise_sees_standardized_images(kind):
    d, spec = data.prototypes(10), NoiseSpec.instance(0.4)
    if kind == torch.uint8:
        images = [(x * 255).byte() for x in (d.train_images, d.test_images)]
        d = data.Dataset(
            "bytes", images[0], d.train_labels, *images[1:], d.test_labels, 10
        )
    features = standardize(d.train_images, d.test_images)[0]
    wanted = spec.corrupt(d.train_labels, 10, 5, features=features)
    assert torch.equal(corrupted(d, spec, seed=5), wanted)
    plain = spec.corrupt(d.train_labels, 10, 5, features=d.train_images.float())
    assert not torch.equal(wanted, plain)


@pytest.mark.parametrize(
    "spec", [NoiseSpec.clean(), NoiseSpec.symmetric(0.4), NoiseSpec.pair(0.2)]
)
def test_noise_by_class_needs_the_labels_only(spec):
    d = made()
    wanted = spec.corrupt(d.train_labels, 4, 2)
    assert torch.equal(corrupted(d, spec, seed=2), wanted)
    assert realized_rate(d.train_labels, wanted) == pytest.approx(spec.rate or 0)


def test_fixed_labels_are_read_by_their_name(monkeypatch):
    d, read = made(), []
    given = (d.train_labels + 1) % 4

    def given_labels(name):
        read.append(name)
        return given

    about = {"sha256": label_sha256(given), "classes": 4, "wrong": len(given)}
    sums = {"cifar10n-worse": about}
    assert "cifar10n-worse" in fixed_labels()
    monkeypatch.setattr(data, "given_labels", given_labels)
    monkeypatch.setattr("epsbook.noise.kinds.fixed_labels", lambda: sums)
    found = corrupted(d, NoiseSpec.fixed("cifar10n-worse"), seed=1)
    assert read == ["cifar10n-worse"] and torch.equal(found, given)


def records():
    for file in sorted(files("epsbook.results").iterdir(), key=lambda x: x.name):
        if file.name.endswith((".json", ".jsonl")):
            text = file.read_text("utf-8")
            lines = text.splitlines() if file.name.endswith("l") else [text]
            found = map(json.loads, lines)
            yield from (r for r in found if isinstance(r, dict) and "label_sha256" in r)


def true_labels(name):
    "Labels of a data set, if they are here."
    folder = Path(os.environ.get("EPSBOOK_DATA", "none"))
    if name.startswith("cifar10"):  # and its features
        path = folder / "cifar10.npz"
        return np.load(path)["train_labels"] if path.exists() else None
    if name == "mnist" and not (folder / "MNIST").exists():
        return None
    return data.load(name).train_labels.numpy()


def test_records_name_the_labels_that_are_drawn_today():
    "One draw for each data set, noise and seed that was ever recorded."
    found = {}
    for r in records():
        key = r["dataset"], json.dumps(r["noise"], sort_keys=True), r["seed"]
        assert found.setdefault(key, r["label_sha256"]) == r["label_sha256"], key
    assert len(found) > 30
    for (name, noise, seed), wanted in found.items():
        spec, true = NoiseSpec.from_dict(json.loads(noise)), true_labels(name)
        if true is not None and spec.kind != "fixed":
            k = 100 if name.endswith("-100") else 10
            if spec.kind == "instance":  # which sees the photographs
                drawn = corrupted(data.load("cifar10"), spec, seed)
            else:
                drawn = spec.corrupt(true, k, seed)
            assert label_sha256(drawn) == wanted, (name, noise)


# --- accuracies ---------------------------------------------------------------------------


def half_wrong(**changes):
    "A split in which 24 of 60 labels are wrong."
    d = made()
    given = corrupted(d, NoiseSpec.symmetric(0.4), seed=1)
    return split(d, given, asked(**changes), seed=1)


def test_a_network_that_is_always_right_repeats_no_wrong_label():
    s = half_wrong(validation=0)
    assert int(s.wrong.sum()) == 24
    assert measure.scores(Reader(), s) == {
        "test": 1.0,
        "validation": None,
        "fit_clean": 1.0,
        "memorized": 0.0,
    }


def test_a_network_that_is_always_right_agrees_with_the_right_held_out_labels():
    s = half_wrong()
    true = s.x_held[:, 0, 0, 0].long() // 10
    right = int((true == s.y_held).sum())
    assert 0 < right < 9
    assert measure.scores(Reader(), s)["validation"] == round(right / 9, 6)


def test_a_network_that_says_0_is_right_as_often_as_0_is():
    s = half_wrong()
    count = {
        "test": [y == 0 for y in s.y_test.tolist()],
        "validation": [y == 0 for y in s.y_held.tolist()],
        "fit_clean": [y == 0 for y in s.y[~s.wrong].tolist()],
        "memorized": [y == 0 for y in s.y[s.wrong].tolist()],
    }
    wanted = {k: round(sum(hits) / len(hits), 6) for k, hits in count.items()}
    assert wanted["test"] == 0.25
    assert measure.scores(Zero(), s) == wanted


def test_without_wrong_labels_nothing_can_be_memorized():
    d = made()
    s = split(d, d.train_labels, asked(), seed=1)
    found = measure.scores(Zero(), s)
    assert found["memorized"] is None and found["fit_clean"] is not None


def test_with_wrong_labels_only_nothing_clean_can_be_fitted():
    d = made()
    s = split(d, (d.train_labels + 1) % 4, asked(), seed=1)
    assert measure.scores(Reader(), s)["fit_clean"] is None
    assert measure.scores(Reader(), s)["memorized"] == 0


def test_the_first_ten_thousand_training_images_are_measured():
    n = 10_004
    d = made(n)
    given = d.train_labels.clone()
    given[10_000:] = (given[10_000:] + 1) % 4  # all wrong ones lie behind
    s = split(d, given, asked(validation=0), seed=1)
    net = Reader()
    found = measure.scores(net, s)
    assert found["fit_clean"] == 1 and found["memorized"] is None
    assert sum(size for _, size in net.modes) == 10_000 + len(s.y_test)
    given[9_999] = (given[9_999] + 1) % 4
    s = split(d, given, asked(validation=0), seed=1)
    assert measure.scores(Reader(), s)["memorized"] == 0


def test_all_test_images_are_measured():
    d = made(8, 10_400)
    d.test_labels[10_000:] = (d.test_labels[10_000:] + 1) % 4
    s = split(d, d.train_labels, asked(validation=0), seed=1)
    wanted = round(10_000 / 10_400, 6)
    assert measure.scores(Reader(), s)["test"] == wanted


def test_recall_is_the_test_accuracy_of_each_class():
    s = half_wrong()
    assert recall(Reader(), s) == [1.0] * 4
    assert recall(Zero(), s) == [1.0, 0.0, 0.0, 0.0]
    s.y_test[s.y_test == 2] = 3  # five of the ten that are called 3 look like 2
    assert recall(Reader(), s) == [1.0, 1.0, None, 0.5]


def test_margins_are_quartiles_of_the_first_probability_less_the_second():
    class Even(nn.Module):
        "From an even answer to a certain one, in five equal steps of the margin."

        def forward(self, x):
            first = (1 + torch.arange(5.0) / 4) / 2
            p = torch.stack([first, 1 - first, 0 * first, 0 * first], 1)
            return p[torch.arange(len(x)) % 5].log()

    s = half_wrong()
    assert margins(Even(), s) == [0.25, 0.5, 0.75]
    zero = (math.e - 1) / (math.e + 3)  # logits 1, 0, 0, 0
    assert margins(Zero(), s) == pytest.approx([zero] * 3, abs=1e-6)
    net = Even().train()
    margins(net, s)
    assert net.training


@pytest.mark.parametrize(
    "hits, wanted",
    [([], None), ([True], 1.0), ([True, False, False], 0.333333), ([False], 0.0)],
)
def test_a_share_has_six_decimals_or_is_nothing(hits, wanted):
    assert measure.share(torch.tensor(hits, dtype=torch.bool)) == wanted


# --- predictions --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_predictions_are_made_in_evaluation_mode_and_the_mode_is_put_back(mode):
    net, x = Reader().train(mode), made().train_images
    found = predict(net, x, batch_size=16)
    assert torch.equal(found, torch.arange(60) % 4) and found.dtype == torch.int64
    assert net.modes == ((False, 16),) * 3 + ((False, 12),)
    assert net.training == mode


def test_a_part_that_was_frozen_stays_so_after_an_error_too():
    parts = nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(4, 3)
    net = nn.Sequential(*parts).train()
    net[0].eval()
    predict(net, torch.rand(7, 1, 2, 2))
    with pytest.raises(RuntimeError):
        predict(net, torch.rand(7, 1, 2, 3))
    assert [m.training for m in net.modules()] == [True, False, True, True, True]


def test_predictions_leave_no_gradient_and_no_trace_in_the_network():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = predict(net, torch.rand(7, 1, 2, 2))
    assert not found.requires_grad and found.shape == (7,)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_of_no_images_there_are_no_predictions():
    net = Reader().train()
    found = predict(net, made().train_images[:0])
    assert found.shape == (0,) and found.dtype == torch.int64
    assert not net.modes and net.training


# --- three accuracies of a curve ------------------------------------------------------------


@pytest.mark.parametrize(
    "test, validation, wanted",
    [
        ([0.5], [0.1], (0.5, 0.5, 0.5)),
        ([0.7, 0.9, 0.6], [0.5, 0.4, 0.3], (0.6, 0.9, 0.7)),
        ([0.7, 0.9, 0.6], [0.4, 0.5, 0.5], (0.6, 0.9, 0.9)),
        ([0.7, 0.9, 0.6], [None] * 3, (0.6, 0.9, None)),
        ([0.2], [None], (0.2, 0.2, None)),
    ],
)
def test_accuracies_are_last_best_and_validated(test, validation, wanted):
    found = accuracies({"test": test, "validation": validation})
    assert found == dict(zip(("last", "best", "validated"), wanted, strict=True))


def test_a_tie_of_held_out_labels_goes_to_the_earlier_epoch():
    rng = np.random.default_rng(0)
    for _ in range(50):
        validation = rng.integers(0, 3, 8).tolist()
        test = list(range(8))
        chosen = validation.index(max(validation))
        curves = {"test": test, "validation": validation}
        assert accuracies(curves)["validated"] == chosen
