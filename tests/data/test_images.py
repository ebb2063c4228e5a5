"""Images: read without torchvision, fetched with it, and checked each time."""

import contextlib
import copy
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import urllib.error
import zipfile

import numpy as np
import pytest
import torch

from epsbook.data import files, images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty data folder."
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def tiny(monkeypatch):
    "The registry with sets of 20 and 10 images, and no frozen checksum."
    known = copy.deepcopy(files.registry())
    for item in known.values():
        if item["kind"] == "images":
            item["train"][0], item["test"][0] = 20, 10
            item["classes"], item["per_class"] = 10, [2, 1]
            item.pop("sha256", None)
    monkeypatch.setattr(files, "registry", lambda: known)
    return known


def made(shape, seed=0):
    "Four arrays of 20 and 10 images."
    rng = np.random.default_rng(seed)
    return {
        "train_images": rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        "train_labels": np.arange(20) % 10,
        "test_images": rng.integers(0, 256, (10, *shape), dtype=np.uint8),
        "test_labels": np.arange(10),
    }


def idx(array):
    "An array as the bytes of an IDX file."
    sizes = struct.pack(f">{array.ndim}i", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_raw(folder, arrays):
    folder.mkdir(parents=True)
    for part, name in images._IDX.items():
        (folder / name).write_bytes(idx(arrays[part]))


@contextlib.contextmanager
def served(folder):
    "Address of a server of this folder, on this machine."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args):
            "torchvision first asks where an address leads, and hangs up."

    handler = functools.partial(Quiet, directory=folder)
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


# IDX ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3)])
def test_idx_is_read_back(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "x").write_bytes(idx(array))
    found = images.read_idx(tmp_path / "x")
    assert found.dtype == np.uint8 and found.shape == shape and (found == array).all()
    assert found.flags.writeable and found.flags.owndata is False


def test_idx_is_torchvisions(tmp_path):
    reader = pytest.importorskip("torchvision.datasets.mnist")
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(idx(array))
    theirs = reader.read_sn3_pascalvincent_tensor(str(tmp_path / "x"))
    assert (images.read_idx(tmp_path / "x") == theirs.numpy()).all()


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (b"\0\0\x09\x01\0\0\0\x01\0", "no IDX file of unsigned bytes"),
        (b"\0\0\x08\x02\0\0\0\x01", "no IDX file"),
        (idx(np.zeros((2, 3)))[:-1], "17 bytes, not 18"),
        (idx(np.zeros((2, 3))) + b"\0", "19 bytes, not 18"),
        (b"\x1f\x8b\x08\x00compressed", "no IDX file"),
    ],
)
def test_what_is_no_idx(tmp_path, content, why):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        images.read_idx(tmp_path / "x")


# Reading what is there ------------------------------------------------------------


def test_an_archive_becomes_tensors(folder, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # not needed
    arrays = made((32, 32, 3))
    np.savez(folder / "cifar10.npz", **arrays)
    data = images.cifar10()
    assert repr(data) == "Dataset(cifar10: 20 + 10 images 3 x 32 x 32, 10 classes)"
    assert data.train_images.dtype == torch.uint8 and data.train_images.is_contiguous()
    wanted = arrays["test_images"].transpose(0, 3, 1, 2)
    assert (data.test_images.numpy() == wanted).all()
    assert data.train_labels.tolist() == arrays["train_labels"].tolist()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_become_tensors(folder, tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    arrays = made((28, 28))
    write_raw(folder / tiny[name]["file"], arrays)
    data = getattr(images, name)()
    assert data.test_images.shape == (10, 1, 28, 28)
    assert (data.test_images[:, 0].numpy() == arrays["test_images"]).all()
    data.train_images.zero_()  # its own memory, and no warning


CHANGES = {
    "one class too large": (
        lambda a: a["train_labels"].__setitem__(0, 1),
        "train classes have 1 to 3 images",
    ),
    "a label too large": (
        lambda a: a["test_labels"].__setitem__(0, 10),
        r"test labels lie in 1\.\.10",
    ),
    "an image less": (
        lambda a: a.update(train_images=a["train_images"][1:]),
        r"train images are uint8 \(19, 32, 32, 3\)",
    ),
    "channels first": (
        lambda a: a.update(test_images=a["test_images"].transpose(0, 3, 1, 2)),
        r"test images are uint8 \(10, 3, 32, 32\)",
    ),
    "floats": (
        lambda a: a.update(test_images=a["test_images"] / 255),
        "test images are float64",
    ),
    "small labels": (
        lambda a: a.update(test_labels=a["test_labels"].astype(np.int8)),
        "test labels are int8",
    ),
    "an array less": (lambda a: a.pop("test_labels"), "test_labels"),
    "objects": (
        lambda a: a.update(test_labels=np.array([object()] * 10)),
        "allow_pickle",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_archive_is_refused_by_name(folder, tiny, change):
    alter, why = CHANGES[change]
    arrays = made((32, 32, 3))
    alter(arrays)
    np.savez(folder / "cifar10.npz", **arrays)
    before = (folder / "cifar10.npz").read_bytes()
    with pytest.raises(ValueError, match=why) as caught:
        images.cifar10()
    assert "cifar10.npz is truncated or altered" in str(caught.value)
    assert "run `epsbook data get cifar10`" in str(caught.value)
    assert (folder / "cifar10.npz").read_bytes() == before


@pytest.mark.parametrize("kept", [0, 10, 5000, -1])
def test_a_truncated_archive_is_refused_by_name(folder, tiny, kept):
    np.savez(folder / "cifar10.npz", **made((32, 32, 3)))
    content = (folder / "cifar10.npz").read_bytes()
    (folder / "cifar10.npz").write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"cifar10\.npz is truncated or altered"):
        images.cifar10()


def test_a_changed_pixel_is_seen(folder, tiny):
    arrays = made((32, 32, 3))
    sums = {part: images.array_sha256(x) for part, x in arrays.items()}
    tiny["cifar10"]["sha256"] = sums
    np.savez(folder / "cifar10.npz", **arrays)
    images.cifar10()
    arrays["test_images"][9, 31, 31, 2] ^= 1
    np.savez(folder / "cifar10.npz", **arrays)
    with pytest.raises(ValueError, match="SHA-256 of test_images is"):
        images.cifar10()


def test_a_truncated_idx_file_is_refused_by_name(folder, tiny):
    write_raw(folder / "MNIST" / "raw", made((28, 28)))
    path = folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="run `epsbook data get mnist`"):
        images.mnist()


def test_a_checksum_does_not_depend_on_the_order_of_bytes():
    numbers = np.array([1, 256, 65536])
    sums = {images.array_sha256(numbers.astype(t)) for t in ("<i8", ">i8")}
    assert sums == {hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()}


# Fetching -------------------------------------------------------------------------


def cifar_tar(path, arrays):
    "A tiny cifar-10-python.tar.gz, and the MD5 sums of what is in it."
    batches = {"data_batch_1": "train", "test_batch": "test"}
    names = [f"class {i}" for i in range(10)]
    content = {"batches.meta": {"label_names": names}}
    for name, part in batches.items():
        pixels = arrays[f"{part}_images"].transpose(0, 3, 1, 2)
        labels = arrays[f"{part}_labels"].tolist()
        content[name] = {"data": pixels.reshape(-1, 3072), "labels": labels}
    sums = {}
    with tarfile.open(path, "w:gz") as tar:
        for name, batch in content.items():
            raw = pickle.dumps(batch)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size, sums[name] = len(raw), hashlib.md5(raw).hexdigest()
            tar.addfile(info, io.BytesIO(raw))
    return sums


@pytest.fixture
def toronto(tmp_path, monkeypatch, tiny):
    "Where torchvision looks for CIFAR-10: a tiny one, on this machine."
    made_by = pytest.importorskip("torchvision.datasets").CIFAR10
    home, arrays = tmp_path / "home", made((32, 32, 3))
    home.mkdir()
    tar = home / "cifar-10-python.tar.gz"
    sums = cifar_tar(tar, arrays)
    meta = {"filename": "batches.meta", "key": "label_names"}
    for name, value in {
        "tgz_md5": hashlib.md5(tar.read_bytes()).hexdigest(),
        "train_list": [["data_batch_1", sums["data_batch_1"]]],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": meta | {"md5": sums["batches.meta"]},
    }.items():
        monkeypatch.setattr(made_by, name, value)
    with served(home) as address:
        monkeypatch.setattr(made_by, "url", address + tar.name)
        yield tar, arrays


def test_cifar_is_fetched_once_and_in_silence(folder, toronto, capfd):
    tar, arrays = toronto
    data = images.cifar10()
    wanted = arrays["train_images"].transpose(0, 3, 1, 2)
    assert (data.train_images.numpy() == wanted).all()
    assert os.listdir(folder) == ["cifar10.npz"]
    assert capfd.readouterr() == ("", "")
    tar.unlink()
    assert images.cifar10().train_labels.tolist() == data.train_labels.tolist()


def test_an_original_that_is_there_is_used(folder, toronto):
    tar, _ = toronto
    with tarfile.open(tar) as archive:
        archive.extractall(folder, filter="data")
    tar.unlink()
    assert len(images.cifar10().train_labels) == 20
    assert sorted(os.listdir(folder)) == ["cifar-10-batches-py", "cifar10.npz"]


def test_an_original_with_another_checksum_is_refused(folder, toronto):
    tar, _ = toronto
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(ConnectionError, match=r"torchvision: .*corrupted") as caught:
        images.cifar10()
    assert "cifar-10-batches-py" in str(caught.value) and not os.listdir(folder)


def test_an_original_of_other_images_is_refused(folder, toronto, tiny):
    tiny["cifar10"]["sha256"] = {"test_images": "0" * 64}
    with pytest.raises(ValueError, match="torchvision's cifar10 is not the known"):
        images.cifar10()
    assert not os.listdir(folder)


def test_a_bad_archive_stays_until_it_is_replaced(folder, toronto):
    (folder / "cifar10.npz").write_bytes(b"bad")
    with pytest.raises(ValueError, match="truncated or altered"):
        images.cifar10()
    assert images.make_images("cifar10") == folder / "cifar10.npz"
    assert zipfile.is_zipfile(folder / "cifar10.npz") and images.cifar10()


def test_mnist_is_kept_as_torchvision_keeps_it(folder, tmp_path, tiny, monkeypatch):
    tv = pytest.importorskip("torchvision.datasets")
    arrays, home, listed = made((28, 28)), tmp_path / "home", []
    home.mkdir()
    for part, name in images._IDX.items():
        raw = gzip.compress(idx(arrays[part]))
        (home / f"{name}.gz").write_bytes(raw)
        listed.append((f"{name}.gz", hashlib.md5(raw).hexdigest()))
    monkeypatch.setattr(tv.MNIST, "resources", listed)
    with served(home) as address:
        monkeypatch.setattr(tv.MNIST, "mirrors", [address])
        data = images.mnist()
    assert (data.train_images[:, 0].numpy() == arrays["train_images"]).all()
    kept = folder / "MNIST" / "raw"
    assert sorted(os.listdir(kept)) == sorted(images._IDX.values())
    assert os.listdir(folder) == ["MNIST"]
    assert len(tv.MNIST(folder, train=False)) == 10


def test_without_a_network(folder, monkeypatch):
    tv = pytest.importorskip("torchvision.datasets")

    def no_answer(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(tv, "CIFAR100", no_answer)
    with pytest.raises(ConnectionError, match="no route to host") as caught:
        images.cifar100()
    assert "put the folder cifar-100-python" in str(caught.value)
    assert "\n" not in str(caught.value) and not os.listdir(folder)


def test_a_missing_torchvision_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        images.cifar100()


@pytest.mark.parametrize("name", ["cifar10n", "webvision"])
def test_what_is_no_images(name):
    with pytest.raises(ValueError, match=f"{name} is not images but"):
        images.make_images(name)


# Real data ------------------------------------------------------------------------

NAMES = "mnist", "fashion_mnist", "cifar10", "cifar100"


@pytest.mark.parametrize("name", NAMES)
def test_real_images(name):
    if not all(path.exists() for path in images.image_files(name)):
        pytest.skip(f"EPSBOOK_DATA does not hold {name}")
    arrays, item = images.checked_arrays(name), files.entry(name)
    assert list(arrays["train_images"].shape) == item["train"]
    if name == "cifar10":  # as often published, in units of 255
        mean = arrays["train_images"].mean((0, 1, 2)) / 255
        assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
