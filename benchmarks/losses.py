"""Forward and backward of each loss against `F.cross_entropy`, in one run.

Calls alternate, so that a busy machine slows all alike; the figure is the
median of the ratios. With a clone of the reference (github.com/cswjl/
eps-softmax) its losses stand beside ours. `memory` is what one pass at
256 x 50,000 takes beside its logits, over that of cross-entropy (Linux).
Large batches depend on whether the system takes memory back between passes,
as it does by default; `--kept-memory` keeps it, as training does.

Run: python benchmarks/losses.py [--reference CLONE] [--threads 2] [--only CE]
"""

import argparse
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from epsbook import losses as ours
from epsbook.losses.recipes import build_loss
from epsbook.train.memory import kept_memory

SHAPES = {(128, 10): 1000, (128, 100): 1000, (1024, 1000): 40, (256, 50_000): 8}
MAE = {"loss": "MAELoss"}
CE_EPS = {"loss": "EpsCELoss", "factor": 0.01, "m": 1e5}
FL_EPS = {"loss": "EpsFocalLoss", "factor": 0.01, "m": 1e5}
# Ours as terms, and the call of the reference, if it has one.
LOSSES = {
    "CE_eps+MAE": ([CE_EPS, MAE | {"factor": 5}], ("ECEandMAE", 1e5, 0.01, 5)),
    "CE": ([{"loss": "CELoss"}], ()),
    "MAE": ([MAE], ("MAELoss",)),
    "CE_eps": ([{"loss": "EpsCELoss", "m": 1e5}], ("ECELoss", 1e5)),
    "FL_eps": ([{"loss": "EpsFocalLoss", "m": 1e5}], ()),
    "FL_eps+MAE": ([FL_EPS, MAE | {"factor": 5}], ("EFLandMAE", 1e5, 0.01, 5)),
    "FL": ([{"loss": "FocalLoss"}], ("FocalLoss",)),
    "clipped CE": ([{"loss": "ClippedCELoss", "max_loss": 2}], ()),
    "GCE": ([{"loss": "GCELoss"}], ("GCELoss",)),
    "RCE": ([{"loss": "RCELoss"}], ("RCELoss",)),
    "SCE": ([{"loss": "SCELoss", "a": 0.1, "b": 1}], ("SCELoss", 0.1, 1)),
    "AGCE": ([{"loss": "AGCELoss", "a": 0.6, "q": 0.6}], ("AGCELoss", 0.6, 0.6)),
    "AUL": ([{"loss": "AULLoss", "a": 5.5, "q": 3}], ("AUELoss", "K", 5.5, 3)),
    "AEL": ([{"loss": "AELLoss", "a": 2.5}], ("AExpLoss", 2.5)),
    "adaptation": (
        [{"loss": "NoiseAdaptationLoss", "noise_rate": 0.3, "inclusive": True}],
        (),
    ),
    "MSE": ([{"loss": "MSELoss"}], ("MSELoss",)),
    "NCE": ([{"loss": "NCELoss"}], ("NCELoss",)),
    "NCE+RCE": ([{"loss": "NCELoss"}, {"loss": "RCELoss"}], ("NCEandRCE",)),
    "NFL": ([{"loss": "NFLLoss", "detach_factor": True}], ("NormalizedFocalLoss",)),
    "NNCE": ([{"loss": "NNCELoss"}], ("NormalizedNegativeCrossEntropy",)),
    "NNFL": (
        [{"loss": "NNFLLoss", "detach_factor": True}],
        ("NormalizedNegativeFocalLoss",),
    ),
    "LDR": ([{"loss": "LDRLoss"}], ("LDRLoss_V1",)),
    "LogitClip": ([{"loss": "LogitClipLoss", "max_norm": 1}], ("CEandLC", 1)),
    "GLS": ([{"loss": "GLSLoss", "r": -0.4}], ()),
    "forward": ([{"loss": "ForwardLoss"}], ()),
    "backward": ([{"loss": "BackwardLoss"}], ()),
    "NLNL": ([{"loss": "NLNLLoss"}], ()),
    "NLNL mean": ([{"loss": "NLNLLoss", "num_draws": None}], ()),
    "peer": ([{"loss": "PeerLoss"}], ()),
    "bootstrap": ([{"loss": "BootstrapLoss", "beta": 0.8}], ()),
    "ELR": ([{"loss": "ELRLoss", "num_samples": 2000}], ()),
    "AMSE": ([{"loss": "AMSELoss", "a": 30}], ()),
    "sparsity": ([{"loss": "SparsityLoss", "p": 0.1}], ()),
    "variation": ([{"loss": "BoundedVariationCELoss", "a": 1}], ()),
    "JS": ([{"loss": "JSLoss", "pi": 0.5}], ()),
    "Taylor": ([{"loss": "TaylorCELoss", "order": 6}], ()),
    "truncated": ([{"loss": "TruncatedGCELoss"}], ()),
    "temperature": ([{"loss": "TemperatureCELoss", "temperature": 0.5}], ()),
    "bi-tempered": ([{"loss": "BiTemperedLoss", "t1": 0.8, "t2": 1.2}], ()),
    "DMI": ([{"loss": "DMILoss"}], ()),
}
MATRIX = ("ForwardLoss", "BackwardLoss")


def build(terms, k):
    "Ours for k classes; matrices beyond 1,000 classes are left out (None)."
    name = terms[0]["loss"]
    if name in MATRIX:
        if k > 1000:
            return None
        return getattr(ours, name)(transition=0.6 * torch.eye(k) + 0.4 / k)
    if name == "ELRLoss":
        loss = ours.ELRLoss(num_samples=2000, num_classes=k)
        return lambda x, y: loss(x, y, index=torch.arange(len(y)))
    return build_loss(terms)


def reference_losses(clone):
    spec = importlib.util.spec_from_file_location("reference", clone / "losses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(loss, logits, target):
    logits.grad = None
    start = time.perf_counter()
    loss(logits, target).backward()
    return time.perf_counter() - start


def ratios(losses, n, k, rounds):
    "Median time of each loss over that of cross-entropy."
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(n, k, generator=g, requires_grad=True)
    target = torch.randint(k, (n,), generator=g)
    found = []
    for loss in losses:  # in pairs: a third loss would cool the caches
        pairs = [
            [seconds(f, logits, target) for f in (loss, F.cross_entropy)]
            for _ in range(rounds + rounds // 10 + 1)
        ]
        kept = pairs[rounds // 10 + 1 :]
        found.append(statistics.median(a / b for a, b in kept))
    return found


def peak(name):
    "Memory, in bytes, that one pass of a fresh process takes beside its logits."
    command = [sys.executable, __file__, "--peak", name]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout)


def run_once(name):
    loss = F.cross_entropy if name == "torch" else build(LOSSES[name][0], 50_000)
    if loss is None:
        return print(0)
    small = torch.randn(2, 50_000, requires_grad=True)
    loss(small, torch.tensor([0, 1])).backward()  # whatever it imports
    logits = torch.randn(256, 50_000, requires_grad=True)
    target = torch.randint(50_000, (256,))
    before = resident("VmRSS")
    loss(logits, target).backward()
    print(resident("VmHWM") - before)


def resident(kind):
    "Resident memory of this process in bytes: now (VmRSS) or at most (VmHWM)."
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) * 1024


def cells(name, module, compiled):
    "Ours, and the reference in brackets, for each shape."
    terms, call = LOSSES[name]
    for (n, k), rounds in SHAPES.items():
        pair = [build(terms, k)]
        if compiled and pair[0] is not None:
            torch.compiler.reset()
            pair = [torch.compile(pair[0], fullgraph=True, dynamic=False)]
        if module and call:
            arguments = [k if a == "K" else a for a in call[1:]]
            pair.append(getattr(module, call[0])(*arguments))
        if pair[0] is None:
            yield "-"
            continue
        mine, *theirs = ratios(pair, n, k, rounds)
        yield f"{mine:.2f}" + "".join(f" ({r:.1f})" for r in theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=LOSSES, action="append")
    parser.add_argument("--compile", action="store_true", help="ours")
    parser.add_argument("--kept-memory", action="store_true", help="for both")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        return run_once(options.peak)
    module = options.reference and reference_losses(options.reference)
    heads = [f"{n}x{k}" for n, k in SHAPES]
    print("loss       ", *(h.rjust(13) for h in heads), " memory", flush=True)
    base = peak("torch")
    memory_kept = kept_memory if options.kept_memory else contextlib.nullcontext
    for name in tqdm(options.only or LOSSES, disable=None):
        with memory_kept():
            found = list(cells(name, module, options.compile))
        row = [c.rjust(13) for c in found]
        memory = peak(name) / base
        print(f"{name:<11}", *row, f"{memory:7.2f}", flush=True)


if __name__ == "__main__":
    main()
