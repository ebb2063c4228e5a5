"""Files: where they lie, how they are fetched, and what is refused by name."""

import errno
import functools
import hashlib
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from epsbook.data import files

CONTENT = bytes(range(256)) * 40
needs_pooch = pytest.mark.skipif(
    importlib.util.find_spec("pooch") is None, reason="pooch is not installed"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty data folder."
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


class Slow(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.2)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def home(tmp_path):
    "Address of a server on this machine, and the folder it serves."
    kept = tmp_path / "served"
    kept.mkdir()
    handler = functools.partial(Slow, directory=kept)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kept
        server.shutdown()


def listed(monkeypatch, *urls):
    "A registry of one file, `toy`."
    item = {
        "kind": "labels",
        "file": "toy.bin",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "urls": list(urls),
        "by_hand": "copy toy.bin from a friend",
    }
    monkeypatch.setattr(files, "registry", lambda: {"toy": item})


# Where data lie --------------------------------------------------------------


def test_the_variable_decides(monkeypatch):
    monkeypatch.setenv("EPSBOOK_DATA", "~/somewhere")
    assert files.data_folder() == Path.home() / "somewhere"


@pytest.mark.parametrize(
    "platform, variable, where",
    [
        ("linux", {}, ".cache/epsbook"),
        ("linux", {"XDG_CACHE_HOME": "/fast"}, "/fast/epsbook"),
        ("darwin", {}, "Library/Caches/epsbook"),
        ("win32", {}, "AppData/Local/epsbook/epsbook/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/epsbook/epsbook/Cache"),
    ],
)
def test_otherwise_the_users_cache(monkeypatch, platform, variable, where):
    for name in ("EPSBOOK_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert files.data_folder() == Path.home() / where


@needs_pooch
def test_the_cache_is_poochs(monkeypatch):
    import pooch

    monkeypatch.setenv("EPSBOOK_DATA", "")
    assert files.data_folder() == Path(pooch.os_cache("epsbook"))


# The registry ----------------------------------------------------------------


@pytest.mark.parametrize("name, item", files.registry().items())
def test_entries_are_complete(name, item):
    assert {"kind", "file", "license", "cite", "by_hand"} <= set(item)
    bib = Path(__file__).parents[2] / "nbs" / "references.bib"
    assert f"{{{item['cite']}," in bib.read_text("utf-8")
    if item["kind"] == "labels":
        assert item["bytes"] > 0 and re.fullmatch("[0-9a-f]{64}", item["sha256"])
        assert len(item["urls"]) > 1
        for url in item["urls"]:  # a branch may move, a commit does not
            assert url.startswith("https://") and re.search("[0-9a-f]{40}", url)


@pytest.mark.parametrize("name", ["cifar", "", None, 3])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match="known: mnist, "):
        files.fetch(name)


def test_images_are_not_fetched_as_a_file():
    with pytest.raises(ValueError, match="cifar10 is not fetched as one file"):
        files.fetch("cifar10")


# Writing ---------------------------------------------------------------------


def test_a_file_is_written_whole(tmp_path):
    path = files.write_atomic(tmp_path / "a" / "b.txt", lambda f: f.write(b"x"))
    assert path.read_bytes() == b"x" and os.listdir(path.parent) == ["b.txt"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_or_not_at_all(tmp_path):
    path = tmp_path / "b.txt"
    path.write_bytes(b"old")

    def breaks(file):
        file.write(b"ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write_atomic(path, breaks)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["b.txt"]


@pytest.mark.parametrize(
    "number, message",
    [
        (errno.ENOSPC, "has no space left: make some, or set EPSBOOK_DATA"),
        (errno.EACCES, "may not be written to: allow it, or set EPSBOOK_DATA"),
        (errno.EROFS, "may not be written to"),
    ],
)
def test_a_folder_that_cannot_hold_a_file(tmp_path, number, message, monkeypatch):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path))

    def fails(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(files.StorageError, match=message) as caught:
        files.write_atomic(tmp_path / "b.txt", fails)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not os.listdir(tmp_path)


def test_only_the_data_folder_can_be_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path / "data"))

    def fails(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(files.StorageError, match=r"make some$"):
        files.write_atomic(tmp_path / "runs" / "b.txt", fails)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(files.StorageError, match="is not a folder"):
        files.write_atomic(tmp_path / "data" / "b.txt", lambda f: None)


def test_other_errors_stay_what_they_are(tmp_path):
    def fails(file):
        raise OSError(errno.EIO, "worn out")

    with pytest.raises(OSError, match="worn out"):
        files.write_atomic(tmp_path / "b.txt", fails)


# Fetching --------------------------------------------------------------------


@needs_pooch
def test_a_file_is_fetched_once_and_in_silence(folder, home, monkeypatch, capfd):
    address, kept = home
    (kept / "toy.bin").write_bytes(CONTENT)
    listed(monkeypatch, f"{address}/toy.bin")
    path = files.fetch("toy")
    assert path == folder / "toy.bin" and path.read_bytes() == CONTENT
    assert os.listdir(folder) == ["toy.bin"]
    (kept / "toy.bin").unlink()
    assert files.fetch("toy") == path  # from the folder
    assert capfd.readouterr() == ("", "")


@needs_pooch
def test_mirrors_are_tried_in_order(folder, home, monkeypatch):
    address, kept = home
    (kept / "altered.bin").write_bytes(CONTENT[:-1] + b"?")
    (kept / "toy.bin").write_bytes(CONTENT)
    urls = [f"{address}/{x}.bin" for x in ("absent", "altered", "toy")]
    listed(monkeypatch, *urls)
    assert files.fetch("toy").read_bytes() == CONTENT


@needs_pooch
def test_what_all_mirrors_have_wrong_is_not_kept(folder, home, monkeypatch):
    address, kept = home
    (kept / "altered.bin").write_bytes(CONTENT[:-1] + b"?")
    listed(monkeypatch, f"{address}/altered.bin", f"{address}/absent.bin")
    with pytest.raises(ConnectionError) as caught:
        files.fetch("toy")
    said = str(caught.value)
    assert "another file from 127.0.0.1; no file from 127.0.0.1" in said
    assert "copy toy.bin from a friend" in said and "\n" not in said
    assert not os.listdir(folder)


@needs_pooch
def test_without_a_network(folder, monkeypatch):
    listed(monkeypatch, "http://127.0.0.1:9/toy.bin")
    with pytest.raises(ConnectionError, match=r"could not fetch toy .*by|a friend"):
        files.fetch("toy")


@pytest.mark.parametrize(
    "content, why",
    [
        (CONTENT[:-1], "10,239 bytes instead of 10,240"),
        (CONTENT[:-1] + b"?", "its SHA-256 is"),
        (b"", "0 bytes instead of"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_stays(folder, monkeypatch, content, why):
    listed(monkeypatch, "http://127.0.0.1:9/toy.bin")
    folder.mkdir()
    (folder / "toy.bin").write_bytes(content)
    with pytest.raises(ValueError, match=why) as caught:
        files.fetch("toy")
    assert str(folder / "toy.bin") in str(caught.value)
    assert "run `epsbook data get toy`" in str(caught.value)
    assert (folder / "toy.bin").read_bytes() == content


@needs_pooch
def test_it_is_replaced_when_asked(folder, home, monkeypatch):
    address, kept = home
    listed(monkeypatch, f"{address}/toy.bin")
    folder.mkdir()
    (folder / "toy.bin").write_bytes(b"bad")
    with pytest.raises(ConnectionError):
        files.fetch("toy", again=True)
    assert (folder / "toy.bin").read_bytes() == b"bad"  # nothing better came
    (kept / "toy.bin").write_bytes(CONTENT)
    assert files.fetch("toy", again=True).read_bytes() == CONTENT


@needs_pooch
def test_a_full_disk_is_named_and_ends_the_search(folder, home, monkeypatch):
    address, kept = home
    (kept / "toy.bin").write_bytes(CONTENT)
    listed(monkeypatch, *[f"{address}/toy.bin"] * 3)
    full = OSError(errno.ENOSPC, "No space left on device")
    calls = []
    monkeypatch.setattr(os, "fsync", lambda n: calls.append(n) or raise_(full))
    with pytest.raises(files.StorageError, match="has no space left"):
        files.fetch("toy")
    assert len(calls) == 1 and not os.listdir(folder)


def raise_(error):
    raise error


def test_a_missing_pooch_is_named(folder, monkeypatch):
    listed(monkeypatch, "http://127.0.0.1:9/toy.bin")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install pooch"):
        files.fetch("toy")


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from epsbook.data import files
Path(sys.argv[2] + ".ready").touch()
while not Path(sys.argv[3]).exists():
    pass
for i in range(30):
    def halves(file):
        for _ in range(20):
            file.write(sys.argv[4].encode() * 50_000)
    files.write_atomic(sys.argv[2] + ".bin", halves)
"""


def test_two_processes_at_once_leave_a_whole_file(tmp_path):
    root, start = Path(__file__).parents[2], tmp_path / "start"
    target = tmp_path / "x"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, root, target, start, letter],
        )
        for letter in "ab"
    ]
    start.touch()
    seen = set()
    while any(p.poll() is None for p in running):
        if (tmp_path / "x.bin").exists():
            content = (tmp_path / "x.bin").read_bytes()
            assert len(content) == 1_000_000 and len(set(content)) == 1
            seen.add(content[:1])
    assert all(p.returncode == 0 for p in running) and seen
    assert not list(tmp_path.glob("*.part"))


@needs_pooch
def test_two_processes_fetch_at_once(folder, home):
    address, kept = home
    (kept / "toy.bin").write_bytes(CONTENT)
    code = (
        "import sys; "
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        "from epsbook.data import files; "
        f"item = dict(kind='labels', file='toy.bin', bytes={len(CONTENT)}, "
        f"sha256={hashlib.sha256(CONTENT).hexdigest()!r}, by_hand='', "
        f"urls=['{address}/toy.bin']); "
        "files.registry = lambda: {'toy': item}; files.fetch('toy')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in "ab"]
    assert [p.wait() for p in both] == [0, 0]
    assert (folder / "toy.bin").read_bytes() == CONTENT
    assert os.listdir(folder) == ["toy.bin"]
