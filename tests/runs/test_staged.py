"""Runs in stages: what comes before the training, and what the record says of it."""

import json
import sys
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from epsbook import data, losses, noise
from epsbook.runs.plan import run
from epsbook.runs.settings import settings_for
from epsbook.runs.staged import STAGES, _WarmUp, filled, staged
from epsbook.train import OutOfTime, Protocol, fit

SPEC = noise.NoiseSpec.pair(0.3)
GIVEN = settings_for("wrong_labels", "smoke")["protocol"]
PROTOCOL = Protocol(**GIVEN, epochs=4, samples=400)
CE, GLS = [{"loss": "CELoss"}], [{"loss": "GLSLoss", "r": -0.5}]
FORWARD, BACKWARD = [{"loss": "ForwardLoss"}], [{"loss": "BackwardLoss"}]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def made(digits, stage, terms, **options):
    return staged(stage, terms, digits, SPEC, PROTOCOL, 1, **options)


def test_no_stage_is_a_run_that_is_told_the_matrix(digits):
    loss = losses.ForwardLoss(transition=torch.tensor(SPEC.transition(10)))
    want = fit(digits, SPEC, loss, PROTOCOL, 1)
    found = made(digits, None, FORWARD)
    assert found["weights_sha256"] == want["weights_sha256"]
    assert found["loss"] == want["loss"]


@pytest.mark.parametrize("terms", [GLS, BACKWARD, FORWARD])
def test_warm_up_is_cross_entropy_for_half_of_the_epochs(digits, terms):
    plain = made(digits, None, CE)["curves"]["train_loss"]
    warm = made(digits, "warm_up", terms)["curves"]["train_loss"]
    assert warm[:2] == pytest.approx(plain[:2], rel=1e-4)
    assert abs(warm[2] - plain[2]) > 1e-3


def test_a_warm_up_that_is_stopped_goes_on(digits, tmp_path):
    want = made(digits, "warm_up", GLS)
    file = tmp_path / "run.pt"

    def stop(rows):
        if len(rows) == 3:
            raise KeyboardInterrupt

    loss = losses.GLSLoss(r=-0.5)
    warm = _WarmUp(loss, 2)
    with pytest.raises(KeyboardInterrupt):
        watch = lambda rows: (warm(rows), stop(rows))
        fit(digits, SPEC, loss, PROTOCOL, 1, checkpoint=file, watch=watch)
    found = made(digits, "warm_up", GLS, checkpoint=file)
    assert found["weights_sha256"] == want["weights_sha256"]


def test_a_warm_up_is_watched_as_well(digits):
    seen = []
    found = made(digits, "warm_up", GLS, watch=lambda rows: seen.append(len(rows)))
    assert seen == [1, 2, 3, 4]
    assert found["loss"] == "GLSLoss(r=0), at the end GLSLoss(r=-0.5)"


def test_a_look_keeps_to_the_time_and_goes_on(digits, tmp_path):
    how = replace(PROTOCOL, epochs=8), 1
    asked, file = ("estimate", FORWARD, digits, SPEC, *how), tmp_path / "run.pt"
    with pytest.raises(OutOfTime, match="1 of 2 epochs"):
        staged(*asked, checkpoint=file, until=0.0)
    assert [str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*.pt")] == [
        "run-folds/fold1.pt"
    ]
    found = staged(*asked, checkpoint=file)
    assert found["weights_sha256"] == staged(*asked)["weights_sha256"]
    assert len(list(tmp_path.rglob("fold*.pt"))) == 5 and file.exists()


def test_a_look_is_taken_on_the_device_of_the_run(digits, monkeypatch):
    class Seen(Exception):
        pass

    def look(*asked, device=None, **others):
        raise Seen(device)

    monkeypatch.setattr(sys.modules[staged.__module__], "out_of_sample", look)
    with pytest.raises(Seen, match="cuda:1"):
        made(digits, "estimate", FORWARD, device="cuda:1")


def test_an_estimated_matrix_is_not_the_true_one(digits):
    true, found = made(digits, None, FORWARD), made(digits, "estimate", FORWARD)
    assert found["weights_sha256"] != true["weights_sha256"]
    assert found["label_sha256"] == true["label_sha256"]
    assert found["seconds"] > true["seconds"]


def test_pruning_is_recorded_as_a_run_on_the_given_labels(digits):
    pytest.importorskip("cleanlab")
    plain, found = made(digits, None, CE), made(digits, "prune", CE)
    for key in ("dataset", "noise", "label_sha256", "realized_rate"):
        assert found[key] == plain[key], key
    assert found["weights_sha256"] != plain["weights_sha256"]
    assert set(found["curves"]["memorized"]) == {None}
    assert found["versions"]["cleanlab"]


def test_pruning_without_cleanlab_says_what_to_install(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ImportError, match=r"epsbook\[confident\]"):
        made(digits, "prune", CE)


def test_what_cannot_be_is_refused(digits):
    with pytest.raises(ValueError, match="no stage 'magic'; known: None, warm_up"):
        made(digits, "magic", CE)
    with pytest.raises(ValueError, match="no warm-up"):
        made(digits, "warm_up", CE)
    with pytest.raises(ValueError, match="needs a transition matrix"):
        filled(FORWARD, digits)


def test_memory_is_as_long_as_the_data(digits):
    loss = filled([{"loss": "ELRLoss", "lam": 3, "beta": 0.7}], digits)
    assert loss.targets.shape == (len(digits.train_labels), 10)


@pytest.mark.parametrize("name", ["meeting_20", "meeting_pair"])
def test_the_records_of_the_meeting_keep_to_the_schema(name):
    jsonschema = pytest.importorskip("jsonschema")
    text = files("epsbook.assets").joinpath("record.schema.json").read_text("utf-8")
    methods = settings_for(name)["methods"]
    assert set(settings_for(name)["stages"].values()) <= set(STAGES)
    assert set(settings_for(name)["stages"]) <= set(methods)
    for method in ("backward@warm", "elr"):
        record = run(name, method, 1, "smoke")
        jsonschema.validate(json.loads(json.dumps(record)), json.loads(text))
