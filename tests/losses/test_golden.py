"""Values and gradients of the released ε-softmax code, for all its losses.

The numbers in tests/golden were printed by the code itself, in float64, from
the logits stored beside them. `python tests/losses/test_golden.py` prints the
largest relative error by loss.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from epsbook.losses import CELoss, Loss
from epsbook.losses.recipes import build_loss

GOLDEN = Path(__file__).parents[1] / "golden"
SPECS = json.loads((GOLDEN / "specs.json").read_text())
NUMBERS = dict(np.load(GOLDEN / "losses.npz"))
CASES = [
    (k, scale, seed)
    for k in (2, 10, 100)
    for scale in (1, 10, 100)
    for seed in (0, 1, 2)
]
# The released RCE and SCE add up max(p_k, 1e-8) over the wrong classes, which
# is 1 - p_y plus up to (K - 1) 1e-8; ours is 1 - p_y. The released LogitClip
# adds 1e-8 to the norm.
CLAMPED, SHIFTED = ("RCELoss", "SCELoss"), ("LogitClipLoss",)


class ReleasedRCE(Loss):
    "Reverse cross-entropy with the clamp of the released code."

    def _every(self, logits, **batch):
        p = logits.softmax(1).clamp_min(1e-8)
        return -math.log(1e-4) * (p.sum(1, keepdim=True) - p)


def has(spec, names):
    return any(term["loss"] in names for term in spec["terms"])


def tolerance(spec):
    return 1e-7 if has(spec, SHIFTED) else 1e-10


def build(spec, num_classes, released=False):
    "The loss of a spec, if asked with the clamp of the released RCE."
    total = 0
    for term in spec["terms"]:
        # The released MSE is a mean over the classes.
        factor = term.get("factor", 1)
        term = {**term, "factor": 1 / num_classes if factor == "1/K" else factor}
        if released and term["loss"] == "RCELoss":
            total = total + term["factor"] * ReleasedRCE()
        elif released and term["loss"] == "SCELoss":
            total = total + term["a"] * CELoss() + term["b"] * ReleasedRCE()
        else:
            total = total + build_loss([term])
    return total


def compare(spec, num_classes, scale, seed, released=False):
    """Relative errors of value and gradient (None if none is stored).

    The gradient's error is relative to its largest entry. Where a number is
    below 1e-5 both codes are left with the rounding of 1 - p_y, 1e-16: there
    the error is relative to 1e-5.
    """
    logits = torch.tensor(NUMBERS[f"logits_K{num_classes}_s{seed}"] * scale)
    target = torch.tensor(NUMBERS[f"labels_K{num_classes}_s{seed}"]).long()
    value = build(spec, num_classes, released)(logits.requires_grad_(), target)
    at = (2, 10, 100).index(num_classes), (1, 10, 100).index(scale), seed
    want = NUMBERS["value"][(spec["row"], *at)]
    value_error = abs(value.item() - want) / max(abs(want), 1e-5)
    stored = NUMBERS[f"grad_K{num_classes}_x{scale}"][spec["row"]]
    if seed >= len(stored):
        return value_error, None
    (got,) = torch.autograd.grad(value, logits)
    size = max(np.abs(stored[seed]).max(), 1e-5)
    return value_error, np.abs(got.numpy() - stored[seed]).max() / size


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["call"])
def test_equals_the_released_code(spec):
    for case in CASES:
        for error in compare(spec, *case, released=True):
            assert error is None or error <= tolerance(spec), (case, error)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if has(s, CLAMPED)], ids=lambda spec: spec["call"]
)
def test_rce_is_the_line_beside_the_clamp(spec):
    "Ours and theirs differ by the clamp and no more."
    for case in CASES:
        assert compare(spec, *case)[0] <= 1e-5
        num_classes, scale, seed = case
        x = torch.tensor(NUMBERS[f"logits_K{num_classes}_s{seed}"] * scale)
        y = torch.tensor(NUMBERS[f"labels_K{num_classes}_s{seed}"]).long()
        x.requires_grad_()
        both = [build(spec, num_classes, r)(x, y) for r in (False, True)]
        a, b = (torch.autograd.grad(value, x)[0] for value in both)
        (term,) = (t for t in spec["terms"] if t["loss"] in CLAMPED)
        share = term.get("b", term.get("factor", 1))
        assert (a - b).abs().max() <= share * 9.22 * num_classes * 1e-8


def test_every_loss_of_the_released_code_is_compared():
    kinds = {term["loss"] for spec in SPECS for term in spec["terms"]}
    assert len(SPECS) == 124 and len(NUMBERS["value"]) == 124
    assert len(kinds) == 18, sorted(kinds)


def test_another_number_is_seen():
    spec = {**SPECS[4], "terms": [{"loss": "MAELoss", "factor": 1.001}]}
    assert SPECS[4]["call"] == "MAELoss()"
    assert compare(spec, 10, 1, 0)[0] > tolerance(spec)


def main():
    worst = {}
    for spec in SPECS:
        kind = " + ".join(term["loss"] for term in spec["terms"])
        errors = [compare(spec, *case, released=True) for case in CASES]
        value = max(v for v, _ in errors)
        gradient = max(g for _, g in errors if g is not None)
        old = worst.get(kind, (0, 0, 0))
        worst[kind] = old[0] + 1, max(old[1], value), max(old[2], gradient)
    print("RCE with the clamp of the released code; without it values differ by 1e-6")
    print(f"{'loss':<24} specs    value  gradient")
    for kind, (count, value, gradient) in sorted(worst.items()):
        print(f"{kind:<24} {count:5} {value:8.1e}  {gradient:8.1e}")


if __name__ == "__main__":
    main()
