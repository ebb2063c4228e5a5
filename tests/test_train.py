"""Training and records: what is run, what is written, what is refused."""

import dataclasses
import json
import re
from importlib.resources import files

import jsonschema
import pytest
import torch
from typer.testing import CliRunner

from epsbook import data, noise, record, train
from epsbook.cli import app, main
from epsbook.losses import CELoss, CurveLoss, EpsCELoss, MAELoss

SCHEMA = json.loads(
    files("epsbook.assets").joinpath("record.schema.json").read_text("utf-8")
)
COMMITTED = sorted(
    (
        f
        for f in files("epsbook.results").iterdir()
        if re.search("-seed.*json$", f.name)
    ),
    key=lambda f: f.name,
)
EXPERIMENTS = ("wrong_labels", "eps_softmax", "ce_decay", "ce_short")


@pytest.fixture(scope="module")
def run():
    return train.run("wrong_labels", "ce_eps+mae", seed=1, at="smoke")


# ---- records ----------------------------------------------------------------


def test_a_run_leaves_a_record_that_fits_the_schema(run):
    jsonschema.validate(json.loads(json.dumps(run)), SCHEMA)


@pytest.mark.parametrize("file", COMMITTED, ids=lambda f: f.name)
def test_committed_records_fit_schema_settings_and_labels(file):
    r = json.loads(file.read_text("utf-8"))
    jsonschema.validate(r, SCHEMA)
    assert file.name == "{experiment}-{method}-seed{seed}.json".format(**r)
    s = record.settings(r["experiment"], r["scale"])
    assert r["terms"] == s["methods"][r["method"]]
    assert r["loss"] == repr(train.build_loss(r["terms"]))
    assert r["protocol"] == s["protocol"] | {"epochs": s["epochs"]}
    assert r["noise"] == s["noise"] and r["seed"] in s["seeds"]
    assert {len(c) for c in r["curves"].values()} == {s["epochs"]}
    assert r["accuracy"] == train.accuracies(r["curves"])
    loaded = data.load(r["dataset"])
    true = loaded.train_labels
    spec = noise.NoiseSpec.from_dict(r["noise"])
    given = spec.corrupt(true, loaded.num_classes, r["seed"])
    assert noise.label_sha256(given) == r["label_sha256"]
    assert noise.realized_rate(true, given) == r["realized_rate"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_setting_has_its_record(name):
    s = record.settings(name, "laptop")
    found = {(r["method"], r["seed"]) for r in record.read_records(name)}
    assert found == {(m, seed) for m in s["methods"] for seed in s["seeds"]}


def test_records_are_written_whole_and_read_back(run, tmp_path):
    path = record.write_record(run, tmp_path / "new")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert record.read_records("wrong_labels", path.parent) == [
        json.loads(json.dumps(run))
    ]
    table = record.records("wrong_labels", path.parent)
    assert table.loc[0, "m"] == 1e5
    assert table.loc[0, "last"] == run["accuracy"]["last"]
    curves = record.curves("wrong_labels", path.parent)
    assert curves["epoch"].tolist() == [1, 2]
    assert curves["test"].tolist() == run["curves"]["test"]


# ---- runs -------------------------------------------------------------------


def test_a_seed_decides_everything_and_leaves_torch_alone(run):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = train.run("wrong_labels", "ce_eps+mae", seed=1, at="smoke")
    assert torch.equal(torch.get_rng_state(), before)
    assert again["curves"] == run["curves"]
    other = train.run("wrong_labels", "ce_eps+mae", seed=2, at="smoke")
    assert other["curves"] != run["curves"]
    assert other["label_sha256"] != run["label_sha256"]


def small(**changes):
    fields = record.settings("wrong_labels", "smoke")["protocol"] | {"epochs": 2}
    return train.Protocol(**(fields | changes))


def test_a_network_learns_clean_digits():
    r = train.fit(
        data.load("digits"), noise.NoiseSpec.clean(), CELoss(), small(epochs=5), 0
    )
    assert r["accuracy"]["last"] > 0.9
    assert r["curves"]["memorized"] == [None] * 5  # there is nothing wrong


def test_accuracies_are_three_numbers():
    curves = {"test": [0.2, 0.9, 0.8, 0.7], "validation": [0.1, 0.3, 0.5, 0.5]}
    want = {"last": 0.7, "best": 0.9, "validated": 0.8}
    assert train.accuracies(curves) == want


class Broken(CurveLoss):
    "Finite at first, NaN once the network has moved."

    calls = 0

    def phi(self, log_py, top):
        self.calls += 1
        return log_py * (torch.nan if self.calls > 20 else -1)

    def grad_weight(self, log_py, top):
        return torch.ones_like(log_py)


def test_a_nan_stops_the_run_and_names_the_epoch():
    with pytest.raises(FloatingPointError, match="nan in epoch 2: lower"):
        train.fit(
            data.load("digits"), noise.NoiseSpec.symmetric(0.4), Broken(), small(), 0
        )


def test_losses_are_built_from_data():
    terms = [{"loss": "EpsCELoss", "factor": 0.01, "m": 10}, {"loss": "MAELoss"}]
    assert repr(train.build_loss(terms)) == repr(0.01 * EpsCELoss(m=10) + MAELoss())


def test_only_a_mean_is_trained():
    spec = noise.NoiseSpec.clean()
    with pytest.raises(ValueError, match='reduction must be "mean"'):
        train.fit(data.load("digits"), spec, CELoss(reduction="sum"), small(), 0)


def test_bytes_and_constant_pixels_are_standardized():
    x = torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)
    ours, test = train.standardize(x, x + 51)
    assert ours.abs().max() < 1e-3 and test.isfinite().all()


def test_a_record_of_another_scale_is_not_overwritten(run, tmp_path):
    path = record.write_record(run, tmp_path)
    record.write_record(run, tmp_path)
    with pytest.raises(FileExistsError, match="another scale: choose another"):
        record.write_record(run | {"scale": "laptop"}, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"seed1.json is not a record .*delete it"):
        record.read_records("wrong_labels", tmp_path)
    with pytest.raises(FileNotFoundError, match="epsbook repeat"):
        record.read_records("wrong_labels", tmp_path / "none")


# ---- bad input --------------------------------------------------------------


def test_the_scale_is_one_of_three(monkeypatch):
    monkeypatch.setenv("EPSBOOK_SCALE", "huge")
    with pytest.raises(ValueError, match="set it to one of smoke, laptop, paper"):
        record.scale()


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: record.settings("nothing"), ValueError, "known: wrong_labels"),
        (lambda: record.settings("wrong_labels", "big"), ValueError, "one of smoke"),
        (lambda: record.read_records("nothing"), FileNotFoundError, "epsbook repeat"),
        (lambda: train.run("wrong_labels", "x", 1), ValueError, "known: ce, ce_eps"),
        (lambda: train.build_loss([{"loss": "Loss"}]), ValueError, "known: AELLoss"),
        (lambda: train.build_loss([]), ValueError, "at least one"),
        (lambda: small(epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: small(batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: small(lr=float("nan")), ValueError, "lr must be finite"),
        (lambda: small(lr=-1), ValueError, "lr must be finite and in"),
        (lambda: small(clip=0), ValueError, "clip"),
        (lambda: small(momentum=1.5), ValueError, "momentum"),
        (lambda: small(momentum=True), TypeError, "momentum"),
        (lambda: small(validation=1), ValueError, "validation"),
        (lambda: small(network="vgg"), ValueError, "name must be one of digits_net"),
    ],
)
def test_bad_input_names_the_fix(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_protocols_are_values():
    assert small() == small() and small() != small(lr=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().lr = 1


# ---- the command line -------------------------------------------------------


def test_repeat_prints_this_run_beside_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "scale", lambda: "smoke")
    asked = ["repeat", "wrong_labels", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 2
    assert "ce_eps+mae" in result.output and "record" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["repeat", "nothing", "--out", "x"], "no experiment 'nothing'; known:"),
        (["repeat", "wrong_labels", "--out", "x", "--scale", "big"], "one of smoke"),
        (["repeat", "wrong_labels", "--out", "x", "--seeds", "99"], "at most"),
        (["repeat", "wrong_labels"], "--out"),
        (["train"], "No such command"),
    ],
)
def test_errors_are_one_line(arguments, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epsbook", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert says in str(stop.value) and "\n" not in str(stop.value)
    assert not list(tmp_path.iterdir())
