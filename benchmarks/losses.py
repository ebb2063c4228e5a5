"""Forward and backward of each loss against `F.cross_entropy`, in one run.

Calls alternate, so that a busy machine slows both; the figure is the median of
the ratios. Run: python benchmarks/losses.py [--threads 2]
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from epsbook.losses import CELoss, EpsCELoss, EpsFocalLoss, MAELoss

SHAPES = {(128, 10): 400, (128, 100): 400, (1024, 1000): 40, (256, 50_000): 8}
LOSSES = {
    "CE": CELoss(),
    "MAE": MAELoss(),
    "CE_eps": EpsCELoss(m=1e5),
    "FL_eps": EpsFocalLoss(m=1e5),
    "CE_eps+MAE": 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss(),
}


def seconds(loss, logits, target):
    logits.grad = None
    start = time.perf_counter()
    loss(logits, target).backward()
    return time.perf_counter() - start


def ratio(loss, n, k, rounds):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(n, k, generator=g, requires_grad=True)
    target = torch.randint(k, (n,), generator=g)
    pairs = [
        (seconds(loss, logits, target), seconds(F.cross_entropy, logits, target))
        for _ in range(rounds + 3)
    ]
    return statistics.median(ours / theirs for ours, theirs in pairs[3:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    print("loss       ", *(f"{n}x{k}".rjust(10) for n, k in SHAPES))
    for name, loss in LOSSES.items():
        row = (ratio(loss, *shape, rounds) for shape, rounds in SHAPES.items())
        print(f"{name:<11}", *(f"{r:10.2f}" for r in row))


if __name__ == "__main__":
    main()
