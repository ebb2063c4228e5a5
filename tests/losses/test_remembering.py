"""What a loss remembers: who may write, and what several processes know."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from epsbook.losses import CELoss, ELRLoss

LOSSES = {
    "elr": lambda **o: ELRLoss(num_samples=12, num_classes=3, **o),
    "sum": lambda **o: 0.5 * CELoss(**o) + ELRLoss(num_samples=12, num_classes=3, **o),
}


def memory(loss):
    return next(b for name, b in loss.named_buffers() if "targets" in name)


def batch(seed=0, n=5):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 3, generator=g, requires_grad=True)
    index = torch.randperm(12, generator=g)[:n]
    return logits, index % 3, index


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
def test_only_training_writes(name, how):
    loss = LOSSES[name]()
    logits, y, index = batch()
    loss(logits, y, index=index)
    kept = memory(loss).clone()
    assert kept[index].sum(1).allclose(torch.tensor(0.3))
    other, y, index = batch(1)
    with torch.no_grad() if how == "no_grad" else torch.inference_mode(how[0] == "i"):
        loss.train(how != "eval")
        for call in (
            loss,
            loss.per_sample,
            lambda x, _, index: loss.per_class(x, index=index),
        ):
            call(other, y, index=index)
    assert torch.equal(memory(loss), kept)
    loss.train()(other, y, index=index)
    assert not torch.equal(memory(loss), kept)


class Both(nn.Module):
    "Network and loss in one module, whose buffers DDP sends around."

    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.loss = nn.Linear(4, 3), loss

    def forward(self, x, y, index):
        return self.loss(self.net(x), y, index=index)


def steps(model, rank, world, folder=None):
    "Three epochs; every process has other samples in each, and unequal numbers."
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=g), torch.arange(12) % 3
    for _ in range(3):
        order = torch.randperm(12, generator=g)
        for part in order.split(6):
            index = part if world == 1 else part[:2] if rank == 0 else part[2:]
            model(x[index], y[index], index).backward()
    return copy.deepcopy(memory(model))


def process(rank, name, folder):
    torch.set_num_threads(1)
    method = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=2)
    loss = LOSSES[name]()
    try:
        loss(*batch()[:2], index=batch()[2])
    except RuntimeError as error:
        assert "loss.across_processes = True" in str(error)
    else:
        raise AssertionError("a memory of one process was not refused")
    for part in loss.modules():
        part.across_processes = True
    found = steps(DistributedDataParallel(Both(loss)), rank, 2)
    loss = LOSSES[name]()
    for part in loss.modules():
        part.across_processes = False
    logits, y, index = batch(rank)
    loss(logits, y, index=index)
    alone = memory(loss).any(1).sum().item()
    torch.save((found, alone), f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("name", LOSSES)
def test_all_processes_remember_what_any_has_seen(name, tmp_path):
    mp.spawn(process, (name, tmp_path), nprocs=2)
    want = steps(Both(LOSSES[name]()), 0, 1)
    for rank in (0, 1):
        found, alone = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found, want)
        assert alone == 5
