"""Labels drawn by `NoiseSpec.corrupt` against one multinomial draw for each label.

Calls alternate, so that a busy machine slows all of them; times are medians in ms,
`x` is the median of the ratios: how many times as long as ours the other takes. The
goal is 6 at K = 10 and 25 at K = 100, against what is released. That code visits only
the labels it flips; for any matrix it draws every label, and for asymmetric noise of
100 classes it does so twenty times over.
Run: python benchmarks/noise.py [--reference CLONE] [--rounds 5]
"""

import argparse
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from epsbook.noise import CIFAR10_MAP, NoiseSpec

N, RATE = 50_000, 0.4
NEXT_OF_FIVE = {i: i - i % 5 + (i + 1) % 5 for i in range(100)}
MAPPINGS = {10: CIFAR10_MAP, 100: NEXT_OF_FIVE}
DRAWS = ("exact", "iid")
KINDS = ("symmetric", "asymmetric", "any matrix")


def ours(kind, k, matrix, draw):
    if kind == "symmetric":
        return NoiseSpec.symmetric(RATE, draw=draw)
    if kind == "asymmetric":
        return NoiseSpec.asymmetric(RATE, MAPPINGS[k], draw=draw)
    return NoiseSpec.from_transition(matrix, draw=draw)


def loop(labels, transition):
    rng = np.random.RandomState(0)
    given = labels.copy()
    for i, y in enumerate(labels):
        given[i] = rng.multinomial(1, transition[y]).argmax()
    return given


# --- the released code of Wang et al. (2024), github.com/cswjl/eps-softmax ------------


class Loaded:
    "Stands in for a data set of torchvision; `root` is its labels."

    def __init__(self, root, **options):
        self.targets = list(root)


def load(clone):
    path = clone / "datasets/data_method1/build_dataset.py"
    spec = importlib.util.spec_from_file_location("build_dataset", path)
    module = importlib.util.module_from_spec(spec)
    sets = SimpleNamespace(MNIST=Loaded, CIFAR10=Loaded, CIFAR100=Loaded)
    torchvision = patch.dict(sys.modules, torchvision=SimpleNamespace(datasets=sets))
    with torchvision, patch.object(sys, "dont_write_bytecode", True):
        spec.loader.exec_module(module)
    return module


def mend(module):
    "Let `multiclass_noisify` put an array of one label where a label belongs."
    try:
        module.multiclass_noisify(np.arange(2), np.eye(2))
    except (TypeError, ValueError) as error:
        print(f"NumPy {np.__version__} refuses multiclass_noisify: {error}")
        print("It runs here with an np.where that finds a number, not an array of one.")
        module.np = SimpleNamespace(**vars(np) | {"where": where})


def where(mask):
    return [np.where(mask)[0].squeeze()]


def theirs(module, kind, k, labels, matrix):
    if kind == "any matrix":
        return partial(module.multiclass_noisify, labels, matrix)
    noisy = {10: module.NoisyCIFAR10, 100: module.NoisyCIFAR100}[k]
    return partial(noisy, labels, noise_rate=RATE, is_asym=kind == "asymmetric")


# --------------------------------------------------------------------------------------


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def times(kind, k, module, rounds):
    "Seconds of our two draws, the loop and the released code; a row is a round."
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(N) % k)
    matrix = rng.dirichlet(np.ones(k), k)
    specs = [ours(kind, k, matrix, draw) for draw in DRAWS]
    calls = [partial(spec.corrupt, labels, k, 0) for spec in specs]
    calls.append(partial(loop, labels, specs[0].transition(k)))
    if module:
        calls.append(theirs(module, kind, k, labels, matrix))
    return np.array([[seconds(c) for c in calls] for _ in range(rounds + 1)])[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, help="a clone of the released code")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    module = load(args.reference) if args.reference else None
    if module:
        mend(module)
    names = "loop", "released"
    heads = [f"{name:>10}{'x':>7}" for name in names[: 1 + bool(module)]]
    print(f"{'K':>3}  {'noise':<11}{'draw':<6}{'ours':>7}", *heads)
    for k in MAPPINGS:
        for kind in KINDS:
            measured = times(kind, k, module, args.rounds)
            for draw, mine in zip(DRAWS, measured.T, strict=False):
                row = [
                    f"{1e3 * np.median(other):10.1f}{np.median(other / mine):7.1f}"
                    for other in measured.T[len(DRAWS) :]
                ]
                print(f"{k:>3}  {kind:<11}{draw:<6}{1e3 * np.median(mine):7.1f}", *row)


if __name__ == "__main__":
    main()
