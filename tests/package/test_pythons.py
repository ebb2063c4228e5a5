"""The runner over Pythons says what it found, what failed and what was not there."""

import pytest
import pythons


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A folder of pyenv and a PATH, both empty."
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def pretend(file, version):
    "An interpreter that answers with this version, or does not start."
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 1\n"
    )
    file.chmod(0o755)
    return file


def test_the_newest_of_pyenv_is_found_before_the_path(home):
    pretend(home / "path/python3.12", "3.12.11")
    assert pythons.find_python("3.12") == home / "path/python3.12"
    for version in ("3.12.1", "3.12.10", "3.12.9", "3.1.30"):
        made = pretend(home / f"pyenv/versions/{version}/bin/python", version)
    made = home / "pyenv/versions/3.12.10/bin/python"
    assert pythons.find_python("3.12") == made
    pretend(made, "")
    assert pythons.find_python("3.12").parts[-3] == "3.12.9"


def test_a_shim_that_does_not_start_is_no_python(home):
    pretend(home / "path/python3.13", "")
    assert pythons.find_python("3.13") is None
    pretend(home / "path/python3.13", "3.12.1")
    assert pythons.find_python("3.13") is None


REPORT = '<testsuites><testsuite tests="9" failures="{}" errors="1" skipped="2"/></testsuites>'


def test_counts_say_what_became_of_the_tests(tmp_path):
    (tmp_path / "a.xml").write_text(REPORT.format(2))
    assert pythons.counts(tmp_path / "a.xml") == "3 failed, 4 passed, 2 skipped"


ROWS = {
    "3.11": (0, ("3.11.7", "9 passed", "5")),
    "3.12": (1, ("3.12.1", "1 failed, 8 passed", "5")),
    "3.13": (None, ("3.13", "not found", "")),
}


@pytest.mark.parametrize(
    "asked, fails", [("3.11", 0), ("3.11 3.12", 1), ("3.11 3.13", 0), ("3.13", 0)]
)
def test_a_failure_fails_and_a_missing_python_is_named(
    asked, fails, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", ["pythons.py", *asked.split()])
    monkeypatch.setattr(pythons, "build_wheel", lambda folder: None)
    monkeypatch.setattr(pythons, "check", lambda version, *_: ROWS[version])
    assert pythons.main() == fails
    printed = capsys.readouterr().out
    assert all(ROWS[version][1][1] in printed for version in asked.split())
    assert ("not on this machine: 3.13" in printed) == ("3.13" in asked)


def test_what_is_prepared_is_installed_and_not_tested(home, monkeypatch):
    pretend(home / "path/python3.12", "3.12.11")
    made = []
    monkeypatch.setattr("sys.argv", ["pythons.py", "--prepare", "3.12", "3.13"])
    monkeypatch.setattr(pythons, "build_wheel", lambda folder: "wheel")
    monkeypatch.setattr(pythons, "environment", lambda folder, python: python)
    monkeypatch.setattr(pythons, "install", lambda *what: made.append(what))
    assert not pythons.main()
    assert made == [(home / "path/python3.12", "wheel")]


def test_no_test_that_needs_the_checkout_goes_along(tmp_path):
    pythons.gather(tmp_path)
    names = {path.stem for path in (tmp_path / "tests").glob("*/test_*.py")}
    assert {"test_losses", "test_golden", "test_train", "test_cli"} <= names
    assert not names & {"test_drift", "test_book", "test_packaging", "test_pythons"}
    assert not (tmp_path / "epsbook").exists()


def test_what_runs_without_the_checkout_asks_for_no_notebook(tmp_path):
    pythons.gather(tmp_path)
    found = list((tmp_path / "tests").rglob("test_*.py"))
    asking = [x.name for x in found if ".ipynb" in x.read_text("utf-8")]
    assert len(found) > 20 and not asking, "such a test belongs in tests/book"
