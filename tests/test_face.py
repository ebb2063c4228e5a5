"""What `import epsbook` gives: rooms that come when they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import epsbook

ROOT = Path(epsbook.__file__).parents[1]


def python(code):
    "Output of a fresh Python that finds the `epsbook` under test first."
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'){code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("heavy", ["torch", "numpy", "pandas", "typer"])
def test_import_brings_nothing_heavy(heavy):
    code = f"; import epsbook; dir(epsbook); assert {heavy!r} not in sys.modules"
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_room_comes_when_it_is_asked_for():
    code = "; import epsbook; print(epsbook.losses.EpsCELoss(m=1))"
    assert python(code).stdout.startswith("EpsCELoss(m=1")


def test_all_rooms_are_listed():
    rooms = {
        path.stem if path.suffix else path.name
        for path in Path(epsbook.__file__).parent.iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith(("_", "."))
    }
    assert rooms - {"assets", "results"} == set(epsbook._ROOMS)
    assert {x for x in dir(epsbook) if x[:2] != "__"} == set(epsbook._ROOMS)


@pytest.mark.parametrize("name", epsbook._ROOMS)
def test_a_room_opens(name):
    if name == "figures":
        pytest.importorskip("seaborn")  # of the extra "book"
    assert getattr(epsbook, name).__name__ == f"epsbook.{name}"


def test_a_mistyped_room_names_those_there_are():
    with pytest.raises(AttributeError, match=r"no 'loses'; it has .*losses"):
        epsbook.loses  # noqa: B018
    with pytest.raises(ImportError, match="loses"):
        exec("from epsbook import loses")
