"""What a type checker is told agrees with what the losses do."""

import ast
import inspect
from pathlib import Path

import pytest

from epsbook import losses
from epsbook.losses.catalog import loss_classes
from epsbook.losses.options import OPTIONS, Options

CLASSES = loss_classes()


def declared():
    "Parameters that `losses.options` declares for type checkers."
    source = Path(inspect.getfile(Options)).read_text("utf-8")
    (found,) = (
        x
        for x in ast.walk(ast.parse(source))
        if isinstance(x, ast.ClassDef) and x.name == "_Declared"
    )
    return {x.target.id for x in ast.walk(found) if isinstance(x, ast.AnnAssign)}


def test_options_are_those_that_losses_take():
    assert tuple(Options.__annotations__) == OPTIONS
    with pytest.raises(TypeError, match="redution"):
        losses.CELoss(redution="sum")


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_is_declared(name):
    buffers = {"num_samples", "num_classes"}  # whole numbers of a memory
    assert set(CLASSES[name].ranges) - buffers <= declared()


@pytest.mark.parametrize("name", CLASSES)
def test_every_loss_passes_typed_options_on(name):
    parameters = inspect.signature(CLASSES[name].__init__).parameters.values()
    for p in parameters:
        if p.kind is p.VAR_KEYWORD:
            assert p.annotation.startswith("Unpack["), f"{name}: {p}"


def test_nothing_is_declared_that_no_loss_has():
    known = {x for kind in CLASSES.values() for x in kind.ranges}
    assert declared() <= known | {"delta"}  # of LogitClipLoss.as_released
