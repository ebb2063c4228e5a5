"""Run each notebook alone: from the wheel, in an empty folder of its own.

So does a reader who has installed the library and downloaded one chapter. Outputs
are compared by nbval, as strictly as `pytest --nbval nbs` does in the checkout. With
`--plain` the arithmetic is that of `tests/arithmetic.py`, where the processor has it:
what is stored was printed by another one.

Run: python tests/alone.py [--plain] [NOTEBOOK ...]
"""

import argparse
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import arithmetic
import nbformat

# A notebook has one kernel, so its cells stay in one process.
PARALLEL = ("-n", "auto", "--dist", "loadfile")
ROOT = Path(__file__).resolve().parents[1]


def build_wheel(folder):
    "The wheel, built from a copy: a build leaves folders beside its source."
    source = folder / "source"
    for name in ("epsbook", "results"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index"]
    pip += ["--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(pip, check=True)
    return next(folder.glob("epsbook-*.whl"))


def faults(site, checkout, notebook):
    "Sentences on modules that are not the wheel's, and on files beside a notebook."
    import sys
    from pathlib import Path

    import epsbook  # noqa: F401

    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or sys.prefix)
        stray = path.is_relative_to(checkout) and not path.is_relative_to(sys.prefix)
        if name.split(".")[0] == "epsbook":
            stray = not path.is_relative_to(site)
        if stray:
            yield f"{name} comes from {path}, not from the wheel."
    for path in Path(notebook).parent.iterdir():
        if path != Path(notebook):
            yield f"{path.name} was written beside the notebook."


def place(notebook):
    "Name of its folder: two rooms may have a notebook of one name."
    inside = notebook.resolve().is_relative_to(ROOT / "nbs")
    path = (
        notebook.resolve().relative_to(ROOT / "nbs") if inside else Path(notebook.name)
    )
    return "-".join(path.with_suffix("").parts)


def isolate(notebook, folder, site):
    "Copy a notebook alone into a new folder; a last cell fails if it was not alone."
    folder.mkdir()
    copy = folder / notebook.name
    cell = f"""\
# Added to the copy of this notebook by tests/alone.py.
{inspect.getsource(faults)}
found = list(faults({str(site)!r}, {str(ROOT)!r}, {str(copy)!r}))
assert not found, "\\n".join(found)"""
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell(cell))
    nbformat.write(content, copy)


def run(notebooks, folder, site, environment=os.environ):
    "Exit status of pytest on each notebook, alone in a folder, with a site first."
    folder.mkdir()
    for name in ("conftest.py", "pyproject.toml"):  # the checkout's own pytest
        shutil.copy(ROOT / name, folder)
    for notebook in notebooks:
        isolate(notebook, folder / place(notebook), site)
    paths = [str(site), environment.get("PYTHONPATH")]
    environment = environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    pytest = [sys.executable, "-m", "pytest", "--nbval", *PARALLEL, "."]
    return subprocess.run(pytest, cwd=folder, env=environment).returncode


def plainest():
    "The environment of plain arithmetic, or of this machine's if it has no other."
    if found := arithmetic.refusal():
        print(f"This machine's own arithmetic:\n{found}", flush=True)
        return os.environ
    return arithmetic.plain()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all in nbs/")
    parser.add_argument("--plain", action="store_true", help="plain arithmetic")
    asked = parser.parse_args()
    notebooks = asked.notebook or sorted(ROOT.glob("nbs/**/[!.]*.ipynb"))
    environment = plainest() if asked.plain else os.environ
    with tempfile.TemporaryDirectory(prefix="epsbook-") as folder:
        folder = Path(folder).resolve()
        site = folder / "site"
        shutil.unpack_archive(build_wheel(folder), site, "zip")
        return run(notebooks, folder / "nbs", site, environment)


if __name__ == "__main__":
    sys.exit(main())
