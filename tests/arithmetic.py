"""Run the notebooks and the tests that compute under the arithmetic of another machine.

PyTorch, NumPy and the libraries below them choose their code by the processor, and
so the order of a sum and the last digits of its result. Here each is told to take its
plainest code, without AVX and fused multiply-add, on one thread. What fails only here
prints or compares digits that the arithmetic does not promise: assert a bound,
round to what is claimed, or compare with a tolerance. Needs an x86-64 processor
with AVX2; takes ten minutes on two cores. With `--checkout` it leaves the notebooks
to `tests/alone.py --plain` and the library's tests to `tests/pythons.py --plain`.

Run: python tests/arithmetic.py [--checkout] [FILE ...]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
# How tests are spread; notebooks, whose cells share a kernel, have their own way.
SPREAD = ("-n", "auto", "--dist", "worksteal")
# Tests of pages and notebooks, and of what only the checkout has.
CHECKOUT = ("book", "package", "test_theorems.py")
# Tests that compute nothing: of texts, files, packages and pages.
OTHERS = "alone arithmetic book checkout drift ext files folders loss_curves map"
OTHERS += " notation packaging pythons widget"


def plain():
    "The environment in which every library takes its plainest code."
    simd = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return os.environ | {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": " ".join(simd),
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
        "OMP_NUM_THREADS": "1",
    }


def probe():
    "What this process computes with, and checksums of what it computes."
    a = np.random.default_rng(0).random((120, 120))
    x = torch.tensor(a)
    image = x.float().reshape(4, 9, 20, 20)
    weights = torch.linspace(-1, 1, 16 * 81).reshape(16, 9, 3, 3)
    results = {
        "the product of NumPy (OpenBLAS)": a @ a,
        "the exponential of NumPy": np.exp(a.astype(np.float32)),
        "the product of PyTorch (MKL)": (x @ x).numpy(),
        "the convolution of PyTorch (oneDNN)": torch.conv2d(image, weights).numpy(),
    }
    return {
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "sums": {
            k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in results.items()
        },
    }


def probed(environment, python=sys.executable):
    "The probe of a new process."
    command = [python, __file__, "--probe"]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(found.stdout)


def faults(here, there):
    "Sentences on what has not been switched, from two probes."
    if there["kernels"] != "DEFAULT":
        yield f"PyTorch has taken its {there['kernels']} kernels, not DEFAULT."
    if there["threads"] != 1:
        yield f"PyTorch has {there['threads']} threads, not 1."
    for name, checksum in there["sums"].items():
        if checksum == here["sums"][name]:
            yield f"All digits of {name} are the same as without the switch."


def refusal(python=sys.executable):
    "What of this Python cannot be switched, in sentences; or nothing."
    found = faults(probed(os.environ, python), probed(plain(), python))
    return "\n".join(found)


def computing(checkout=False):
    "Notebooks and test files that are not of other things; or what no wheel has."
    others = {f"test_{name}.py" for name in OTHERS.split()}
    tests = {path.name: path for path in sorted(ROOT.glob("tests/*/test_*.py"))}
    assert others <= tests.keys(), f"no such tests: {others - tests.keys()}"
    kept = [path for name, path in tests.items() if name not in others]
    names = [path.relative_to(ROOT / "tests") for path in kept]
    if checkout:
        names = [x for x in names if {x.parts[0], x.name} & set(CHECKOUT)]
    tests = [f"tests/{name.as_posix()}" for name in names]
    return tests if checkout else ["nbs", *tests]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="*", help="default: all that compute")
    only = "tests that need the checkout"
    parser.add_argument("--checkout", action="store_true", help=only)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        print(json.dumps(probe()))
        return 0
    if found := refusal():
        print(found, file=sys.stderr)
        return 1
    from alone import PARALLEL  # the probe of another Python has no notebooks

    files = asked.file or computing(asked.checkout)
    spread = PARALLEL if any("nbs" in file for file in files) else SPREAD
    pytest = [sys.executable, "-m", "pytest", "--nbval", "-m", "not long"]
    pytest += [*spread, *files]
    return subprocess.run(pytest, cwd=ROOT, env=plain()).returncode


if __name__ == "__main__":
    sys.exit(main())
