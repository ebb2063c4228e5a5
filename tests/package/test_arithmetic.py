"""The pass under other arithmetic says so if the arithmetic is the same."""

import os

import arithmetic
import pythons


def test_arithmetic_that_has_not_changed_is_seen():
    here = arithmetic.probed(os.environ | {"OMP_NUM_THREADS": "2"})
    here["kernels"] = "AVX2"
    found = list(arithmetic.faults(here, here))
    assert len(found) == 6 and found[0].startswith("PyTorch has taken its AVX2")


def test_files_that_compute_are_run():
    names = arithmetic.computing()
    assert {"nbs", "tests/theory/test_theorems.py", "tests/book/test_api.py"} <= set(
        names
    )
    assert "tests/book/test_book.py" not in names


def test_what_the_checkout_leaves_out_is_run_from_the_wheel(tmp_path):
    pythons.gather(tmp_path)
    carried = {
        path.relative_to(tmp_path).as_posix()
        for path in (tmp_path / "tests").rglob("test_*.py")
    }
    here = set(arithmetic.computing(checkout=True))
    assert not here & carried
    assert set(arithmetic.computing()) <= here | carried | {"nbs"}  # alone.py
