"""What `import epsbook` gives: rooms that come when they are asked for."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import epsbook

ROOT = Path(__file__).parents[2]


def python(code, *words, cwd=ROOT):
    "Output of a fresh Python that finds `epsbook` in `cwd` and nowhere else."
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'){code}"]
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("heavy", ["torch", "numpy", "pandas", "typer"])
def test_import_brings_nothing_heavy(heavy):
    code = f"; import epsbook; dir(epsbook); assert {heavy!r} not in sys.modules"
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_room_comes_when_it_is_asked_for():
    code = "; import epsbook; print(epsbook.losses.EpsCELoss(m=1))"
    assert python(code).stdout.startswith("EpsCELoss(m=1")


def test_all_rooms_are_listed_and_open():
    rooms = {
        path.stem if path.suffix else path.name
        for path in (ROOT / "epsbook").iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith(("_", "."))
    }
    assert rooms - {"assets", "results"} == set(epsbook._ROOMS)
    assert {x for x in dir(epsbook) if x[:2] != "__"} == set(epsbook._ROOMS)
    for name in epsbook._ROOMS:
        assert getattr(epsbook, name).__name__ == f"epsbook.{name}"


def test_a_mistyped_room_names_those_there_are():
    with pytest.raises(AttributeError, match=r"no 'loses'; it has .*losses"):
        epsbook.loses  # noqa: B018
    with pytest.raises(ImportError, match="loses"):
        exec("from epsbook import loses")


def test_the_version_is_that_of_the_settings():
    settings = ConfigParser(delimiters=["="])
    settings.read_string("[DEFAULT]\n" + (ROOT / "settings.ini").read_text())
    assert epsbook.__version__ == settings["DEFAULT"]["version"]


def test_the_command_works_in_a_checkout_that_is_not_installed(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(ROOT / "epsbook", tmp_path / "epsbook", ignore=ignore)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    code = "; sys.modules['epsbook.results'] = None; sys.argv[0] = 'epsbook'"
    run = "; import runpy; runpy.run_module('epsbook', run_name='__main__')"
    asked = ("sweep", "cifar10_patches", "--out", "runs", "--minutes", "0.1")
    done = python(code + run, *asked, "--scale", "smoke", cwd=tmp_path)
    assert "No module" not in done.stdout + done.stderr
    assert "runs, " in done.stdout and "to do" in done.stdout
    shown = python(code + run, "--version", cwd=tmp_path)
    assert shown.stdout == f"epsbook {epsbook.__version__}\n", shown.stderr
