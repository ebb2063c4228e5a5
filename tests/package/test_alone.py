"""A notebook that leans on the checkout, or on files beside it, does not pass alone."""

import re
import runpy

import nbformat.v4 as nbf
import pytest
from alone import ROOT, run
from nbformat import write

OBJECT = nbf.new_output("execute_result", {"text/plain": "<object at 0x7f0123456789>"})
PLANTED = {
    "compares": [("import epsbook", ()), ("object()", [OBJECT]), ("print(2)", ())],
    "reads": [("open('beside.txt').read()", ())],
    "imports": [
        (f"import sys\nsys.path.append({str(ROOT)!r})\nimport conftest", ()),
        (
            "import epsbook.noise.labels",
            (),
        ),  # not in the site: the editable install has it
    ],
    "writes": [("open('new.txt', 'w').close()", ())],
}
FAILED = {
    ("compares", 2): "Unexpected output fields",
    ("reads", 0): "No such file or directory: 'beside.txt'",
    ("imports", 2): "conftest comes from",
    ("writes", 1): "new.txt was written beside the notebook",
}


@pytest.fixture
def site(tmp_path):
    "A package of the right name that is not the checkout's."
    (tmp_path / "site/epsbook").mkdir(parents=True)
    (tmp_path / "site/epsbook/__init__.py").touch()
    return tmp_path / "site"


def planted(folder):
    folder.mkdir()
    (folder / "beside.txt").touch()
    for name, cells in PLANTED.items():
        cells = [nbf.new_code_cell(code, outputs=list(outs)) for code, outs in cells]
        write(nbf.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return sorted(folder.glob("*.ipynb"))


def test_what_is_not_alone_is_seen(tmp_path, site, capfd):
    assert run(planted(tmp_path / "planted"), tmp_path / "nbs", site) == 1
    out = capfd.readouterr().out
    failed = re.findall(r"^FAILED (\w+)/\1.ipynb::Cell (\d+)", out, re.M)
    assert {(name, int(cell)) for name, cell in failed} == set(FAILED), out
    for sentence in (*FAILED.values(), "epsbook.noise.labels comes from"):
        assert sentence in out


def test_a_kernel_that_does_not_answer_is_started_again():
    again = runpy.run_path(str(ROOT / "conftest.py"))["again"]
    answers = [RuntimeError("Kernel didn't respond"), RuntimeError("died"), "kernel"]

    def start():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.warns(UserWarning, match="Kernel started again"):
        assert again(start)() == "kernel"
    answers[:] = [RuntimeError("died")] * 3
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="died"):
        again(start)()
