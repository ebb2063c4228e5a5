"""Images a second in training, ours beside the released code of Wang et al. (2024).

Rows take turns after one turn each to warm up, so that a busy machine slows all alike,
and each has a process of its own, so that none gets memory that another left behind.
`x` is images/s over those of the first row: the median of the ratios round by round,
the lowest and the highest. `pipeline` and `switches` time epochs of `--batches` batches
of 128 (MNIST: five times as many), from drawing order and moves to SGD (cross-entropy,
true labels), `augment` one thread up to normalized batches, `import` fresh processes,
`faithful` the published run on a GPU, measurements too. Images that EPSBOOK_DATA lacks
are random. The reference loads with `--workers` processes, as released with 8. Goals
are over the reference.
Run: python benchmarks/training.py [--reference CLONE] [--only pipeline] [--json FILE]
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from epsbook import data, losses, noise, train
from epsbook.data import images
from epsbook.train import machine, measure
from epsbook.train.augment import augmented
from epsbook.train.memory import kept_memory

SIZES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
PLAIN = {"precision": "fp32", "channels_last": False}
LAST, BF16 = PLAIN | {"channels_last": True}, PLAIN | {"precision": "bf16"}
FULL = {"precision": "bf16", "channels_last": True}
SETTINGS = {"fp32": PLAIN, "fp32 without kept memory": PLAIN}
SETTINGS |= {"fp32 channels_last": LAST, "bf16 channels_last": FULL}
GOALS = {"cifar10": {"fp32": 1.1, "bf16 channels_last": 2}, "augment": {"ours": 2.5}}
GOALS["mnist"] = {"fp32": 2, "bf16 channels_last": 5}


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def serve(pipe, o, make, kept):
    "Times the call that `make` makes, whenever it is asked to."
    torch.set_num_threads(o.threads)
    if o.reference:  # before this folder, which has a losses.py too
        sys.path.insert(0, o.reference)
        sys.dont_write_bytecode = True
    memory = kept_memory() if kept else contextlib.nullcontext()
    with memory, torch.backends.cudnn.flags(True, deterministic=True):
        call = make(o)
        while pipe.recv():
            pipe.send(seconds(call))


def asked(pipe):
    pipe.send(True)
    return pipe.recv()


@contextlib.contextmanager
def processes(o, makes):
    "A pipe to each row's process."
    spawn, pipes, running = multiprocessing.get_context("spawn"), {}, []
    for name, make in makes.items():
        pipes[name], end = spawn.Pipe()
        kept = name != "reference" and "without kept memory" not in name
        running.append(spawn.Process(target=serve, args=(end, o, make, kept)))
        running[-1].start()
        end.close()
    try:
        yield pipes
        for pipe in pipes.values():
            pipe.send(False)
    except BaseException:
        for process in running:
            process.terminate()
        raise
    finally:
        for process in running:
            process.join()


def alternate(calls, rounds, clock):
    "Seconds of each call in each round, by name."
    bar = tqdm(range(rounds + 1), leave=False, disable=None)
    rows = [[clock(call) for call in calls.values()] for _ in bar]
    return dict(zip(calls, np.array(rows[1:]).T, strict=True))


def show(o, table, name, found=(), unit="x", goal=None, **numbers):
    "One row on the screen and, with hardware and versions, in the file."
    row = {"table": table, "name": name, "goal": goal} | numbers
    text = "".join(f"  {value:,.2f} {key}" for key, value in numbers.items())
    if len(found):
        middle, low, high = row[unit] = np.quantile(found, (0.5, 0, 1)).tolist()
        text += f"  {middle:.2f} {unit} ({low:.2f} to {high:.2f})"
    text += f"  goal {goal} {unit}" if goal else ""
    print(f"{table:<8}  {name:<29}{text}", flush=True)
    if o.json:
        row |= {k: getattr(o, k) for k in ("random", "rounds", "batches", "workers")}
        row |= {"hardware": machine.hardware(o.device), "versions": machine.versions()}
        with open(o.json, "a") as file:
            file.write(json.dumps(row) + "\n")


def speeds(o, table, data_name, makes, goals):
    with processes(o, makes) as pipes:
        times = alternate(pipes, o.rounds, asked)
    o = argparse.Namespace(**vars(o) | {"batches": batches(o, data_name)})
    for name, found in times.items():
        speed = {"images/s": o.batches * 128 / float(np.median(found))}
        goal = goals.get(name) if "reference" in times else None
        ratios = next(iter(times.values())) / found
        show(o, table, f"{data_name} {name}", ratios, goal=goal, **speed)


def batches(o, name):
    return o.batches * (5 if name == "mnist" else 1)


def dataset(o, name, n=0):
    "A data set with n images to train on; random ones if there are no others."
    n = n or batches(o, name) * 128
    if name in o.random:
        x = torch.randint(256, (n, *SIZES[name]), dtype=torch.uint8)
        y = torch.arange(n) % 10
        return data.Dataset(name, x, y, x[:10_000], y[:10_000], 10)
    d = data.load(name)
    return replace(d, train_images=d.train_images[:n], train_labels=d.train_labels[:n])


def start(o, d, **changes):
    protocol = train.protocol_for(d.name, "paper", **changes).resolved(o.device)
    s = measure.split(d, d.train_labels, protocol, 0, o.device)
    return train._start(s, losses.CELoss(), protocol, 0)


def loader(o, d, workers):
    "torchvision's data set with the transforms of the reference."
    from datasets.transformers import get_transforms
    from torchvision import datasets

    kind, gray = getattr(datasets, d.name.upper()), d.name == "mnist"
    made = kind.__new__(kind)  # __init__ would read files
    x, y = d.train_images.permute(0, 2, 3, 1).contiguous(), d.train_labels
    made.data, made.targets = (x[..., 0], y) if gray else (x.numpy(), y.tolist())
    made.transform, made.target_transform = get_transforms(d.name)[0], None
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(made, 128, True, pin_memory=o.device != "cpu", **options)


def fed(found, net, logits, optimizer, loss, device, released):
    "An epoch of images from a loader; the released code waits at each step."
    total, _ = 0, net.train()
    with torch.backends.cudnn.flags(True, released, deterministic=not released):
        for x, y in found:
            optimizer.zero_grad()
            value = loss(logits(x.to(device)), y.to(device))
            value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            total += value.item() if released else value.detach()
    float(total)


def their_epoch(name, o):
    from config import get_loss_config
    from models import CNN

    net, p = CNN(name).to(o.device), train.protocol_for(name, "paper")
    sgd = torch.optim.SGD(net.parameters(), p.lr, p.momentum, 0, p.weight_decay)
    loss = get_loss_config(argparse.Namespace(loss="CE", dataset=name))
    found = loader(o, dataset(o, name), o.workers)
    return partial(fed, found, net, net, sgd, loss, o.device, True)


def our_epoch(name, o, change=lambda run: None, **settings):
    run = start(o, dataset(o, name), **settings)
    change(run)
    return partial(train._epoch, run)


def loaded_epoch(name, o):
    "Ours at the full setting, fed by their loader, which normalizes."
    d = dataset(o, name)
    run = start(o, d, **FULL)
    pixels = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
    bf16 = torch.autocast(run.labels.device.type, torch.bfloat16)
    parts = run.net, bf16(lambda x: run.net.net(pixels(x))), run.optimizer, run.loss
    return partial(fed, loader(o, d, o.workers), *parts, o.device, False)


def pipeline(o):
    for name in ("cifar10", "mnist"):
        makes = {"reference": partial(their_epoch, name)} if o.reference else {}
        for setting, changes in SETTINGS.items():
            makes[setting] = partial(our_epoch, name, **changes)
        speeds(o, "pipeline", name, makes, GOALS[name])


def load_only(name, o):
    return partial(all, loader(o, dataset(o, name), 0))  # `all` takes every batch


def move_only(run):
    run.net.net = torch.nn.Identity()
    run.step = lambda b: run.net(augmented(run.images, b, run.moves))[0, 0, 0, :2]


def augment(o):
    "On one thread."
    o = argparse.Namespace(**vars(o) | {"device": "cpu", "threads": 1})
    for name in ("cifar10", "cifar100"):
        makes = {"reference": partial(load_only, name)} if o.reference else {}
        small = {"network": "cifar_cnn_half"} | PLAIN
        makes["ours"] = partial(our_epoch, name, change=move_only, **small)
        speeds(o, "augment", name, makes, GOALS["augment"])


def asking(run):
    step = run.step
    run.step = lambda b: ((found := step(b))[0].item(), found[1])


def eager(run):
    run.step = partial(train._step, run)


def compiled(run):
    run.net.compile()


def switches(o):
    off = {"all": FULL, "without bf16": LAST, "without channels_last": BF16}
    off |= {"without kept memory": FULL}
    changed = {".item() each step": asking}
    if o.device != "cpu":
        changed |= {"without CUDA graph": eager}
    if o.compile:
        changed |= {"with torch.compile": compiled}
    for name in ("mnist", "cifar10"):
        makes = {k: partial(our_epoch, name, **v) for k, v in off.items()}
        for k, change in changed.items():
            makes[k] = partial(our_epoch, name, change=change, **FULL)
        if o.reference:
            makes["PIL in a DataLoader"] = partial(loaded_epoch, name)
        speeds(o, "switches", name, makes, {})


def imports(o):
    names = "torch", "torch, epsbook.train", "epsbook"
    code = "from time import time as t; s = t(); import {}; print(t() - s)"
    calls = {k: [sys.executable, "-c", code.format(k)] for k in names}
    times = alternate(calls, o.rounds, lambda c: float(subprocess.check_output(c)))
    times["epsbook.train after torch"] = times[names[1]] - times["torch"]
    for name, found in times.items():
        show(o, "import", name, found, "s", 0.3 if "after" in name else None)


def published(o, d, epochs=120):
    "Medians of the epochs after the first, which warms up and records; the memory."
    torch.cuda.reset_peak_memory_stats(o.device)
    protocol = train.protocol_for("cifar10", "paper", epochs=epochs)
    protocol = protocol.resolved(o.device)
    given = measure.corrupted(d, noise.NoiseSpec.symmetric(0.6), 0)
    s = measure.split(d, given, protocol, 0, o.device)
    loss = losses.recipe("ce_eps+mae", dataset="cifar10", rate=0.6)
    run, rows = train._start(s, loss, protocol, 0), []
    for _ in tqdm(range(o.epochs), leave=False, disable=None):
        calls = partial(train._epoch, run), partial(measure.scores, run.net, s)
        rows.append([seconds(call) for call in calls])
        run.schedule.step()
    first, (fit, tests) = sum(rows[0]), np.median(rows[1:] or rows, axis=0)
    row = {"images/s": len(s.y) / fit, "s train": fit, "s measure": tests}
    row["s first epoch"] = first
    row[f"min {epochs} epochs"] = (first + (epochs - 1) * (fit + tests)) / 60
    row["GiB at most"] = torch.cuda.max_memory_allocated(o.device) / 2**30
    return {k: float(v) for k, v in row.items()}


def plain(step, *_):
    return step


def faithful(o):
    if not o.device.startswith("cuda"):
        return print("faithful  needs a GPU: left out")
    d = dataset(o, "cifar10", 50_000)
    for name, recorded in ("CUDA graphs", train.recorded), ("none", plain):
        gc.collect()
        with patch.object(train, "recorded", recorded):
            show(o, "faithful", f"cifar10 {name}", **published(o, d))


TABLES = {"import": imports, "pipeline": pipeline, "augment": augment}
TABLES |= {"switches": switches, "faithful": faithful}
OPTIONS = {"reference": "", "json": "", "rounds": 7, "batches": 20, "epochs": 4}
OPTIONS |= {"workers": 8, "threads": torch.get_num_threads()}
OPTIONS["device"] = "cuda" if torch.cuda.is_available() else "cpu"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=TABLES, action="append")
    parser.add_argument("--compile", action="store_true", help="among the switches")
    for name, value in OPTIONS.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    o = parser.parse_args()
    o.random = [k for k in SIZES if not all(p.exists() for p in images.image_files(k))]
    print(machine.hardware(o.device)["name"], "| random:", *o.random or ["none"])
    with torch.backends.cudnn.flags(True, deterministic=True):  # as `fit` has it
        for name in o.only or TABLES:
            TABLES[name](o)


if __name__ == "__main__":
    main()
