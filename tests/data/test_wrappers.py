"""Any dataset with wrong labels, and with the index of each sample."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from epsbook import data
from epsbook.data import IndexedDataset, NoisyDataset
from epsbook.data.wrappers import true_labels
from epsbook.losses import ELRLoss
from epsbook.noise import NoiseSpec
from epsbook.noise.labels import label_sha256

SPEC = NoiseSpec.symmetric(0.4)


class Plain(Dataset):
    "Samples (index, label), which are counted when they are read."

    def __init__(self, labels):
        self.values, self.read = labels, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        self.read += 1
        return index, self.values[index]


class Known(Plain):
    "As torchvision's: the labels are known without a look at the samples."

    def __init__(self, labels, transform=None):
        super().__init__(labels)
        self.targets, self.target_transform = labels, transform

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, self.target_transform(y) if self.target_transform else y


def noisy(dataset, spec=SPEC, **options):
    return NoisyDataset(dataset, spec, **{"num_classes": 10, "seed": 1} | options)


@pytest.mark.parametrize(
    "labels",
    [list(range(10)) * 9, np.arange(90) % 10, torch.arange(90) % 10],
    ids=["list", "numpy", "torch"],
)
def test_labels_are_those_of_a_run(labels):
    wanted = SPEC.corrupt(torch.arange(90) % 10, 10, 1)
    known = noisy(Known(labels))
    assert label_sha256(known.given) == label_sha256(wanted) and not known.dataset.read
    assert [known[i] for i in range(90)] == list(enumerate(wanted.tolist()))
    read = noisy(Plain(labels))
    assert read.dataset.read == 90 and (read.given == known.given).all()
    assert (read.clean == np.arange(90) % 10).all()


def test_a_target_transform_is_not_passed_over():
    turned = Known(list(range(10)) * 9, transform=lambda y: 9 - y)
    assert true_labels(turned).tolist() == [9 - i for i in range(10)] * 9
    assert noisy(turned)[0][1] == noisy(turned).given[0]


def test_subsets_and_tensors():
    tensors = TensorDataset(torch.rand(90, 2), torch.arange(90) % 10)
    part = Subset(Subset(tensors, range(0, 90, 2)), [3, 4, 5])
    assert true_labels(part).tolist() == [6, 8, 0]
    assert noisy(part).given.shape == (3,)
    assert [y for _, y in Subset(noisy(tensors), [7, 8])] == noisy(tensors).given[
        7:9
    ].tolist()


def test_torchvision_folders(tmp_path):
    folder = pytest.importorskip("torchvision.datasets").FakeData(20, num_classes=10)
    assert len(noisy(folder).given) == 20
    mnist = pytest.importorskip("torchvision.datasets").MNIST
    made = mnist.__new__(mnist)
    made.targets, made.target_transform = torch.arange(90) % 10, None
    assert (true_labels(made) == np.arange(90) % 10).all()


def test_what_follows_the_label_stays_and_workers_agree():
    tensors = torch.rand(40, 2), torch.arange(40) % 10, torch.arange(40) * 2
    both = IndexedDataset(noisy(TensorDataset(*tensors)))
    x, y, more, index = next(iter(DataLoader(both, 40, num_workers=2)))
    assert torch.equal(x, tensors[0]) and torch.equal(more, index * 2)
    assert y.tolist() == both.dataset.given.tolist()
    again = pickle.loads(pickle.dumps(both))
    assert again[-1][1:] == both[39][1:] and again[-1][-1] == 39


def test_indices_end():
    both = IndexedDataset(noisy(Plain([0, 1, 2] * 5)))
    assert len(list(both)) == 15
    with pytest.raises(IndexError):
        both[15]


def test_elr_learns_which_samples_it_saw():
    inputs = TensorDataset(torch.randn(40, 10), torch.arange(40) % 10)
    loss = ELRLoss(num_samples=40, num_classes=10)
    for x, y, index in DataLoader(IndexedDataset(noisy(inputs)), 10):
        loss(x, y, index=index)
    before = loss.targets.clone() if hasattr(loss, "targets") else None
    assert before is None or before.abs().sum(1).gt(0).all()


def test_noise_that_looks_at_images():
    d = data.digits()
    spec = NoiseSpec.instance(0.3)
    mine = TensorDataset(d.train_images, d.train_labels)
    wanted = spec.corrupt(d.train_labels, 10, 1, features=d.train_images)
    found = noisy(mine, spec, features=d.train_images)
    assert (found.given == wanted.numpy()).all()
    with pytest.raises(TypeError, match="features"):
        noisy(mine, spec)


def test_fixed_labels_are_found_by_name(monkeypatch):
    given = torch.arange(90) % 10
    monkeypatch.setattr("epsbook.data.wrappers.given_labels", lambda name: given)
    known = {"classes": 10, "wrong": 30, "sha256": label_sha256(given)}
    monkeypatch.setattr(
        "epsbook.noise.kinds.fixed_labels", lambda: {"cifar10n-worse": known}
    )
    spec = NoiseSpec.fixed("cifar10n-worse")
    true = [*((given[:30] + 1) % 10).tolist(), *given[30:].tolist()]
    assert (noisy(Plain(true), spec).given == given.numpy()).all()
    with pytest.raises(ValueError, match="true must be in torchvision's order"):
        noisy(Plain(sorted(true)), spec)


def test_a_dataset_that_changed_is_refused():
    made = noisy(Plain(list(range(10)) * 9))
    made.dataset.values = made.dataset.values[::-1]
    with pytest.raises(ValueError, match=r"sample 2 has label 7, .* is 2: .* order"):
        made[2]


@pytest.mark.parametrize(
    ("dataset", "options", "error", "says"),
    [
        (Plain([0, 10]), {}, ValueError, "10"),
        (Plain([0, 1]), {"labels": np.arange(3)}, ValueError, "3 labels for 2"),
        ([torch.rand(2)], {}, TypeError, "(input, label, ...), got Tensor"),
        (Plain([0, 1]), {"num_classes": 1}, ValueError, "num_classes"),
    ],
)
def test_what_is_refused(dataset, options, error, says):
    with pytest.raises(error) as caught:
        noisy(dataset, **options)
    assert says in str(caught.value)


@pytest.mark.parametrize("label", [3.5, torch.tensor([0.0, 1.0]), slice(2), "cat"])
def test_a_label_that_is_no_integer_is_refused(label):
    with pytest.raises(TypeError, match="a label must be an integer, got"):
        true_labels([(torch.zeros(2), label)])


def test_inputs_without_labels_are_refused():
    with pytest.raises(TypeError, match=r"must be \(input, label"):
        true_labels(TensorDataset(torch.zeros(3, 2)))
