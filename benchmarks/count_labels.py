"""Given labels of CIFAR-10 counted, for chapters 2, 24 and 25.

Counts of the labels of people (CIFAR-10N, CIFAR-10H) and of those released as
instance-dependent, and the checks of chapter 25: which classes they confuse, how many
are wrong on easy and on hard images, whether the most similar wrong image has the same
label. A judge tells what is hard: a ridge regression on the fixed features of
`epsbook.data.patches`, trained on the true labels of one half of the images (even or
odd numbers) and asked about the other. Results go into results/labels-*.json, which
chapters read. A minute on one core; needs the images and all label files.

Run: python benchmarks/count_labels.py
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from replay_labels import OFF, K, nearest, pooled, twin

from epsbook import data
from epsbook.noise import NoiseSpec
from epsbook.noise.instance import instance_rows
from epsbook.train.machine import versions
from epsbook.train.measure import corrupted, standardize

RESULTS = Path(__file__).resolve().parents[1] / "results"
RELEASED = [f"cifar10-instance-{rate}" for rate in (20, 40, 60)]
PEOPLE = [f"cifar10n-{x}" for x in ("aggre", "random1", "random2", "random3", "worse")]
PART, RIDGE, TWINS = "instance:0.4", 100.0, 12


def count(true, given):
    "How often class i is given as j."
    n = np.zeros((K, K), dtype=int)
    np.add.at(n, (true, given), 1)
    return n


def scores(x, true):
    "What the judge says of each image that it has not seen, a number for each class."
    said, goal = torch.empty(len(x), K), torch.eye(K)[true].double()
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        a = x[other].double()
        square = a.T @ a + RIDGE * torch.eye(a.shape[1]).double()
        weights = torch.linalg.solve(square, a.T @ goal[other])
        said[half] = x[half] @ weights.float()
    return said.numpy()


def alike(true, given, points):
    "Wrong labels that are also those of the nearest wrong image; all wrong labels."
    one, other = nearest(given != true, true, points)
    return [int((given[one] == given[other]).sum()), len(one)]


def alike_by_lot(true, given, points):
    "The same of twins, added up."
    rng = np.random.default_rng(0)
    each = [alike(true, twin(true, given, rng), points) for _ in range(TWINS)]
    return np.sum(each, axis=0).tolist()


def favorites(images, true):
    "How much of (25.1) one wrong class takes, on images in these units."
    p = instance_rows(images.flatten(1).numpy(), true, K, rate=0.4, spread=0, seed=1)
    p[np.arange(len(p)), true] = 0
    p /= p.sum(1, keepdims=True)
    return {
        "images": len(p),
        "mean": round(float(p.max(1).mean()), 4),
        "same twice": round(float((p**2).sum(1).mean()), 4),
        "above nine tenths": round(float((p.max(1) > 0.9).mean()), 4),
    }


def both_wrong(true, one, two):
    "Images wrong in both sets: with the same label; all; expected by the matrices."
    at = (one != true) & (two != true)
    a, b = (np.where(OFF, count(true, x), 0) for x in (one, two))
    same = ((a / a.sum(1, keepdims=True)) * (b / b.sum(1, keepdims=True))).sum(1)
    expected = float(same[true[at]].sum())
    return [int((at & (one == two)).sum()), int(at.sum()), round(expected, 1)]


def votes(d):
    "CIFAR-10H: votes by the class of the image."
    n = np.zeros((K, K), dtype=int)
    np.add.at(n, d.test_labels.numpy(), data.cifar10h(d.test_labels).numpy())
    said = "CIFAR-10H (Peterson et al. 2019), votes on the test images by their class"
    return {"labels": said, "counts": n.tolist()}


def errors(true, people):
    "Of three people, how many got an image wrong."
    return sum((people[f"cifar10n-random{i}"] != true).astype(int) for i in (1, 2, 3))


def of_people(true, people):
    "CIFAR-10N: counts by set; images of a class by how many of three err."
    erred = np.zeros((K, 4), dtype=int)
    np.add.at(erred, (true, errors(true, people)), 1)
    return {
        "labels": "CIFAR-10N (Wei et al. 2022), released file in torchvision's order",
        "counts": {name: count(true, x).tolist() for name, x in people.items()},
        "wrong_of_three": erred.tolist(),
    }


def instance(d, given, people):
    "All that chapter 25 asks of the labels."
    true = d.train_labels.numpy()
    given = {**given, PART: corrupted(d, NoiseSpec.instance(0.4), 1).numpy()}
    counts = {name: count(true, x).tolist() for name, x in given.items()}
    given |= {name: people[name] for name in ("cifar10n-random1", "cifar10n-worse")}

    said = scores(data.load("cifar10_patches").train_images.flatten(1).float(), true)
    others = said.copy()
    others[np.arange(len(true)), true] = -np.inf
    rival = others.argmax(1)
    margin = said[np.arange(len(true)), true] - others.max(1)
    fifth = np.empty(len(true), dtype=int)
    fifth[margin.argsort(kind="stable")] = np.arange(len(true)) * 5 // len(true)
    erred = errors(true, people)

    def by(groups):
        return {
            name: np.bincount(groups[x != true], minlength=groups.max() + 1).tolist()
            for name, x in given.items()
        }

    points = pooled(d.train_images.numpy(), 4)
    asked = (RELEASED[1], PART, "cifar10n-worse")
    first = d.train_images[:5000]
    pairs = [(20, 40), (20, 60), (40, 60)]
    return {
        "labels": "instance-dependent labels shipped with the code of Wang et al. 2024,"
        " in torchvision's order",
        "counts": {name: counts[name] for name in RELEASED},
        "drawn": {PART: counts[PART]},
        "by_people": by(erred),
        "by_fifth": by(fifth),
        "rival": {k: int(((x != true) & (x == rival)).sum()) for k, x in given.items()},
        "people": np.bincount(erred).tolist(),
        "fifths": np.bincount(fifth).tolist(),
        "judge": {
            "right": int((said.argmax(1) == true).sum()),
            "confusion": count(true, said.argmax(1)).tolist(),
            "rival": count(true, rival).tolist(),
        },
        "neighbors": {name: alike(true, given[name], points) for name in asked},
        "neighbors_twin": {k: alike_by_lot(true, given[k], points) for k in asked},
        "same_when_wrong_in_both": {
            f"{a} {b}": both_wrong(
                true, given[f"cifar10-instance-{a}"], given[f"cifar10-instance-{b}"]
            )
            for a, b in pairs
        },
        "favorite": {
            "standardized": favorites(
                standardize(d.train_images, first)[0][:5000], true[:5000]
            ),
            "from 0 to 1": favorites(first.float() / 255, true[:5000]),
        },
        "versions": versions(),
    }


def write(name, found):
    "As JSON, a row of numbers on a line."
    text = json.dumps(found, indent=1)
    text = re.sub(
        r"\[\s+([^][{}]*?)\s+\]", lambda row: f"[{' '.join(row[1].split())}]", text
    )
    (RESULTS / f"labels-{name}.json").write_text(text + "\n", "utf-8")


def main():
    d = data.load("cifar10")
    true = d.train_labels.numpy()
    people = {name: data.given_labels(name).numpy() for name in PEOPLE}
    released = {name: data.given_labels(name).numpy() for name in RELEASED}
    write("cifar10h", votes(d))
    write("cifar10n", of_people(true, people))
    found = instance(d, released, people)
    write("instance", found)
    for name in ("by_fifth", "rival", "neighbors", "neighbors_twin", "favorite"):
        print(f"{name}: {found[name]}")


if __name__ == "__main__":
    main()
