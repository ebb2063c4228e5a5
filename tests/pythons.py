"""Run the library's tests on every Python it is said to run on, from the wheel.

Each Python gets a virtual environment with the wheel and what the tests import, at
the versions of requirements.lock where that Python has them. They take 6 GB each
where torch comes with CUDA, so they are kept and used again. Tests that read
notebooks or pages stay with the checkout. A Python that is not here is named. With
`--plain` the arithmetic is that of `tests/arithmetic.py`: one pass for two questions.
`--prepare` only installs, so that it may be done beside something else.

Run: python tests/pythons.py [--venvs FOLDER] [--only WORDS] [--plain] [3.12 ...]
     python tests/pythons.py --prepare [3.12 ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import arithmetic
from alone import ROOT, build_wheel
from arithmetic import CHECKOUT, SPREAD

PYTHONS = ("3.11", "3.12", "3.13")
NEEDS = "torchvision scikit-learn pooch pandas hypothesis jsonschema".split()
NEEDS += ["pytest", "pytest-xdist"]


def candidates(version):
    "Interpreters that may be this Python, the newest of pyenv first."
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = root.glob(f"versions/{version}.*/bin/python")
    yield from sorted(
        found, key=lambda p: (len(p.parts[-3]), p.parts[-3]), reverse=True
    )
    if path := shutil.which(f"python{version}"):
        yield Path(path)


def full_version(python):
    "Such as 3.12.1; nothing, if it does not start."
    ask = [python, "-Ic", "import platform; print(platform.python_version())"]
    try:
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def find_python(version):
    "An interpreter that is this Python, or None: a shim of pyenv may be none."
    for path in candidates(version):
        if full_version(path).startswith(f"{version}."):
            return path
    return None


def environment(folder, python):
    "The interpreter of the virtual environment in this folder, made if need be."
    inner = folder / "bin" / "python"
    if full_version(inner) != full_version(python):
        make = [python, "-m", "venv", "--clear", folder]
        subprocess.run(make, check=True)
    return inner


def install(python, wheel):
    "The wheel and what its tests need; the locked versions, if they can be had."
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locked = ["--constraint", ROOT / "requirements.lock"]
    if subprocess.run([*pip, *locked, wheel, *NEEDS]).returncode:
        print("The locked versions do not install here; these are newer ones.")
        subprocess.run([*pip, wheel, *NEEDS], check=True)
    # A wheel of the same version is not installed again unless one says so.
    subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)


def gather(folder):
    "The tests that can do without the checkout, in a folder of their own."
    tests = folder / "tests"
    ignore = shutil.ignore_patterns("__pycache__", *CHECKOUT)
    shutil.copytree(ROOT / "tests", tests, ignore=ignore)
    (folder / "nbs").mkdir()
    for name in ("conftest.py", "pyproject.toml", "nbs/references.bib"):
        shutil.copy(ROOT / name, folder / name)


def run(python, folder, only="", plain=False):
    "Counts of the tests by what became of them; the package is the wheel's."
    if plain and (why := arithmetic.refusal(python)):
        raise RuntimeError(why)
    chosen = arithmetic.plain() if plain else os.environ
    clean = {k: v for k, v in chosen.items() if k != "PYTHONPATH"}
    ask = [python, "-c", "import epsbook; print(epsbook.__file__)"]
    told = subprocess.check_output(ask, cwd=folder, env=clean, text=True)
    if not Path(told.strip()).is_relative_to(python.parents[1]):
        raise RuntimeError(f"epsbook comes from {told.strip()}, not from the wheel")
    report = folder / "report.xml"
    pytest = [python, "-m", "pytest", "-rfE", f"--junitxml={report}", "tests"]
    pytest += ["-m", "not long", *SPREAD]
    pytest += ["-k", only] if only else []
    code = subprocess.run(pytest, cwd=folder, env=clean).returncode
    return code, counts(report)


def counts(report):
    "Such as '12 failed, 900 passed, 30 skipped'."
    suite = next(ET.parse(report).iter("testsuite")).attrib
    names = ("tests", "failures", "errors", "skipped")
    total, failed, errors, skipped = (int(suite[name]) for name in names)
    passed = total - failed - errors - skipped
    found = {"failed": failed + errors, "passed": passed, "skipped": skipped}
    return ", ".join(f"{n} {name}" for name, n in found.items() if n)


def check(version, venvs, wheel, only="", plain=False):
    "Exit status, and the row of the table, of one Python."
    python, start = find_python(version), time.monotonic()
    if python is None:
        return None, (version, "not found", "")
    print(f"--- {full_version(python)}: {python}", flush=True)
    try:
        inner = environment(venvs / version, python)
        install(inner, wheel)
        with tempfile.TemporaryDirectory(prefix="epsbook-") as folder:
            folder = Path(folder).resolve()
            gather(folder)
            code, result = run(inner, folder, only, plain)
            result += ", plain arithmetic" if plain else ""
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
        code, result = 1, f"not tested: {error}"
    return code, (full_version(python), result, f"{time.monotonic() - start:.0f}")


def prepare(versions, venvs, wheel):
    "Install for those of these Pythons that are here."
    for version in versions:
        if python := find_python(version):
            install(environment(venvs / version, python), wheel)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("python", nargs="*", help=f"default: {' '.join(PYTHONS)}")
    kept = ROOT / "_build" / "pythons"
    parser.add_argument("--venvs", type=Path, default=kept, help="default: %(default)s")
    parser.add_argument("--only", default="", help="tests, as pytest's -k has them")
    parser.add_argument("--plain", action="store_true", help="plain arithmetic")
    parser.add_argument("--prepare", action="store_true", help="install, test nothing")
    asked = parser.parse_args()
    venvs, versions = asked.venvs.resolve(), asked.python or PYTHONS
    with tempfile.TemporaryDirectory(prefix="epsbook-") as folder:
        wheel = build_wheel(Path(folder))
        if asked.prepare:
            return prepare(versions, venvs, wheel)
        how = asked.only, asked.plain
        found = [check(v, venvs, wheel, *how) for v in versions]
    print(f"\n{'python':<9} {'result':<52} seconds")
    for _, (version, result, seconds) in found:
        print(f"{version:<9} {result:<52} {seconds:>7}")
    missing = [row[0] for code, row in found if code is None]
    if missing:
        print(f"Not tested, because not on this machine: {', '.join(missing)}")
    return any(code for code, _ in found)


if __name__ == "__main__":
    sys.exit(main())
