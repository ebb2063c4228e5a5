"""Set-up for pytest: one scale for all tests, and chapters as nbval reads them."""

import os
import warnings

# Notebook kernels inherit both.
os.environ.setdefault("EPSBOOK_SCALE", "smoke")
os.environ.setdefault("TQDM_DISABLE", "1")

# Glyph paths in an SVG differ between machines and addresses between runs:
# compare that a figure is there, and that its other texts are right.
SAME_EVERYWHERE = {
    r"\A\s*<(?:\?xml|!DOCTYPE svg|svg)[\s\S]*\Z": "<svg/>",
    r"\b0x[0-9a-fA-F]{6,}\b": "0x",
}


def pytest_configure(config):
    """Run chapters in this environment, whatever kernel they name."""
    if not getattr(config.option, "nbval_kernel_name", None):
        config.option.nbval_current_env = True
    if getattr(config.option, "nbval", False):
        import nbval.kernel

        nbval.kernel.start_new_kernel = again(nbval.kernel.start_new_kernel)


def again(start, times=3):
    """Start a kernel that does not answer again.

    Its ports are picked before it binds them: where several kernels start at once,
    one in some hundred finds a port taken and is never heard of.
    """

    def started(*args, **kwargs):
        for _ in range(times - 1):
            try:
                return start(*args, **kwargs)
            except RuntimeError as error:
                warnings.warn(f"Kernel started again: {error}", stacklevel=2)
        return start(*args, **kwargs)

    return started


def pytest_collection_modifyitems(items):
    """Make nbval understand notebooks that nbdev has cleaned."""
    for item in items:
        if type(item).__name__ == "IPyNbCell":
            prepare(item)


def prepare(item):
    """Count the cell as run, unless nbdev's directives say not to run it.

    `nbdev_clean` removes execution counts, without which nbval refuses to
    compare outputs.
    """
    item.cell.execution_count = 1
    item.parent.sanitize_patterns.update(SAME_EVERYWHERE)
    if is_skipped(item.cell.source):
        item.options["skip"] = True


def is_skipped(source):
    """Does a directive at the top (`eval: false`, `slow`, `gpu`) skip the cell?"""
    lines = (line.replace(" ", "") for line in source.splitlines())
    return any(line in ("#|eval:false", "#|slow", "#|gpu") for line in lines)
