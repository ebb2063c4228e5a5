"""The checkout as it is cloned: its version, and its command before any install."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import epsbook

ROOT = Path(__file__).parents[2]


def python(code, *words, cwd):
    "Output of a fresh Python that finds `epsbook` in `cwd` and nowhere else."
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'){code}"]
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True)


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
