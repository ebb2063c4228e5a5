"""The pass under other arithmetic says so if the arithmetic is the same."""

import os

import arithmetic


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
