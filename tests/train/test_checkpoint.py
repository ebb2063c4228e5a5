"""Checkpoints: whole or not at all, of this run or refused, and never a program."""

import os
import pickle
from types import SimpleNamespace

import pytest
import torch

from epsbook.data import Dataset
from epsbook.losses import CELoss, GCELoss
from epsbook.losses.base import CurveLoss
from epsbook.train import checkpoint, protocol_for
from epsbook.train.checkpoint import (
    about_rest,
    Saver,
    freeze,
    load_checkpoint,
    save_checkpoint,
    thaw,
    weights_sha256,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "run.pt"


def test_what_is_saved_is_loaded(file):
    assert load_checkpoint(file, {}) is None
    state = {"w": torch.arange(3.0), "rows": [{"test": 0.5, "memorized": None}]}
    save_checkpoint(file, {"seed": 1, "lr": 0.1}, state)
    found = load_checkpoint(file, {"seed": 1, "lr": 0.1})
    assert torch.equal(found["w"], state["w"]) and found["rows"] == state["rows"]
    assert [p.name for p in file.parent.iterdir()] == ["run.pt"]
    there = load_checkpoint(file, {"seed": 1, "lr": 0.1}, "meta")
    assert there["w"].device.type == "meta"


def test_saving_takes_a_twentieth_of_the_time(file, monkeypatch):
    clock, saved = [0.0], []

    def save(path, about, state):
        clock[0] += 1
        saved.append(state)

    watch = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(checkpoint, "time", watch)
    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    saver = Saver(file, {})
    for epoch in range(1, 51):  # of two seconds
        clock[0] += 2
        saver(lambda: epoch, epoch == 50)  # noqa: B023
    assert saved == [1, 11, 21, 31, 41, 50]


@pytest.mark.parametrize(
    "about, says",
    [
        ({"seed": 2, "lr": 0.1}, r"seed was 1, is 2"),
        ({"seed": 1, "lr": 0.2}, r"lr was 0.1, is 0.2"),
        ({"seed": 1}, r"lr was 0.1, is None"),
    ],
)
def test_another_run_is_refused_by_its_difference(file, about, says):
    save_checkpoint(file, {"seed": 1, "lr": 0.1}, {})
    with pytest.raises(ValueError, match=f"run.pt is a checkpoint of another.*{says}"):
        load_checkpoint(file, about)
    assert file.exists()


class Program:
    def __reduce__(self):
        return os.mkdir, ("should-not-exist",)


@pytest.mark.parametrize(
    "content", ["text", "pickle", "empty", "cut", "other", "one bit"]
)
def test_what_is_no_checkpoint_is_refused_and_not_run(file, content, monkeypatch):
    save_checkpoint(file, {}, {"w": torch.ones(100)})
    monkeypatch.chdir(file.parent)
    if content == "other":
        torch.save([1, 2], file)
    else:
        raw = {
            "text": b"hello",
            "pickle": pickle.dumps(Program()),
            "empty": b"",
            "cut": file.read_bytes()[:-200],
            "one bit": file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]),
        }
        file.write_bytes(raw[content])
    with pytest.raises(ValueError, match=r"run.pt is not a checkpoint .*delete it"):
        load_checkpoint(file, {})
    assert [p.name for p in file.parent.iterdir()] == ["run.pt"]


def test_a_failed_write_leaves_the_old_file(file):
    save_checkpoint(file, {}, {"epoch": 1})
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_checkpoint(file, {}, {"epoch": lambda: 2})
    assert load_checkpoint(file, {}) == {"epoch": 1}
    assert [p.name for p in file.parent.iterdir()] == ["run.pt"]


def test_thawed_random_numbers_go_on():
    own = torch.Generator().manual_seed(3)
    net = torch.nn.Linear(2, 2)
    frozen = freeze([net], [own])
    frozen["parts"] = [{k: v.clone() for k, v in frozen["parts"][0].items()}]
    first = torch.rand(2), torch.rand(2, generator=own), net(torch.ones(1, 2))
    with torch.no_grad():
        net.weight.zero_()
    thaw([net], [own], frozen)
    again = torch.rand(2), torch.rand(2, generator=own), net(torch.ones(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_sum_depends_on_names_types_shapes_and_values():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(())}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(())},
        {"a": torch.zeros(2, 3), "c": torch.ones(())},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(())},
        {"a": torch.zeros(2, 3), "b": torch.zeros(())},
    ]
    sums = {weights_sha256(state) for state in [base, *others]}
    assert len(sums) == 5
    assert weights_sha256(dict(reversed(base.items()))) == weights_sha256(base)
    last = base["a"].to(memory_format=torch.preserve_format).clone().T.contiguous().T
    assert weights_sha256(base | {"a": last}) == weights_sha256(base)


class Root(CurveLoss):
    "A loss of somebody, who does not say that `q` has a range."

    def __init__(self, q):
        super().__init__()
        self.q = q


def rest(loss=None, test_labels=0):
    "What a checkpoint knows of a run on two pictures."
    pictures = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    y = torch.tensor([0, 1])
    d = Dataset("two", pictures, y, pictures, y - test_labels * y, 2)
    return about_rest(d, loss or CELoss(), protocol_for("digits"), "cpu")


def test_another_value_in_somebodys_loss_is_another_run():
    assert rest(Root(0.1)) == rest(Root(0.1)) != rest(Root(0.9))
    assert rest(Root(0.1) + CELoss()) != rest(Root(0.9) + CELoss())
    assert "loss_values" not in rest(GCELoss(q=0.1))


def test_other_test_labels_are_another_run():
    assert rest() == rest() != rest(test_labels=1)
