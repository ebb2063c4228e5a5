"""Data sets: shapes, frozen splits, held-out parts, and what is refused."""

import dataclasses
import hashlib
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsbook.data import (
    DATASETS,
    Dataset,
    cifar10h,
    digits,
    files,
    get,
    given_labels,
    holdout,
    listing,
    load,
    verify,
)
from epsbook.data.given import label_file, read_labels
from epsbook.data.images import array_sha256, image_files
from epsbook.noise import NoiseSpec, label_sha256
from epsbook.noise.transition import fixed_labels

FROZEN = {  # the digits, never to change
    "train_images": "c0877faf2fcebc1cc8b95bd24dbb52bd164fe1a619f61789f4fa7d6858e0ab14",
    "train_labels": "299df705537f68f6780d4b1549d9bddc65059b3cec6c4e9544fef653a983b020",
    "test_images": "26aba168a8d2562d172869f70e627b1841dcf4c87ff851646aa9c3ac70f93ed6",
    "test_labels": "fdd099da7a4e85001ef9c8b23f2c66d26fea61a0740321fbd803ebbd3a4c5beb",
    "symmetric .4": "1114640eff88e95fd7c72554506a708feacfeabe0837aa9361dbb9038ff4711b",
    "held out": "40fe402abe03d543d6c80bb3080b93f5357bf1be45d1491a4f4d2c34326a3061",
}


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn")
    return load("digits")


def image_sha256(images):
    return hashlib.sha256(images.numpy().astype("<f4").tobytes()).hexdigest()


def small(**change):
    parts = dict(
        name="small",
        train_images=torch.zeros(4, 1, 2, 2),
        train_labels=torch.tensor([0, 1, 2, 0]),
        test_images=torch.zeros(2, 1, 2, 2),
        test_labels=torch.tensor([2, 1]),
        num_classes=3,
    )
    return Dataset(**(parts | change))


# Digits --------------------------------------------------------------------


def test_digits_have_their_shapes(data):
    assert data.name == "digits" and data.num_classes == 10
    assert data.train_images.shape == (1297, 1, 8, 8)
    assert data.test_images.shape == (500, 1, 8, 8)
    for images in (data.train_images, data.test_images):
        assert images.dtype == torch.float32 and images.is_contiguous()
        assert images.min() == 0 and images.max() == 1
        assert ((images * 16) % 1 == 0).all()
    for labels in (data.train_labels, data.test_labels):
        assert labels.dtype == torch.int64 and labels.ndim == 1


def test_digits_are_scikit_learns(data):
    from sklearn.datasets import load_digits

    images = torch.cat([data.train_images, data.test_images]).flatten(1)
    labels = torch.cat([data.train_labels, data.test_labels])
    rows = torch.cat([images * 16, labels[:, None]], dim=1).long()
    source = np.c_[load_digits().data, load_digits().target]
    assert sorted(rows.tolist()) == sorted(source.astype(int).tolist())


def test_digits_are_upright(data):
    one = data.train_images[data.train_labels == 1].mean(0)[0]
    rows, columns = one.sum(1), one.sum(0)  # a stroke from top to bottom
    assert rows.std() < columns.std() / 2


def test_class_counts_are_as_documented(data):
    for labels in (data.train_labels, data.test_labels):
        listed = ", ".join(map(str, labels.bincount().tolist()))
        assert listed in " ".join(digits.__doc__.split())


def test_digits_are_frozen(data):
    for part in ("train", "test"):
        images = getattr(data, f"{part}_images")
        labels = getattr(data, f"{part}_labels")
        assert image_sha256(images) == FROZEN[f"{part}_images"]
        assert label_sha256(labels) == FROZEN[f"{part}_labels"]


def test_noisy_digits_are_frozen(data):
    noisy = NoiseSpec.symmetric(0.4).corrupt(data.train_labels, 10, seed=0)
    assert label_sha256(noisy) == FROZEN["symmetric .4"]
    _, held = holdout(noisy, fraction=0.1, seed=0)
    assert label_sha256(held) == FROZEN["held out"]


def test_each_load_stands_alone(data):
    other = load("digits")
    other.train_labels.zero_()
    assert data.train_labels.any() and load("digits").train_labels.any()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load("digits")


def test_importing_needs_torch_and_numpy_only():
    code = "import sys, epsbook.data; print(*sys.modules)"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True)
    assert not {"sklearn", "torchvision", "pooch", "PIL"} & {*loaded.stdout.split()}


@pytest.mark.parametrize("name", ["cifar", "Digits", "", None, 3, ["digits"]])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match=r"name must be one of digits, .*, got"):
        load(name)


def test_a_new_data_set_is_one_function(monkeypatch):
    monkeypatch.setitem(DATASETS, "small", small)
    assert load("small").name == "small"
    with pytest.raises(ValueError, match=r"one of digits, .*small, got 'large'"):
        load("large")


# Dataset -------------------------------------------------------------------


def test_a_data_set_is_frozen_and_shown_in_short():
    data = small()
    assert repr(data) == "Dataset(small: 4 + 2 images 1 x 2 x 2, 3 classes)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.num_classes = 4
    assert len({data, small()}) == 2  # told apart by identity


def test_bytes_are_images_too():
    images = torch.full((4, 3, 2, 2), 255, dtype=torch.uint8)
    assert small(train_images=images, test_images=images[:2]).num_classes == 3


def test_features_may_be_of_any_size():
    x = torch.tensor([-9.0, 0, 3, 60]).half().view(4, 1, 1, 1)
    assert small(train_images=x, test_images=x[:2]).num_classes == 3


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            dict(train_images=np.zeros((4, 1, 2, 2))),
            TypeError,
            "training images must be a tensor, got ndarray",
        ),
        (
            dict(train_images=torch.zeros(4, 1, 2, 2).double()),
            TypeError,
            "training images must be uint8 or float32, features float16, got torch.float64",
        ),
        (
            dict(train_images=torch.zeros(4, 2, 2)),
            ValueError,
            r"training images must be N x C x H x W, got \(4, 2, 2\)",
        ),
        (
            dict(test_images=torch.zeros(0, 1, 2, 2)),
            ValueError,
            r"test images must be N x C x H x W",
        ),
        (
            dict(test_images=torch.full((2, 1, 2, 2), 255.0)),
            ValueError,
            r"test float images must lie in \[0, 1\], got 255 to 255",
        ),
        (
            dict(test_images=torch.full((2, 1, 2, 2), math.nan)),
            ValueError,
            r"test float images must lie in \[0, 1\], got nan to nan",
        ),
        (
            dict(test_images=torch.full((2, 1, 2, 2), math.inf).half()),
            ValueError,
            "test features must be finite",
        ),
        (
            dict(test_images=torch.full((2, 1, 2, 2), math.nan).half()),
            ValueError,
            "test features must be finite",
        ),
        (
            dict(test_images=torch.zeros(2, 3, 2, 2)),
            ValueError,
            r"must agree, got \(1, 2, 2\) torch.float32, \(3, 2, 2\) torch.float32",
        ),
        (
            dict(test_images=torch.zeros(2, 1, 2, 2).byte()),
            ValueError,
            r"must agree, got .*uint8",
        ),
        (
            dict(train_labels=torch.tensor([0, 1, 2])),
            ValueError,
            "training images and labels must pair up, got 4 and 3",
        ),
        (
            dict(train_labels=torch.tensor([0, 1, 2, 3])),
            ValueError,
            r"lie in 0\.\.2, got 3 at position 3",
        ),
        (
            dict(train_labels=torch.zeros(4)),
            TypeError,
            "labels must be integers, got torch.float32",
        ),
        (
            dict(train_labels=torch.zeros(4).int()),
            TypeError,
            "training labels must be an int64 tensor",
        ),
        (
            dict(test_labels=np.zeros(2, int)),
            TypeError,
            "test labels must be an int64 tensor",
        ),
        (dict(num_classes=1), ValueError, "num_classes must be at least 2, got 1"),
        (dict(num_classes="3"), TypeError, "num_classes must be an integer, got '3'"),
        (dict(name=None), TypeError, "name must be a string, got None"),
    ],
)
def test_parts_that_do_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        small(**change)


# Holding out ---------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=60),
    st.floats(0.15, 0.85),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=100)
def test_holdout_is_stratified(labels, fraction, seed):
    labels = np.array(labels)
    kept, held = holdout(labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert kept.dtype == held.dtype == np.int64
    assert len(held) == round(fraction * len(labels))
    found = np.bincount(labels[held], minlength=5)
    wish = fraction * np.bincount(labels, minlength=5)
    assert (np.abs(found - wish) < 1 + 1e-9).all()


def test_holdout_does_not_care_how_labels_are_called():
    labels = np.arange(100) % 3
    _, held = holdout(labels, 0.2, seed=1)
    _, renamed = holdout(labels * 50 - 7, 0.2, seed=1)
    assert held.tolist() == renamed.tolist()


def test_holdout_returns_what_it_got():
    labels = np.arange(100) % 3
    arrays = holdout(labels, 0.2, seed=1)
    tensors = holdout(torch.from_numpy(labels), 0.2, seed=1)
    assert isinstance(arrays, tuple) and len(arrays) == 2
    for array, tensor in zip(arrays, tensors, strict=True):
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.int64 and array.tolist() == tensor.tolist()


@pytest.mark.parametrize("draw", ["exact", "iid"])
def test_holdout_knows_nothing_of_the_noise_of_the_same_seed(draw):
    """With shared random numbers all or none of the held-out labels are wrong."""
    true = np.arange(4000) % 10
    rates = []
    for seed in range(40):
        noisy = NoiseSpec.symmetric(0.4, draw=draw).corrupt(true, 10, seed)
        held = holdout(noisy, 0.1, seed)[1]
        rates.append((noisy[held] != true[held]).mean())
    error = np.sqrt(0.4 * 0.6 / (400 * 40))
    assert abs(np.mean(rates) - 0.4) < 4 * error


def test_holdout_is_even_and_follows_its_seed():
    labels = np.repeat([0, 1], [30, 20])
    times = np.zeros(50)
    for seed in range(300):
        times[holdout(labels, 0.2, seed)[1]] += 1
    # Each index is held out with probability .2, 60 times on average.
    assert abs(times - 60).max() < 4 * math.sqrt(300 * 0.2 * 0.8)
    assert holdout(labels, 0.2, 0)[1].tolist() == holdout(labels, 0.2, 0)[1].tolist()


@pytest.mark.parametrize(
    "fraction, error, message",
    [
        (0, ValueError, "fraction must lie between 0 and 1, got 0"),
        (1.0, ValueError, "fraction must lie between 0 and 1, got 1"),
        (-0.1, ValueError, "fraction must lie between 0 and 1"),
        (10, ValueError, "fraction must lie between 0 and 1, got 10"),
        (math.nan, ValueError, "fraction must lie between 0 and 1, got nan"),
        (1e-4, ValueError, "at least one of 30 labels and not all, got 0.0001"),
        (0.999, ValueError, "at least one of 30 labels and not all, got 0.999"),
        ("0.1", TypeError, "fraction must be a number, got '0.1'"),
        (True, TypeError, "fraction must be a number, got True"),
    ],
)
def test_fractions_that_are_none(fraction, error, message):
    with pytest.raises(error, match=message):
        holdout(np.arange(30) % 3, fraction, seed=0)


def test_labels_and_seeds_that_are_none():
    with pytest.raises(
        TypeError, match="labels must be an array or a tensor, got list"
    ):
        holdout([0, 1, 2], 0.5, seed=0)
    with pytest.raises(TypeError, match=r"must be integers, got torch\.float32"):
        holdout(torch.zeros(5), 0.5, seed=0)
    with pytest.raises(ValueError, match=r"labels must have shape \(n,\)"):
        holdout(np.zeros((5, 2), int), 0.5, seed=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        holdout(np.arange(30), 0.5, seed=-1)


# Given labels ----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty data folder, and no way to fetch anything."
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    return tmp_path


def known(monkeypatch, name, labels, path=None):
    "Makes `labels` the frozen ones of `name`, and `path` the released file."
    fixed = {name: {"sha256": label_sha256(labels)}}
    for module in ("data.given", "data"):
        monkeypatch.setattr(f"epsbook.{module}.fixed_labels", lambda: fixed)
    if path:
        items = files.registry()
        content = path.read_bytes()
        items[label_file(name)] |= {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        monkeypatch.setattr(files, "registry", lambda: items)


def test_labels_of_people_from_the_release(folder, monkeypatch):
    labels, path = np.arange(6) % 4, folder / "CIFAR-10_human.pt"
    torch.save({"worse_label": labels, "clean_label": labels * 0}, path)
    known(monkeypatch, "cifar10n-worse", labels, path)
    found = given_labels("cifar10n-worse")
    assert found.dtype == torch.int64 and found.tolist() == labels.tolist()
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="run `epsbook data get cifar10n`"):
        given_labels("cifar10n-worse")


def test_instance_labels_from_the_release(folder, monkeypatch):
    path = folder / "cifar10_dependent_0.2.json"
    path.write_text("[3, 1, 2]")
    known(monkeypatch, "cifar10-instance-20", np.array([3, 1, 2]), path)
    assert given_labels("cifar10-instance-20").tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "name, archive, key",
    [
        ("cifar10n-random2", "cifar10n.npz", "random_label2"),
        ("cifar100n-fine", "cifar100n.npz", "noisy_label"),
        ("cifar100-instance-60", "idn.npz", "cifar100_idn_0.6"),
    ],
)
def test_labels_from_an_archive(folder, monkeypatch, name, archive, key):
    labels = np.array([5, 0, 5], np.int8)
    np.savez(folder / archive, **{key: labels})
    known(monkeypatch, name, labels)
    assert given_labels(name).tolist() == [5, 0, 5]
    np.savez(folder / archive, **{key: labels[::-1] + 1})
    with pytest.raises(ValueError, match=rf"{archive} is truncated or altered"):
        given_labels(name)
    np.savez(folder / archive, other=labels)
    with pytest.raises(ValueError, match=rf"{archive} is truncated or altered"):
        given_labels(name)


def test_a_release_replaces_a_bad_archive(folder, monkeypatch):
    (folder / "cifar10n.npz").write_bytes(b"bad")
    labels, path = np.arange(3), folder / "CIFAR-10_human.pt"
    torch.save({"aggre_label": labels}, path)
    known(monkeypatch, "cifar10n-aggre", labels, path)
    assert given_labels("cifar10n-aggre").tolist() == [0, 1, 2]


def test_a_pickle_of_anything_else_is_not_run(folder):
    class Rude:
        def __reduce__(self):
            return (folder / "was here").touch, ()

    torch.save({"worse_label": Rude()}, folder / "labels.pt")
    with pytest.raises(pickle.UnpicklingError):
        read_labels(folder / "labels.pt")
    np.save(folder / "labels.npy", np.array([Rude()]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_labels(folder / "labels.npy")
    assert not (folder / "was here").exists()


@pytest.mark.parametrize("name", ["cifar10n", "cifar10n-best", "", None])
def test_unknown_labels_list_the_known(name):
    with pytest.raises(ValueError, match=r"one of cifar10n-aggre, .*, got"):
        given_labels(name)


@pytest.mark.parametrize("call", [cifar10h, lambda: given_labels("cifar10n-worse")])
def test_labels_that_must_be_fetched(folder, call):
    with pytest.raises(ImportError, match="pip install pooch"):
        call()


def test_votes(folder, monkeypatch):
    votes = np.arange(20).reshape(2, 10)
    np.savez(folder / "cifar10h.npz", counts=votes.astype(np.int8))
    with pytest.raises(ValueError, match=r"cifar10h\.npz .*other votes"):
        cifar10h()
    items = files.registry()
    items["cifar10h"]["votes"] = array_sha256(votes)
    monkeypatch.setattr(files, "registry", lambda: items)
    assert cifar10h().dtype == torch.int64 and cifar10h().tolist() == votes.tolist()
    items["cifar10h"]["differ"] = 1
    assert cifar10h(torch.tensor([9, 3])).tolist() == votes.tolist()
    with pytest.raises(ValueError, match=r"1 test images .* but 2 of these: test"):
        cifar10h(torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="equally long"):
        cifar10h(torch.tensor([9, 3, 0]))


# What is here ----------------------------------------------------------------


def test_in_an_empty_folder_all_is_absent(folder):
    rows = listing()
    assert [row.name for row in rows] == list(files.registry())
    assert {row.state for row in rows} == {"absent"}
    assert {row.kind for row in rows} == {"images", "features", "labels", "folder"}
    assert all(row.license for row in rows)


@pytest.mark.parametrize("name", files.registry())
def test_verify_says_how_to_get_what_is_absent(folder, name):
    with pytest.raises(FileNotFoundError) as caught:
        verify(name)
    kind = files.entry(name)["kind"]
    fix = files.entry(name)["by_hand"] if kind == "folder" else f"data get {name}`"
    assert fix in str(caught.value) and str(folder) in str(caught.value)


def test_what_is_altered_is_seen_at_a_glance(folder):
    (folder / "cifar10.npz").write_bytes(b"bad")
    (folder / "cifar10h-counts.npy").write_bytes(b"bad")
    (folder / "cifar10n.npz").write_bytes(b"bad")
    (folder / "cifar10_patches.npz").write_bytes(b"bad")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in image_files("mnist"):
        path.touch()
    found = {row.name for row in listing() if row.state == "altered"}
    assert found == {"cifar10", "cifar10_patches", "cifar10h", "cifar10n", "mnist"}


def test_get_goes_where_the_data_are(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "epsbook.data.files.fetch", lambda *a, **k: seen.append((a, k)) or "p"
    )
    monkeypatch.setattr(
        "epsbook.data.images.make_images", lambda *a: seen.append(a) or "q"
    )
    monkeypatch.setattr("epsbook.data.patch_file.make_patches", lambda: "r")
    names = "cifar10n-worse", "mnist", "cifar10_patches"
    assert [get(name) for name in names] == ["p", "q", "r"]
    assert seen == [(("cifar10n",), {"again": True}), ("mnist",)]
    with pytest.raises(FileNotFoundError, match="ask its authors"):
        get("clothing1m")
    with pytest.raises(ValueError, match="no file 'cifar'; known: mnist"):
        get("cifar")


# Real data -------------------------------------------------------------------


def real(name):
    "Skips unless `name` is in the data folder."
    if {row.name: row.state for row in listing()}[name] == "absent":
        pytest.skip(f"EPSBOOK_DATA does not hold {name}")


@pytest.mark.parametrize("name", fixed_labels())
def test_real_labels(name):
    real(label_file(name))
    given, about = given_labels(name), fixed_labels()[name]
    assert given.shape == (50_000,) and given.max() < about["classes"]


@pytest.mark.parametrize("name", ["cifar10n-worse", "cifar10-instance-40"])
def test_real_labels_belong_to_the_images(name):
    real(label_file(name))
    real("cifar10")
    with np.load(image_files("cifar10")[0]) as archive:
        true = archive["train_labels"]
    given = NoiseSpec.fixed(name).corrupt(true, 10, 0, given=given_labels(name))
    assert (given != true).sum() == fixed_labels()[name]["wrong"]
    with pytest.raises(ValueError, match="true must be in torchvision's order"):
        NoiseSpec.fixed(name).corrupt(np.sort(true), 10, 0, given=given)


def test_real_votes_belong_to_the_images():
    real("cifar10h")
    real("cifar10")
    with np.load(image_files("cifar10")[0]) as archive:
        true = torch.from_numpy(archive["test_labels"])
    votes = cifar10h(true)
    assert votes.shape == (10_000, 10) and votes.sum() == 511_000
    with pytest.raises(ValueError, match="79 test images another label, but 9002"):
        cifar10h(true.roll(1))
    assert (votes.argmax(1) == true).float().mean() > 0.99
