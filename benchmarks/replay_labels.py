"""The labels released as instance-dependent, drawn again.

The code of Wang et al. (2024), github.com/cswjl/eps-softmax, draws a wrong label from
softmax of x W, without the true class, where x is a randomly cropped and flipped copy
of the image. With W, crops and labels from seed 0 and the order of the images from
seed 123 all wrong labels of the 20 % set come out. The orders of the 40 and the 60 %
set were not found; there the same W is held against their matrices. Results go into
results/labels-replayed.json, which chapter 25 reads. Two minutes on one core; needs
the images and the labels of CIFAR-10.

Run: python benchmarks/replay_labels.py [--orders 2600]
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import avg_pool2d

from epsbook import data
from epsbook.train.machine import versions

FILE = Path(__file__).resolve().parents[1] / "results" / "labels-replayed.json"
MEAN = np.float32([0.49139968, 0.48215827, 0.44653124])[:, None, None]
STD = np.float32([0.24703233, 0.24348505, 0.26158768])[:, None, None]
K, RATES, OFF = 10, (20, 40, 60), ~np.eye(10, dtype=bool)


def released(rate):
    return data.given_labels(f"cifar10-instance-{rate}").numpy()


def shuffled(seed, n):
    "The numbers below n in the order of this seed of Python's generator."
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return np.array(order)


def copies(images, down, right, flip):
    "Images cut out of a frame of four black pixels, some of them mirrored."
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    cut = np.stack(
        [
            p[:, i : i + 32, j : j + 32]
            for p, i, j in zip(padded, down, right, strict=True)
        ]
    )
    cut[flip] = cut[flip][..., ::-1]
    return cut


def rows(images, true, directions):
    "Probabilities of the wrong classes by (25.1)."
    x = ((images.astype(np.float32) / 255 - MEAN) / STD).reshape(len(images), -1)
    scores = np.empty((len(x), K), dtype=np.float32)
    for i in range(K):
        scores[true == i] = x[true == i] @ directions[i]
    scores[np.arange(len(x)), true] = -np.inf
    size = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return size / size.sum(1, keepdims=True)


def drawn(p, u):
    return (u[:, None] >= p.cumsum(1) / p.sum(1, keepdims=True)).sum(1)


def seeded(n):
    "W of seed 0, n uniform numbers that follow it, n crops and flips of seed 0."
    numbers, coins = np.random.RandomState(0), torch.Generator().manual_seed(0)
    directions = numbers.randn(K, 3 * 32 * 32, K).astype(np.float32)
    crops = []
    for _ in range(n):
        place = [torch.randint(9, (1,), generator=coins).item() for _ in "ij"]
        crops.append((*place, torch.rand(1, generator=coins).item() < 0.5))
    down, right, flip = map(np.array, zip(*crops, strict=True))
    return directions, numbers.random_sample(n), (down, right, flip)


def replay(images, true):
    "How many labels are wrong in the 20 % set, and how many of them come out."
    order = shuffled(123, len(true))[: len(true) // 5]
    directions, u, crops = seeded(len(order))
    p = rows(copies(images[order], *crops), true[order], directions)
    given = released(20)
    return {
        "order": 123,
        "wrong": int((given != true).sum()),
        "the same": int((drawn(p, u) == given[order]).sum()),
    }


def orders(true, seeds):
    "Which seeds below `seeds` put the wrong labels of a set first."
    wrong = {rate: released(rate) != true for rate in RATES}
    found = {rate: [] for rate in RATES}
    for seed in range(seeds):
        order = shuffled(seed, len(true))
        for rate in RATES:
            if wrong[rate][order[: len(true) * rate // 100]].all():
                found[rate].append(seed)
    return {"below": seeds} | {f"{rate} %": seeds for rate, seeds in found.items()}


def matrix(p, true):
    "Mean probabilities of a class, and the frequencies of released labels."
    return np.stack([p[true == i].mean(0) for i in range(K)])


def correlations(p, true):
    "Rank correlation of the matrix with that of each released set."
    ours = pd.Series(matrix(p, true)[OFF])
    counts = {r: np.zeros((K, K)) for r in RATES}
    for rate, n in counts.items():
        np.add.at(n, (true, released(rate)), 1)
    return {
        f"{rate} %": round(float(ours.corr(pd.Series(n[OFF]), method="spearman")), 3)
        for rate, n in counts.items()
    }


def nearest(wrong, true, points):
    "Each image with a wrong label, and the one of its class most like it."
    pairs = []
    for i in range(K):
        at = np.flatnonzero((true == i) & wrong)
        far = torch.cdist(points[at], points[at]).fill_diagonal_(torch.inf)
        pairs.append([at, at[far.argmin(1).numpy()]])
    return np.concatenate(pairs, axis=1)


def pooled(images, k):
    "Means of k x k pixels, in standard units, as rows."
    x = (images.astype(np.float32) / 255 - MEAN) / STD
    return avg_pool2d(torch.from_numpy(x), k).flatten(1)


def neighbors(kinds, true, images):
    "Agreement of neighbors, by pixels and by color alone, of the 40 % set's images."
    wrong, u = released(40) != true, np.random.default_rng(0).random(len(true))
    given = {name: drawn(p, u) for name, p in kinds.items()}
    given = {"released": released(40)} | given
    found = {}
    for name, k in {"8 x 8 pixels": 4, "mean color": 32}.items():
        one, other = nearest(wrong, true, pooled(images, k))
        found[name] = {
            kind: round(float((x[one] == x[other]).mean()), 4)
            for kind, x in given.items()
        }
    return found


def twin(true, given, rng):
    "The same labels, dealt to the images of each class by lot."
    dealt = given.copy()
    for i in range(K):
        dealt[true == i] = rng.permutation(given[true == i])
    return dealt


def of_people(true, images, twins=12):
    "Agreement of neighbors for labels of people, and for twins of them."
    given, points = data.given_labels("cifar10n-worse").numpy(), pooled(images, 4)

    def agree(labels):
        one, other = nearest(labels != true, true, points)
        return float((labels[one] == labels[other]).mean())

    rng, by_lot = np.random.default_rng(0), []
    for _ in range(twins):
        by_lot.append(agree(twin(true, given, rng)))
    return {
        "labels": round(agree(given), 4),
        "twins": twins,
        "mean": round(float(np.mean(by_lot)), 4),
        "std": round(float(np.std(by_lot, ddof=1)), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=2600, help="seeds to try")
    asked = parser.parse_args()
    d = data.load("cifar10")
    images, true = d.train_images.numpy(), d.train_labels.numpy()
    found = {"labels": "cifar10-instance of Wang et al. 2024, drawn again"}
    found["replayed"] = replay(images, true)
    print("{the same:,} of {wrong:,} wrong labels come out".format(**found["replayed"]))

    directions, rng = seeded(1)[0], np.random.default_rng(1)
    plain = rows(images, true, directions)
    crops = [
        rows(
            copies(images, *rng.integers(9, size=(2, len(true))), flip),
            true,
            directions,
        )
        for flip in rng.random((2, len(true))) < 0.5
    ]
    by_matrix = matrix(crops[0] / 2 + crops[1] / 2, true)[true]
    found |= {
        "favorite": round(float(crops[0].max(1).mean()), 4),
        "the same twice": {
            "one copy": round(float((crops[0] ** 2).sum(1).mean()), 4),
            "two copies": round(float((crops[0] * crops[1]).sum(1).mean()), 4),
            "matrix alone": round(float((by_matrix**2).sum(1).mean()), 4),
        },
        "rank correlation": {
            "copies": correlations(sum(crops), true),
            "images": correlations(plain, true),
        },
        "neighbors": neighbors({"copies": crops[0], "images": plain}, true, images),
        "people": of_people(true, images),
        "orders": orders(true, asked.orders),
        "versions": versions(),
    }
    for name, value in list(found.items())[2:-1]:
        print(f"{name}: {value}")
    FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
