"""Memory is kept while it is asked for, and given back afterwards."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from epsbook import data, losses, noise, train
from epsbook.train import memory

glibc = pytest.mark.skipif(memory._glibc() is None, reason="needs glibc")

COUNT = """
import resource, torch
from pathlib import Path
from epsbook.train.memory import kept_memory

def resident():  # MB
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start = resident()
"""


def counted(code):
    "What `code` prints in a fresh process, as numbers."
    command = [sys.executable, "-c", COUNT + code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in result.stdout.split()]


@pytest.mark.long
@glibc
def test_a_block_is_asked_for_once():
    within = "with kept_memory():\n    faults(); print(faults())"
    (without,) = counted("faults(); print(faults())")
    (kept,) = counted(within)
    assert kept < without / 100


@pytest.mark.long
@glibc
def test_afterwards_memory_is_given_back_also_after_an_error():
    grown, left, again = counted("""
try:
    with kept_memory():
        faults(); print(resident() - start); 1 / 0
except ZeroDivisionError:
    print(resident() - start)
print(int(faults() > 10_000))
""")
    assert grown >= 60 and left < grown - 50
    assert again == 1  # blocks return to the kernel as before


@pytest.mark.long
@glibc
def test_the_last_to_go_releases_it():
    without, kept, after = counted("""
print(faults())
outer, inner = kept_memory(), kept_memory()
outer.__enter__(); inner.__enter__()
faults(); outer.__exit__(None, None, None)
print(faults()); inner.__exit__(None, None, None)
print(faults())
""")
    assert kept < without / 100 < after


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_no_library_is_asked(platform, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory, "ctypes", None)
    with memory.kept_memory():
        pass


def test_a_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda name: object()))
    with memory.kept_memory():
        assert memory._glibc() is None


def test_training_keeps_its_memory(monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "_count", seen.append)
    protocol = train.protocol_for("digits", "smoke", epochs=1, samples=128)
    parts = data.load("digits"), noise.NoiseSpec.clean(), losses.CELoss()
    train.fit(*parts, protocol, 1, "cpu")
    assert seen == [1, -1]
