"""How many wrong labels are found, by which network and which rule, at what cost.

Each case is a cross-validation whose answers are held against the true labels:
what every filter and ranking of cleanlab finds, beside rankings by the loss of one
sample, out of sample and in sample. Rows go into results/issues.json, a row for each
case that is not there yet; chapter 14 reads them.

Run: python benchmarks/find_labels.py [--only WORDS]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cleanlab.count import compute_confident_joint, num_label_issues
from cleanlab.rank import get_label_quality_scores
from crowdkit.aggregation import DawidSkene
from sklearn.metrics import average_precision_score

from epsbook import data, noise, train
from epsbook.confident import RULES, find_issues, out_of_sample
from epsbook.losses import CELoss, GCELoss, NCELoss
from epsbook.runs.named import named_noise
from epsbook.train.machine import hardware, versions
from epsbook.train.measure import corrupted

FILE = Path(__file__).resolve().parents[1] / "results" / "issues.json"
SCORES = "self_confidence", "normalized_margin", "confidence_weighted_entropy"
LOSSES = {"ce": CELoss(), "gce": GCELoss(q=0.7)}
DIGITS = ("symmetric:0.2", "symmetric:0.4", "pair:0.2", "pair:0.4")
FOLDS = 5


def cases():
    "Data set, noise, loss, epochs, seed: the most telling first."
    short = [("digits", x, "ce", 10) for x in DIGITS]
    long = [("digits", "symmetric:0.4", x, 40) for x in ("ce", "gce")]
    for seed in range(1, 6):
        yield from ((*case, seed) for case in short + long)
    people = [("cifar10n-worse", 3), ("cifar10n-aggre", 3), ("cifar10n-random1", 1)]
    for name, seeds in people:
        for seed in range(1, seeds + 1):
            yield "cifar10_patches", name, "ce", 10, seed
    for loss in LOSSES:
        yield "cifar10_patches", "cifar10n-worse", loss, 40, 1


def in_sample(d, spec, loss, protocol, seed):
    "Probabilities of a network that has been trained on all of it."
    found = []

    def keep(net):
        with torch.no_grad():
            parts = [net(x).double() for x in d.train_images.split(256)]
        found.append(torch.cat(parts).softmax(1))

    train.fit(d, spec, loss, protocol, seed, "cpu", then=keep)
    return found[0]


def precision(wrong, doubt):
    return round(float(average_precision_score(wrong, doubt)), 4)


def rankings(probs, given, wrong):
    "Average precision of each score, and of the loss of one sample."
    p, y = probs.numpy(), given.numpy()
    found = {x: -get_label_quality_scores(y, p, method=x) for x in SCORES}
    logits = probs.clamp_min(1e-300).log()
    for name, loss in (LOSSES | {"nce": NCELoss()}).items():
        found[name] = loss.per_sample(logits, given).numpy()
    return {name: precision(wrong, doubt) for name, doubt in found.items()}


def measured(name, asked, kind, epochs, seed):
    "One row."
    d, spec, loss = data.load(name), named_noise(asked, name), LOSSES[kind]
    protocol = train.protocol_for(name, "laptop", epochs=epochs, validation=0)
    given = corrupted(d, spec, seed)
    wrong = (given != d.train_labels).numpy()
    start = time.perf_counter()
    probs = out_of_sample(d, spec, loss, protocol, folds=FOLDS, seed=seed, device="cpu")
    seconds = time.perf_counter() - start
    p, y = probs.numpy(), given.numpy()
    filters = {}
    for rule in RULES:
        mask = find_issues(y, p, rule)
        filters[rule] = [int(mask.sum()), int((mask & wrong).sum())]
    order = np.argsort(get_label_quality_scores(y, p), kind="stable")[:24]
    top = probs.argmax(1)
    return {
        "dataset": name,
        "noise": spec.to_dict(),
        "asked": asked,
        "loss": repr(loss),
        "method": kind,
        "protocol": protocol.to_dict(),
        "folds": FOLDS,
        "seed": seed,
        "label_sha256": noise.label_sha256(given),
        "wrong": int(wrong.sum()),
        "estimated": int(num_label_issues(y, p)),
        "joint": np.asarray(compute_confident_joint(y, p)).tolist(),
        "right": round(float((top == d.train_labels).double().mean()), 4),
        "agrees": round(float((top == given).double().mean()), 4),
        "filters": filters,
        "out_of_sample": rankings(probs, given, wrong),
        "in_sample": rankings(in_sample(d, spec, loss, protocol, seed), given, wrong),
        "most_doubted": [[int(i), int(top[i])] for i in order],
        "seconds": round(seconds, 1),
        "hardware": hardware("cpu"),
        "versions": versions(),
    }


def annotators():
    "Wrong labels of CIFAR-10N: of one person, of a majority, of Dawid and Skene."
    votes = [data.given_labels(f"cifar10n-random{i}").numpy() for i in (1, 2, 3)]
    true = data.load("cifar10").train_labels.numpy()
    table = pd.DataFrame({"task": np.tile(np.arange(len(true)), 3)})
    table["worker"] = np.repeat([1, 2, 3], len(true))
    table["label"] = np.concatenate(votes)
    one, two, three = votes
    pairs = (one == two).astype(int) + (two == three) + (one == three)
    answers = {
        "released majority": data.given_labels("cifar10n-aggre").numpy(),
        "dawid_skene": DawidSkene(100).fit_predict(table).sort_index().to_numpy(),
    }
    answers |= {f"person {i + 1}": votes[i] for i in range(3)}
    shares = {"agree": pairs == 3, "two agree": pairs == 1, "differ": pairs == 0}
    return {
        "images": {name: int(which.sum()) for name, which in shares.items()},
        "wrong": {
            name: {x: int((found != true)[which].sum()) for x, which in shares.items()}
            for name, found in answers.items()
        },
    }


def write(held):
    "One run a line."
    runs = ",\n  ".join(json.dumps(r) for r in held["runs"])
    votes = json.dumps(held["annotators"])
    FILE.write_text(f'{{"annotators": {votes},\n "runs": [\n  {runs}]}}\n', "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has these words")
    only = parser.parse_args().only.split()
    held = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"runs": []}
    held["annotators"], rows = annotators(), held["runs"]
    write(held)
    for case in cases():
        known = [
            (r["dataset"], r["asked"], r["method"], r["protocol"]["epochs"], r["seed"])
            for r in rows
        ]
        if case in known or not all(x in " ".join(map(str, case)) for x in only):
            continue
        rows.append(measured(*case))
        write(held)
        print(*case, rows[-1]["filters"]["prune_by_noise_rate"], rows[-1]["wrong"])


if __name__ == "__main__":
    main()
