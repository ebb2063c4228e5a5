"""Features of patches: the short way is the long way, and the file vouches for itself."""

import copy
import itertools
import json
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from epsbook import data
from epsbook.data import files, images, patch_file
from epsbook.data import patches as module
from epsbook.data.images import array_sha256
from epsbook.data.patch_file import cifar10_patches, coarse, make_patches
from epsbook.data.patches import (
    PatchSettings,
    activations,
    features,
    learn,
    normalized,
    quarters,
    responses,
    sample_patches,
    spherical_kmeans,
    standardized,
    whitening,
)
from epsbook.noise import NoiseSpec, label_sha256
from epsbook.train import measure
from epsbook.train.protocol import protocol_for

SMALL = PatchSettings(count=3000, centroids=12, passes=4)


def pictures(n, seed=0):
    "Blurred random pictures, so that neighboring pixels are alike."
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.normal(size=(n, 3, 32, 32)), (0, 0, 2, 2))
    return torch.from_numpy((128 + 300 * x).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def some():
    return pictures(60)


@pytest.fixture(scope="module")
def bank(some):
    return learn(some, SMALL)


# --- settings ---------------------------------------------------------------------


def test_settings_are_those_of_the_page():
    s = PatchSettings()
    found = s.side, s.count, s.centroids, s.passes, s.flat, s.ridge, s.threshold
    assert found == (6, 200_000, 200, 10, 10.0, 0.1, 0.25)


@pytest.mark.parametrize("name", PatchSettings.__dataclass_fields__)
def test_every_setting_changes_the_digest(name):
    value = getattr(PatchSettings(), name)
    assert PatchSettings(**{name: value + 1}).digest != PatchSettings().digest
    assert PatchSettings(**{name: value}).digest == PatchSettings().digest


# --- patches ----------------------------------------------------------------------


def test_patches_lie_in_their_images(some):
    found = sample_patches(some, SMALL)
    assert found.shape == (3000, 108) and found.dtype == torch.float32
    windows = some.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5)
    known = {row.tobytes() for row in windows.reshape(-1, 108).numpy()}
    assert all(row.tobytes() in known for row in found.byte().numpy())


def test_patches_come_from_everywhere_and_from_a_seed():
    place = torch.arange(32 * 32).view(1, 1, 32, 32).expand(50, 1, 32, 32)
    first = sample_patches(place, SMALL)[:, 0].long()
    assert len(first.unique()) > 700  # 27 x 27 corners, of 3000 draws
    assert (first // 32).max() == (first % 32).max() == 26
    again = sample_patches(place, SMALL)[:, 0].long()
    other = sample_patches(place, PatchSettings(count=3000, seed=1))[:, 0].long()
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_first_patches_are_the_same_on_every_machine():
    numbers = torch.arange(100 * 3 * 32 * 32).view(100, 3, 32, 32)
    found = sample_patches(numbers, PatchSettings(count=4))[:, 0].long().tolist()
    assert found == FIRST


FIRST = [227649, 74129, 258725, 280085]


def test_normalized_patches_know_no_brightness_and_no_contrast():
    x = sample_patches(pictures(5), SMALL)[:100].double()
    found = normalized(x, 0.0)
    torch.testing.assert_close(found.mean(1), torch.zeros(100).double())
    torch.testing.assert_close(found.std(1), torch.ones(100).double())
    torch.testing.assert_close(normalized(3 * x + 20, 0.0), found)
    assert not normalized(torch.full((2, 108), 9.0), 10.0).any()


def test_whitened_patches_are_white():
    rng = np.random.default_rng(0)
    noisy = torch.from_numpy(rng.integers(0, 256, (60, 3, 32, 32), np.uint8))
    x = normalized(sample_patches(noisy, SMALL), 10.0)
    mean, white = whitening(x, 1e-9)
    torch.testing.assert_close(white, white.T)
    values = torch.linalg.eigvalsh(torch.cov(((x - mean) @ white).T))
    # One direction, the mean of a patch, has been taken out.
    torch.testing.assert_close(values[1:], torch.ones(107).double(), rtol=1e-3, atol=0)
    assert values[0] < 0.1
    damped = torch.linalg.eigvalsh(torch.cov(((x - mean) @ whitening(x, 0.1)[1]).T))
    assert damped.max() < 1


# --- k-means ----------------------------------------------------------------------


def test_kmeans_finds_directions_whatever_their_sign():
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=g))[0][:3]
    sign = torch.randn(600, 1, generator=g).sign()
    x = sign * axes.repeat(200, 1) + 0.05 * torch.randn(600, 8, generator=g)
    found = spherical_kmeans(x, PatchSettings(centroids=12))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12))
    assert ((axes @ found.T).abs().max(1).values > 0.99).all()


def test_each_pass_brings_the_vectors_nearer(some):
    x = normalized(sample_patches(some, SMALL), 10.0)
    fit = [
        (x @ spherical_kmeans(x, PatchSettings(centroids=12, passes=p)).T)
        .abs()
        .max(1)
        .values.square()
        .mean()
        for p in (0, 1, 3, 10)
    ]
    assert all(a < b for a, b in itertools.pairwise(fit))


def test_an_empty_group_stays_where_it_is():
    x = torch.tensor([[1.0, 0, 0]]).repeat(50, 1)
    found = [spherical_kmeans(x, PatchSettings(centroids=5, passes=p)) for p in (0, 9)]
    moved = ((found[0] - found[1]).abs() > 1e-6).any(1)
    assert moved.sum() == 1 and found[1].isfinite().all()


# --- one product ------------------------------------------------------------------


def long_way(images, s):
    "Activations patch by patch, as the definition has it."
    x = normalized(sample_patches(images, s), s.flat).double()
    mean, white = whitening(x, s.ridge)
    c = spherical_kmeans(((x - mean) @ white).float(), s).double()
    view = images.unfold(2, s.side, 1).unfold(3, s.side, 1).permute(0, 2, 3, 1, 4, 5)
    rows = view.reshape(-1, x.shape[1]).double()
    a = (normalized(rows, s.flat) - mean) @ white @ c.T
    return a.view(len(images), -1, s.centroids)


def test_activations_are_those_of_the_definition(some, bank):
    found = activations(some[:3], bank, SMALL)
    wanted = long_way(some, SMALL)[:3]
    assert found.shape == (3, 27 * 27, 12)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=2e-4)


def test_brightness_changes_nothing(some, bank):
    darker = (some[:2] // 2).float(), (some[:2] // 2).float() + 100
    a, b = (activations(x, bank, SMALL) for x in darker)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_flat_and_extreme_pictures_have_finite_features(bank):
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
    flat = ends.expand(2, 3, 32, 32)
    checkered = 255 * (torch.arange(32 * 32) % 2).view(1, 1, 32, 32).byte()
    for x in (flat, checkered.expand(2, 3, 32, 32)):
        assert responses(x, bank, SMALL).isfinite().all()


def test_quarters_of_27_places():
    q = quarters(27, 27)
    torch.testing.assert_close(q.sum(1), torch.ones(4))
    assert (q.sum(0) > 0).all() and ((q > 0).sum(0) == 1).all()
    upper_left = (q[0] > 0).view(27, 27)
    assert upper_left[:14, :14].all() and upper_left.sum() == 14 * 14
    assert (q[1] > 0).view(27, 27)[:14, 14:].all()


def test_responses_are_means_over_quarters(some, bank):
    a = activations(some[:1], bank, SMALL).view(27, 27, 12)
    corner = a[14:, :14]  # the third quarter: lower left
    wanted = [(sign * corner - 0.25).relu().mean((0, 1)) for sign in (1, -1)]
    found = responses(some[:1], bank, SMALL).view(4, 2, 12)[2]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_features_do_not_depend_on_their_neighbors(some, bank, n):
    found = features(some[:n], bank, SMALL)
    alone = torch.cat([responses(x[None], bank, SMALL) for x in some[:n]])
    assert found.shape == (n, 96)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_the_bar_is_quiet_where_nobody_looks(some, bank, monkeypatch, capfd):
    features(some[:4], bank, SMALL)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(module, "watched", lambda: True)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    features(some[:4], bank, SMALL, "patches")
    assert "patches: 100%" in capfd.readouterr().err


def test_standardized_by_the_training_part():
    g = torch.Generator().manual_seed(0)
    train, test = (5 + 3 * torch.randn(n, 7, generator=g) for n in (4000, 50))
    train[:, 0] = test[:, 0] = 0  # never active
    x, z = standardized(train.clone(), test.clone())
    assert x.shape == (4000, 7, 1, 1) and z.shape == (50, 7, 1, 1)
    assert x.dtype == z.dtype == torch.float16 and not x[:, 0].any()
    x = x.flatten(1).float()[:, 1:]
    torch.testing.assert_close(x.std(0), torch.ones(6), rtol=1e-3, atol=0)
    wanted = (test - train.mean(0))[:, 1:] / train.std(0)[1:]
    torch.testing.assert_close(
        z.flatten(1).float()[:, 1:], wanted, rtol=2e-3, atol=2e-3
    )


# --- the file ---------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    "A CIFAR-10 of 40 and 20 images, small settings, an empty data folder."
    x, z = pictures(40, 1), pictures(20, 2)
    y, truth = torch.arange(40) % 10, torch.arange(20) % 10
    pixels = data.Dataset("cifar10", x, y, z, truth, 10)
    known = copy.deepcopy(files.registry())
    item = known["cifar10_patches"]
    item["train"][:2], item["test"][:2] = [40, 96], [20, 96]
    known["cifar10"]["sha256"] = {
        "train_labels": array_sha256(y.numpy()),
        "test_labels": array_sha256(truth.numpy()),
    }
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(files, "registry", lambda: known)
    monkeypatch.setattr(patch_file, "cifar10", lambda: pixels)
    monkeypatch.setattr(patch_file, "PatchSettings", lambda: SMALL)
    s, raw = SMALL, learn(x, SMALL)
    a, b = standardized(*(features(part, raw, s) for part in (x, z)))
    parts = zip(patch_file._PARTS, (a, y, b, truth), strict=True)
    item["coarse"] = coarse({name: part.numpy() for name, part in parts})
    return known


def kept():
    return files.data_folder() / "cifar10_patches.npz"


def test_features_are_made_once_and_read_back(small, monkeypatch):
    d = data.load("cifar10_patches")
    assert d.train_images.shape == (40, 96, 1, 1) and d.test_images.shape[0] == 20
    assert d.train_images.dtype == torch.float16 and d.num_classes == 10
    before = kept().stat().st_mtime_ns
    monkeypatch.setattr(patch_file, "make_patches", lambda: pytest.fail("made twice"))
    again = data.load("cifar10_patches")
    assert torch.equal(again.train_images, d.train_images)
    assert kept().stat().st_mtime_ns == before
    assert data.verify("cifar10_patches").startswith("cifar10_patches: the SHA-256")
    rows = {row.name: row for row in data.listing()}
    assert rows["cifar10_patches"].state == "here"
    assert rows["cifar10_patches"].kind == "features"


def test_features_are_standardized(small):
    x = cifar10_patches().train_images.flatten(1).double()
    active = x.any(0)
    torch.testing.assert_close(x.mean(0), torch.zeros(96).double(), rtol=0, atol=1e-3)
    assert (x.std(0)[active] - 1).abs().max() < 1e-2


def test_nothing_is_written_by_halves(small, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_patches()
    monkeypatch.setattr(patch_file, "features", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_patches()
    assert not list(files.data_folder().iterdir())


def rewritten(change):
    "The file with its arrays changed, and its own checksums left as they were."
    with np.load(kept()) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    change(arrays)
    np.savez(kept(), **arrays)


def one_bit(arrays):
    arrays["train_images"].view(np.uint16)[7, 5] ^= 1


def one_label(arrays):
    arrays["test_labels"][3] = 0


def gone(arrays):
    del arrays["about"]


@pytest.mark.parametrize("change", [one_bit, one_label, gone])
def test_an_altered_file_is_refused_with_the_remedy(small, change):
    make_patches()
    rewritten(change)
    remedy = r"npz is truncated or altered .*run `epsbook data get cifar10_patches`"
    for read in (cifar10_patches, lambda: data.verify("cifar10_patches")):
        with pytest.raises(ValueError, match=remedy):
            read()
    assert kept().exists()
    assert data.get("cifar10_patches") == kept()
    cifar10_patches()


def test_a_truncated_file_is_seen_at_a_glance(small):
    make_patches()
    kept().write_bytes(kept().read_bytes()[:-100])
    rows = {row.name: row.state for row in data.listing()}
    assert rows["cifar10_patches"] == "altered"
    with pytest.raises(ValueError, match="run `epsbook data get cifar10_patches`"):
        cifar10_patches()


def test_a_file_made_otherwise_is_refused(small, monkeypatch):
    make_patches()
    other = PatchSettings(count=3000, centroids=12, passes=4, version=99)
    monkeypatch.setattr(patch_file, "PatchSettings", lambda: other)
    wanted = "other settings: to replace it, run `epsbook data get cifar10_patches`"
    with pytest.raises(ValueError, match=wanted):
        cifar10_patches()
    make_patches()
    cifar10_patches()


def honest(change):
    "The file with its arrays changed, and checksums that say so."

    def both(arrays):
        change(arrays)
        about = json.loads(arrays["about"].item())
        about["sha256"] = {p: array_sha256(arrays[p]) for p in patch_file._PARTS}
        arrays["about"] = np.array(json.dumps(about))

    rewritten(both)


def shuffled(arrays):
    arrays["test_images"] = arrays["test_images"][::-1].copy()


def doubled(arrays):
    arrays["test_images"] *= 2


def single(arrays):
    arrays["test_images"] = arrays["test_images"].astype(np.float32)


@pytest.mark.parametrize(
    "change, why",
    [
        (one_label, "SHA-256 of test_labels"),
        (shuffled, "nearest_mean is"),
        (doubled, "mean_square is"),
        (single, "test features are float32"),
    ],
)
def test_other_features_with_right_checksums_are_refused(small, change, why):
    make_patches()
    honest(change)
    with pytest.raises(ValueError, match=why):
        cifar10_patches()


def test_features_unlike_the_known_ones_are_not_kept(small):
    small["cifar10_patches"]["coarse"]["mean_size"] += 0.1
    with pytest.raises(ValueError, match="not the known ones: mean_size is"):
        make_patches()
    assert not kept().exists()


# --- labels and noise -------------------------------------------------------------


def test_instance_noise_sees_the_photographs(small, monkeypatch):
    pixels, d = patch_file.cifar10(), cifar10_patches()
    monkeypatch.setitem(data.DATASETS, "cifar10", lambda: pixels)
    spec = NoiseSpec.instance(0.4)
    given = [label_sha256(measure.corrupted(x, spec, 3)) for x in (pixels, d)]
    assert given[0] == given[1]


def test_what_is_made_from_what():
    made = {name for name in files.registry() if files.home(name) != name}
    assert made == {"cifar10_patches"} <= set(data.DATASETS)
    assert files.home("cifar10_patches") == "cifar10"
    assert files.home("digits") == "digits"


def test_the_network_takes_what_the_protocol_gives(small):
    d = cifar10_patches()
    p = protocol_for("cifar10_patches", "smoke")
    assert p.network == "patches_net" and p.validation == 0.1
    given = measure.corrupted(d, NoiseSpec.symmetric(0.4), 1)
    s = measure.split(d, given, p, 1)
    assert (len(s.y), len(s.y_held)) == (36, 4)
    assert s.scale[0].shape == s.scale[1].shape == (1, 96, 1, 1)


# --- real data --------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    if {r.name: r.state for r in data.listing()}["cifar10_patches"] == "absent":
        pytest.skip("EPSBOOK_DATA does not hold cifar10_patches")
    return data.load("cifar10_patches")


def test_real_features(real):
    assert repr(real).startswith("Dataset(cifar10_patches: 50000 + 10000 images 1600")
    x = real.train_images[:, ::37].flatten(1).double()
    assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 1e-3


def test_real_features_are_those_of_the_images(real):
    if not images.image_files("cifar10")[0].exists():
        pytest.skip("EPSBOOK_DATA does not hold cifar10")
    pixels = data.load("cifar10")
    assert torch.equal(pixels.train_labels, real.train_labels)
    bank = learn(pixels.train_images, PatchSettings())
    raw = features(pixels.train_images[:50], bank, PatchSettings())
    kept = real.train_images[:50].flatten(1).float()
    # Standardizing is linear; another machine may have other last digits.
    both = torch.stack([raw.flatten(), kept.flatten()]).view(2, 50, -1)
    a, b = (x - x.mean(0) for x in both)
    alike = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
    assert alike.median() > 0.999


def test_reading_needs_no_progress_bar(small, monkeypatch):
    make_patches()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    cifar10_patches()
