"""Training and records: what is run, what is written, what is refused."""

import dataclasses
import gc
import json
import math
import re
import tomllib
import weakref
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch

from epsbook import data, noise, train
from epsbook.data import images
from epsbook.data.files import home
from epsbook.losses import BackwardLoss, CELoss, CurveLoss, ELRLoss, EpsCELoss
from epsbook.losses import ForwardLoss, MAELoss, NLNLLoss
from epsbook.losses.memory import generators
from epsbook.losses.recipes import build_loss, known_recipes
from epsbook.runs import plan
from epsbook.runs import record
from epsbook.runs.settings import settings_for
from epsbook.runs.staged import filled
from epsbook.runs.sweep import read_list
from epsbook.runs.table import board
from epsbook.train import checkpoint, graphs, machine, models
from epsbook.train.checkpoint import save_checkpoint
from epsbook.train.checks import find_device
from epsbook.train.measure import corrupted
from epsbook.train.protocol import protocol_for

SCHEMA = json.loads(
    files("epsbook.assets").joinpath("record.schema.json").read_text("utf-8")
)
COMMITTED = record.read_records("*")
NAMED = tomllib.loads(
    files("epsbook.assets").joinpath("settings.toml").read_text("utf-8")
)
LISTS = [f.name for f in files("epsbook.assets").iterdir()]
LISTS = [n[5:-5] for n in LISTS if re.fullmatch(r"list_\w+\.toml", n)]
OWN = {}  # the losses that lists bring, by name
for job in (job for name in LISTS for job in read_list(name)):
    OWN.setdefault(job.plan.method, []).append(job.plan.terms)
EXPERIMENTS = ("wrong_labels", "eps_softmax", "ce_decay", "ce_short")


@pytest.fixture(scope="module")
def run():
    return plan.run("wrong_labels", "ce_eps+mae", seed=1, at="smoke")


@pytest.mark.parametrize(
    ("loss", "device", "recorded"),
    [
        (CELoss(), "cuda", True),
        (NLNLLoss(), "cuda", True),
        (NLNLLoss(generator=torch.Generator()), "cuda", False),
        (CELoss() + NLNLLoss(generator=torch.Generator()), "cuda", False),
        (CELoss(), "cpu", False),
    ],
)
def test_a_step_is_recorded_unless_its_loss_draws_by_itself(loss, device, recorded):
    drawn = generators(loss)
    step = graphs.recorded(len, 8, torch.device(device), drawn)
    assert isinstance(step, graphs.Graphed) if recorded else step is len


# ---- records ----------------------------------------------------------------


def test_a_run_leaves_a_record_that_fits_the_schema(run):
    jsonschema.validate(json.loads(json.dumps(run)), SCHEMA)


def labels_of(name):
    "The data set, if its files are here: tests fetch nothing."
    name = home(name)  # features have the labels of their images
    fetched = name in ("mnist", "fashion_mnist", "cifar10", "cifar100")
    if fetched and not all(path.exists() for path in images.image_files(name)):
        pytest.skip(f"labels are compared where EPSBOOK_DATA holds {name}")
    return data.load(name)


def test_every_record_has_a_name_of_its_own_and_its_file_says_it():
    names = [(record.record_name(r), r["scale"]) for r in COMMITTED]
    assert len(set(names)) == len(names) > 140
    found = {f.name for f in files("epsbook.results").iterdir()}
    for file in (name for name in found if re.search("-seed.*json$", name)):
        assert (file.removesuffix(".json"), "laptop") in names


ASK = {"ForwardLoss", "BackwardLoss", "ELRLoss"}  # for what their terms do not say


@pytest.mark.parametrize(
    "r", COMMITTED, ids=lambda r: f"{record.record_name(r)}-{r['scale']}"
)
def test_committed_records_fit_schema_settings_and_labels(r):
    jsonschema.validate(r, SCHEMA)
    if r["experiment"] in NAMED:
        s = settings_for(r["experiment"], r["scale"])
        assert r["terms"] == s["methods"][r["method"]]
        assert r["protocol"] == s["protocol"] | {"epochs": s["epochs"]}
        assert r["noise"] == s["noise"] and r["seed"] in s["seeds"]
    else:
        method, _, precision = r["method"].partition("@precision=")
        known = [x.terms for x in known_recipes() if x.method == method]
        assert r["terms"] in known + OWN.get(method, [])
        changes = {"precision": precision} if precision else {}
        protocol = train.protocol_for(r["dataset"], r["scale"], **changes)
        assert protocol.fits(r["protocol"])
    asks = ASK & {term["loss"] for term in r["terms"]}
    if not asks:  # of one that was warmed up, what it is at the end
        assert r["loss"].split(", at the end ")[-1] == repr(build_loss(r["terms"]))
    assert {len(c) for c in r["curves"].values()} == {r["protocol"]["epochs"]}
    assert r["accuracy"] == train.accuracies(r["curves"])
    loaded = labels_of(r["dataset"])
    true = loaded.train_labels
    spec = noise.NoiseSpec.from_dict(r["noise"])
    given = corrupted(loaded, spec, r["seed"])
    assert noise.label_sha256(given) == r["label_sha256"]
    used = slice(r["protocol"].get("samples"))
    assert noise.realized_rate(true[used], given[used]) == r["realized_rate"]
    if asks:
        loss = filled(r["terms"], loaded, torch.tensor(spec.transition(10)))
        assert r["loss"] == repr(loss)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_setting_has_its_record(name):
    s = settings_for(name, "laptop")
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


def test_noise_without_a_rate_is_not_called_clean():
    found = record.read_records("cifar10_patches_*", at="laptop")
    rates = record.records("cifar10_patches_*", at="laptop")["noise_rate"]
    kinds = set()
    for r, rate in zip(found, rates, strict=True):
        kinds.add(kind := r["noise"]["kind"])
        assert math.isnan(rate) == (kind in ("fixed", "transition"))
        assert (rate == 0) == (kind == "clean") == (r["realized_rate"] == 0)
    assert kinds >= {"fixed", "transition", "clean", "symmetric"}


def test_curves_say_at_which_scale(tmp_path):
    made = record.read_records("mnist_symmetric_0.6")[0]
    for scale in ("laptop", "paper"):
        record.append_record(made | {"scale": scale}, tmp_path / "all.jsonl")
    curves = record.curves("mnist_symmetric_0.6", tmp_path)
    assert list(curves)[-1] == "scale"
    assert set(curves.value_counts("scale")) == {len(made["curves"]["test"])}
    assert set(curves["scale"]) == {"laptop", "paper"}


# ---- runs -------------------------------------------------------------------


def test_a_seed_decides_everything_and_leaves_torch_alone(run):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = plan.run("wrong_labels", "ce_eps+mae", seed=1, at="smoke")
    assert torch.equal(torch.get_rng_state(), before)
    assert again["curves"] == run["curves"]
    other = plan.run("wrong_labels", "ce_eps+mae", seed=2, at="smoke")
    assert other["curves"] != run["curves"]
    assert other["label_sha256"] != run["label_sha256"]


def small(**changes):
    fields = settings_for("wrong_labels", "smoke")["protocol"] | {"epochs": 2}
    return train.Protocol(**(fields | changes))


def test_the_trained_network_is_handed_on_before_the_record():
    found = []
    asked = pictures(channels=1), noise.NoiseSpec.clean(), CELoss(), small(), 1
    r = train.fit(*asked, then=found.append)
    state = found[0].state_dict()
    assert r["weights_sha256"] == checkpoint.weights_sha256(state)
    assert not found[0].training


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


def test_a_nan_stops_the_run_and_names_epoch_step_and_cause():
    with pytest.raises(
        FloatingPointError,
        match=r"is nan.* in epoch 2, step 3 of 18 .*the loss, then lower the learning",
    ):
        train.fit(
            data.load("digits"), noise.NoiseSpec.symmetric(0.4), Broken(), small(), 0
        )


def test_losses_are_built_from_data():
    terms = [{"loss": "EpsCELoss", "factor": 0.01, "m": 10}, {"loss": "MAELoss"}]
    assert repr(build_loss(terms)) == repr(0.01 * EpsCELoss(m=10) + MAELoss())


def test_only_a_mean_is_trained():
    spec = noise.NoiseSpec.clean()
    with pytest.raises(ValueError, match='reduction must be "mean"'):
        train.fit(data.load("digits"), spec, CELoss(reduction="sum"), small(), 0)


def test_bytes_and_constant_pixels_are_standardized():
    x = torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)
    ours, test = train.standardize(x, x + 51)
    assert ours.abs().max() < 1e-3 and test.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"accuracy": {}},
        {"accuracy": None},
        {"accuracy": {"last": 50.0}},
        {"accuracy": {"last": float("nan")}},
        {"seed": [1]},
        {"seed": "1"},
        {"method": ["ce"]},
    ],
    ids=str,
)
def test_what_is_no_record_is_named(run, tmp_path, wrong):
    file = tmp_path / "wrong_labels-ce_eps+mae-seed1.json"
    file.write_text(json.dumps(run | wrong))
    for read in (lambda: record.read_record(str(file)), lambda: board("", tmp_path)):
        with pytest.raises(ValueError, match=r"seed1.json is not a record"):
            read()


def test_a_record_of_fit_alone_is_read(run, tmp_path):
    record.write_record({k: run[k] for k in run if k != "terms"}, tmp_path)
    assert len(record.records("wrong_labels", tmp_path)) == 1


def test_an_experiment_is_not_another_that_begins_alike(run, tmp_path):
    record.write_record(run | {"experiment": "a-b"}, tmp_path)
    with pytest.raises(FileNotFoundError):
        record.read_records("a", tmp_path)
    assert len(record.read_records("a*", tmp_path)) == 1


@pytest.mark.parametrize("name", ["d", "spec", "protocol"])
def test_what_is_of_another_kind_is_named(name):
    d, spec = data.load("digits"), noise.NoiseSpec.clean()
    asked = {"d": d, "spec": spec, "protocol": train.protocol_for("digits", "smoke")}
    with pytest.raises(TypeError, match=f"{name} must be a .*, got str"):
        train.fit(**asked | {name: "x"}, loss=CELoss(), seed=1)


def test_a_record_of_another_scale_is_not_overwritten(run, tmp_path):
    path = record.write_record(run, tmp_path)
    record.write_record(run, tmp_path)
    with pytest.raises(FileExistsError, match="another scale: choose another"):
        record.write_record(run | {"scale": "laptop"}, tmp_path)
    other = run["protocol"] | {"epochs": 99}
    with pytest.raises(FileExistsError, match="another protocol: choose another"):
        record.write_record(run | {"protocol": other}, tmp_path)
    with pytest.raises(ValueError, match="leave out the slash"):
        record.write_record(run | {"method": "../ce"}, tmp_path)
    with pytest.raises(ValueError, match="a record needs seconds"):
        record.write_record({k: run[k] for k in run if k != "seconds"}, tmp_path)
    assert [path] == list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="only at smoke"):
        record.read_records("wrong_labels", tmp_path, at="paper")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"seed1.json is not a record .*delete it"):
        record.read_records("wrong_labels", tmp_path)
    with pytest.raises(FileNotFoundError, match="epsbook repeat"):
        record.read_records("wrong_labels", tmp_path / "none")


# ---- bad input --------------------------------------------------------------


def test_the_scale_is_one_of_three(monkeypatch):
    monkeypatch.setenv("EPSBOOK_SCALE", "huge")
    with pytest.raises(ValueError, match="set it to one of smoke, laptop, paper"):
        machine.scale()


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: settings_for("nothing"), ValueError, "known: wrong_labels"),
        (lambda: settings_for("wrong_labels", "big"), ValueError, "one of smoke"),
        (lambda: record.read_records("nothing"), FileNotFoundError, "epsbook repeat"),
        (
            lambda: plan.run("wrong_labels", "x", 1),
            ValueError,
            "known: ce, ce_eps",
        ),
        (lambda: build_loss([{"loss": "Loss"}]), ValueError, "known: AELLoss"),
        (lambda: build_loss([]), ValueError, "at least one"),
        (lambda: small(epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: small(batch_size=1), ValueError, "batch_size must be at least 2"),
        (lambda: small(batch_size=2**31), ValueError, "at most 2147483647"),
        (lambda: small(lr=1e300), ValueError, "lr must be finite and in"),
        (lambda: small(lr=float("nan")), ValueError, "lr must be finite"),
        (lambda: small(lr=-1), ValueError, "lr must be finite and in"),
        (lambda: small(clip=0), ValueError, "clip"),
        (lambda: small(momentum=1.5), ValueError, "momentum"),
        (lambda: small(momentum=True), TypeError, "momentum"),
        (lambda: small(validation=1), ValueError, "validation"),
        (lambda: small(precision="fp8"), ValueError, "fp32 or bf16"),
        (lambda: small(flip=1), TypeError, "flip must be true or false"),
        (lambda: small(crop=-1), ValueError, "crop must be at least 0"),
        (lambda: small(rotate=200), ValueError, "rotate"),
        (lambda: small(samples=1), ValueError, "samples must be at least 2"),
        (lambda: protocol_for("imagenet"), ValueError, "known: digits, mnist"),
        (lambda: protocol_for("mnist", "big"), ValueError, "one of"),
        (lambda: protocol_for("mnist", epoch=1), ValueError, "fields: network, epochs"),
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


def test_numbers_of_numpy_are_kept_as_plain_ones():
    found = small(
        epochs=np.int64(3), lr=np.float32(0.25), clip=np.float32("inf"), crop=np.int8(2)
    )
    assert found == small(epochs=3, lr=0.25, clip=math.inf, crop=2)
    kept = {type(v) for v in vars(found).values()}
    assert kept <= {str, int, float, bool, type(None)}
    assert json.loads(json.dumps(found.to_dict()))["lr"] == 0.25
    assert "lr=1," in repr(small(lr=1))  # what is plain stays as it is


def test_a_seed_of_numpy_is_a_seed():
    asked = pictures(channels=1), noise.NoiseSpec.clean(), CELoss(), small()
    one, two = (train.fit(*asked, seed) for seed in (1, np.int64(1)))
    assert one["weights_sha256"] == two["weights_sha256"]
    assert json.loads(json.dumps(two))["seed"] == 1
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        train.fit(*asked, 1.5)


@pytest.mark.parametrize(
    "count, device, found",
    [
        (0, None, "cpu"),
        (0, "cpu:0", "cpu"),
        (0, "cuda", "no GPU was found"),
        (0, "cuda:abc", "device must be cpu or cuda, got 'cuda:abc'"),
        (2, None, "cuda"),
        (2, torch.device("cuda:1"), "cuda:1"),
        (2, "cuda:2", "device must be below cuda:2, got 'cuda:2'"),
        (2, "cuda:abc", "device must be cpu or cuda, got 'cuda:abc'"),
        (2, "mps", "device must be cpu or cuda, got 'mps'"),
        (2, 1, "device must be cpu or cuda, got '1'"),
    ],
)
def test_a_device_is_one_that_is_there(monkeypatch, count, device, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if " " not in found:
        assert find_device(device) == found
        return
    with pytest.raises(ValueError, match=re.escape(found)):
        find_device(device)


# ---- everything a protocol can ask for ----------------------------------------


def pictures(n=52, channels=3, side=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, side, side), generator=g)
    y = torch.arange(n) % 4
    return data.Dataset("made", x.byte(), y, x[:20].byte(), y[:20], 4)


@pytest.fixture
def tiny(monkeypatch):
    "A network for `pictures`, known by name."

    def net(num_classes):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 64, num_classes),
        )

    monkeypatch.setitem(models.MODELS, "tiny", net)


MOVED = {"network": "tiny", "crop": 2, "flip": True, "rotate": 15, "batch_size": 8}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_augmented_runs_are_repeatable(tiny, precision, channels_last):
    p = small(**MOVED, precision=precision, channels_last=channels_last)
    spec = noise.NoiseSpec.symmetric(0.4)
    runs = [train.fit(pictures(), spec, MAELoss(), p, s) for s in (1, 1, 2)]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert runs[0]["weights_sha256"] != runs[2]["weights_sha256"]
    jsonschema.validate(
        runs[0]
        | {"experiment": "x", "method": "mae", "scale": "smoke"}
        | {"terms": [{"loss": "MAELoss"}]},
        SCHEMA,
    )


HARDWARE = {True: "bf16", False: "fp32", None: "fp32"}


def on(answer, monkeypatch):
    "Pretend that the processor has bfloat16, or has not, or does not say."
    monkeypatch.setattr("epsbook.train.protocol.has_bf16", lambda device: answer)


@pytest.mark.parametrize("answer, precision", HARDWARE.items())
def test_auto_is_half_precision_where_it_is_fast(tiny, monkeypatch, answer, precision):
    on(answer, monkeypatch)
    asked = pictures(), noise.NoiseSpec.clean(), CELoss()
    auto, said = (small(**MOVED, precision=p) for p in ("auto", precision))
    runs = [train.fit(*asked, p, 1) for p in (auto, said)]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert runs[0]["protocol"] == runs[1]["protocol"] == said.to_dict()
    schema = SCHEMA["properties"]["protocol"] | {"$defs": SCHEMA["$defs"]}
    jsonschema.validate(runs[0]["protocol"], schema)


def test_precision_is_asked_of_the_device_of_the_run(monkeypatch):
    monkeypatch.setattr(
        "epsbook.train.protocol.has_bf16", lambda device: device == "cuda:1"
    )
    found = {d: small(precision="auto").resolved(d) for d in ("cpu", "cuda:1")}
    assert found == {"cpu": small(), "cuda:1": small(precision="bf16")}
    with pytest.raises(jsonschema.ValidationError):  # a record never says "auto"
        jsonschema.validate(
            "auto", SCHEMA["properties"]["protocol"]["properties"]["precision"]
        )


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("at", ["laptop", "paper"])
def test_published_protocols_leave_the_precision_to_the_machine(name, at):
    assert protocol_for(name, at).precision == "auto"


def test_a_record_in_either_precision_is_one_of_auto():
    auto, single, half = (small(precision=p) for p in ("auto", "fp32", "bf16"))
    found = [json.loads(json.dumps(p.to_dict())) for p in (single, half)]
    assert [auto.fits(r) for r in found] == [True, True]
    assert [single.fits(r) for r in found] == [True, False]
    assert [half.fits(r) for r in found] == [False, True]
    assert not auto.fits(small(lr=1).to_dict()) and not auto.fits(None)


def test_a_checkpoint_goes_on_in_its_own_precision(tiny, tmp_path, monkeypatch):
    p, file = small(**MOVED, precision="auto"), tmp_path / "run.pt"
    asked = pictures(), noise.NoiseSpec.clean(), CELoss()
    on(True, monkeypatch)
    with pytest.raises(Stopped):
        train.fit(*asked, p, 1, checkpoint=file, watch=stop_after(1))
    on(False, monkeypatch)
    with pytest.raises(
        ValueError, match=r"run \(precision was bf16, is fp32\): delete"
    ):
        train.fit(*asked, p, 1, checkpoint=file)
    half = dataclasses.replace(p, precision="bf16")
    ended = train.fit(*asked, half, 1, checkpoint=file)
    whole = train.fit(*asked, half, 1)
    assert ended["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("what", ["crop", "flip", "rotate", "samples"])
def test_each_move_changes_the_run(tiny, what):
    none = {"crop": 0, "flip": False, "rotate": 0, "samples": None}
    fields = {"network": "tiny", "batch_size": 8} | none
    changed = fields | {what: 24 if what == "samples" else MOVED[what]}
    spec = noise.NoiseSpec.symmetric(0.4)
    runs = [
        train.fit(pictures(), spec, CELoss(), small(**f), 1) for f in (fields, changed)
    ]
    assert runs[0]["weights_sha256"] != runs[1]["weights_sha256"]
    assert ("samples" in runs[1]["protocol"]) == (what == "samples")


def test_without_held_out_labels_nothing_is_validated(tiny):
    p = small(network="tiny", batch_size=8, validation=0)
    r = train.fit(pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1)
    assert r["accuracy"]["validated"] is None
    assert r["curves"]["validation"] == [None, None]


def test_instance_noise_sees_the_images_and_fixed_labels_are_read(tiny, monkeypatch):
    d, p = pictures(), small(network="tiny", batch_size=8, validation=0)
    r = train.fit(d, noise.NoiseSpec.instance(0.5), CELoss(), p, 1)
    assert 0.4 < r["realized_rate"] < 0.6
    given = (d.train_labels + 1) % 4
    spec = noise.NoiseSpec.fixed("cifar10n-worse")
    monkeypatch.setattr(data, "given_labels", lambda name: given.numpy())
    monkeypatch.setattr(
        type(spec), "corrupt", lambda self, true, k, seed, *, given: given
    )
    with pytest.raises(TypeError):  # an array is not a tensor: it was passed on
        train.fit(d, spec, CELoss(), p, 1)


def test_a_batch_of_one_is_refused(tiny):
    p = small(network="tiny", batch_size=51, validation=0)
    with pytest.raises(ValueError, match=r"one of 52 images.*change batch_size"):
        train.fit(pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1)


def test_whoever_watches_sees_every_epoch(tiny):
    seen = []
    p = small(network="tiny", batch_size=8, epochs=3)
    train.fit(
        pictures(),
        noise.NoiseSpec.clean(),
        CELoss(),
        p,
        1,
        watch=lambda rows: seen.append(len(rows)),
    )
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crop": 8}, "crop must be below 8, got 8"),
        ({"network": "cifar_cnn"}, r"cifar_cnn does not take the images of made"),
        ({"validation": 0.001}, "validation must leave something of 52 images"),
        ({"samples": 3}, "validation must leave something of 3 images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_starts(tiny, changes, says):
    p = small(**({"network": "tiny", "batch_size": 8} | changes))
    with pytest.raises(ValueError, match=says):
        train.fit(pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1)


def test_losses_of_others_and_devices_that_are_not_there_are_refused(tiny):
    asked = pictures(), noise.NoiseSpec.clean()
    p = small(network="tiny", batch_size=8)
    with pytest.raises(TypeError, match=r"one of epsbook.losses, got CrossEntropy"):
        train.fit(*asked, torch.nn.CrossEntropyLoss(), p, 1)
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'mps'"):
        train.fit(*asked, CELoss(), p, 1, "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU was found"):
            train.fit(*asked, CELoss(), p, 1, "cuda")


def test_other_images_are_another_run(tiny, tmp_path):
    p, d = small(network="tiny", batch_size=8), pictures()
    asked, file = (noise.NoiseSpec.clean(), CELoss(), p, 1), tmp_path / "run.pt"
    train.fit(d, *asked, checkpoint=file)
    other = dataclasses.replace(d, train_images=255 - d.train_images)
    with pytest.raises(ValueError, match=r"another run .images was"):
        train.fit(other, *asked, checkpoint=file)


# ---- interrupted -------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_after(epochs):
    def watch(rows):
        if len(rows) == epochs:
            raise Stopped

    return watch


LOSSES = {
    "ce": CELoss,
    "elr": lambda: ELRLoss(num_samples=52, num_classes=4),
    "nlnl": NLNLLoss,
    "own generator": lambda: NLNLLoss(generator=torch.Generator().manual_seed(5)),
}


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_run_ends_with_the_same_weights(
    tiny, tmp_path, monkeypatch, name, epochs, device
):
    monkeypatch.setattr(checkpoint.Saver, "rest", 0)  # after every epoch
    p = small(**MOVED, epochs=3, validation=0)
    asked = pictures(), noise.NoiseSpec.symmetric(0.4)
    whole = train.fit(*asked, LOSSES[name](), p, 1, device)
    file = tmp_path / "run.pt"
    with pytest.raises(Stopped):
        watch = stop_after(epochs)
        train.fit(*asked, LOSSES[name](), p, 1, device, checkpoint=file, watch=watch)
    torch.rand(3)  # what happens in between does not matter
    seen = []
    last = {"checkpoint": file, "watch": lambda rows: seen.append(len(rows))}
    again = train.fit(*asked, LOSSES[name](), p, 1, device, **last)
    assert seen == list(range(epochs, 4))
    for key in ("weights_sha256", "curves", "recall", "margins", "accuracy"):
        assert again[key] == whole[key]


# A loss serves many runs, and may be annealed in one.


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_was_used_is_as_good_as_new(tiny, name):
    p = small(**MOVED, validation=0)
    asked = pictures(), noise.NoiseSpec.symmetric(0.4)
    loss = LOSSES[name]() + CELoss()
    first = train.fit(*asked, loss, p, 1)
    loss.eval()
    for seed in (2, 1):
        new = train.fit(*asked, LOSSES[name]() + CELoss(), p, seed)
        used = train.fit(*asked, loss, p, seed)
        assert used["weights_sha256"] == new["weights_sha256"]
    assert used["curves"] == first["curves"]
    if name == "elr":
        assert loss.losses[0].targets.any(1).all()


def test_a_seed_draws_for_a_generator_of_ones_own(tiny):
    p = small(**MOVED, validation=0)
    asked = pictures(), noise.NoiseSpec.symmetric(0.4)
    g = [torch.Generator().manual_seed(s) for s in (5, 6)]
    one, two = (train.fit(*asked, NLNLLoss(generator=x), p, 1) for x in g)
    assert one["weights_sha256"] == two["weights_sha256"]
    assert g[0].get_state().equal(g[1].get_state())


def annealed(loss):
    def watch(rows):
        loss.coefs[0] = 1 - len(rows) / 3
        loss.losses[1].m = 10.0 ** len(rows)

    return watch


def test_an_annealed_loss_goes_on_and_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Saver, "rest", 0)
    p = small(**MOVED, epochs=3, validation=0)
    asked = pictures(), noise.NoiseSpec.symmetric(0.4)
    build, file = lambda: CELoss() + EpsCELoss(m=1), tmp_path / "run.pt"

    def run(loss, watch, **more):
        return train.fit(*asked, loss, p, 1, watch=watch, **more)

    plain, whole = run(build(), None), run(loss := build(), annealed(loss))
    assert whole["weights_sha256"] != plain["weights_sha256"]
    words = f"{build()!r}, at the end 0 * CELoss() + EpsCELoss(m=1000, tau=1e-08)"
    assert (plain["loss"], whole["loss"]) == (repr(build()), words)
    with pytest.raises(Stopped):
        loss = build()
        change, stop = annealed(loss), stop_after(2)
        run(loss, lambda rows: (change(rows), stop(rows)), checkpoint=file)
    again = run(loss := build(), annealed(loss), checkpoint=file)
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["loss"] == whole["loss"]


def test_a_step_is_recorded_anew_when_its_loss_has_changed(tiny, monkeypatch):
    made = []
    monkeypatch.setattr(train, "recorded", lambda step, *_: made.append(1) or step)
    p = small(**MOVED, epochs=3, validation=0)
    asked = pictures(), noise.NoiseSpec.symmetric(0.4)
    train.fit(*asked, ELRLoss(num_samples=52, num_classes=4), p, 1)
    assert len(made) == 1
    loss = CELoss() + EpsCELoss(m=1)
    train.fit(*asked, loss, p, 1, watch=annealed(loss))
    assert len(made) == 1 + 3
    t = 0.6 * torch.eye(4) + 0.1
    loss = ForwardLoss(transition=t)
    train.fit(*asked, loss, p, 1, watch=lambda _: setattr(loss, "transition", t))
    assert len(made) == 4 + 3


@pytest.mark.parametrize("kind, again", [(ForwardLoss, 1), (BackwardLoss, 2)])
def test_a_step_is_recorded_anew_when_a_matrix_was_written(
    tiny, monkeypatch, kind, again
):
    made = []
    monkeypatch.setattr(train, "recorded", lambda step, *_: made.append(1) or step)
    p, loss = small(**MOVED, epochs=4, validation=0), kind(transition=MATRIX)

    def write(rows):
        if len(rows) == 1:
            loss.transition.copy_(MATRIX.flip(0, 1))

    train.fit(pictures(), noise.NoiseSpec.clean(), loss, p, 1, watch=write)
    assert len(made) == 1 + again  # and once more for an inverse, which moves


def test_a_loss_that_learns_is_refused(tiny):
    loss = CELoss() + ForwardLoss.learned(transition=0.6 * torch.eye(4) + 0.1)
    with pytest.raises(ValueError, match=r"loss has losses\.1\.scores to learn"):
        train.fit(pictures(), noise.NoiseSpec.symmetric(0.4), loss, small(), 1)


def test_a_checkpoint_is_read_onto_the_device_of_the_run(tiny, tmp_path, monkeypatch):
    # A learning rate left on the CPU would be a constant in a CUDA graph.
    file, asked = tmp_path / "run.pt", []

    def load(path, about, device):
        asked.append((path, device))

    monkeypatch.setattr(train, "load_checkpoint", load)
    p = small(**MOVED, validation=0)
    train.fit(pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1, checkpoint=file)
    assert asked == [(file, "cpu")]


def test_a_run_on_another_kind_of_device_is_another_run(tiny, tmp_path, monkeypatch):
    p, file = small(**MOVED, validation=0), tmp_path / "run.pt"
    asked = pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1
    with monkeypatch.context() as patch:
        patch.setattr(train, "load_checkpoint", lambda *_: None)
        patch.setattr(checkpoint, "save_checkpoint", save_elsewhere)
        train.fit(*asked, checkpoint=file)
    with pytest.raises(ValueError, match=r"another run \(device was cuda, is cpu"):
        train.fit(*asked, checkpoint=file)


def save_elsewhere(file, about, state):
    save_checkpoint(file, about | {"device": "cuda"}, state)


def test_a_finished_run_leaves_nothing_behind(tiny, monkeypatch):
    kept, start = [], train._start
    monkeypatch.setattr(
        train, "_start", lambda *a: kept.append(weakref.ref(r := start(*a))) or r
    )
    gc.disable()
    try:
        p = small(**MOVED, validation=0)
        train.fit(pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_a_finished_run_is_not_trained_again(tiny, tmp_path):
    p, file = small(**MOVED, validation=0), tmp_path / "run.pt"
    asked = pictures(), noise.NoiseSpec.clean(), CELoss(), p, 1
    first = train.fit(*asked, checkpoint=file)
    again = train.fit(*asked, checkpoint=file, watch=stop_after(1))
    assert again["weights_sha256"] == first["weights_sha256"]


def test_another_runs_checkpoint_is_refused(tiny, tmp_path):
    p, file = small(**MOVED, validation=0), tmp_path / "run.pt"
    asked = pictures(), noise.NoiseSpec.clean(), CELoss(), p
    train.fit(*asked, 1, checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"another run \(seed was 1, is 2\): delete"):
        train.fit(*asked, 2, checkpoint=file)
    assert file.read_bytes() == before


SKEWED = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(4, 1)
MATRIX = 0.6 * torch.eye(4) + 0.4 * SKEWED


@pytest.mark.parametrize(
    "build",
    [
        lambda t: ForwardLoss(transition=t),
        lambda t: CELoss() + ForwardLoss(transition=t),
        lambda t: CELoss(weight=t[0]),
    ],
)
def test_a_checkpoint_knows_the_matrix_and_the_weights_of_its_loss(
    tiny, tmp_path, build
):
    p, file = small(**MOVED, validation=0), tmp_path / "run.pt"
    asked = pictures(), noise.NoiseSpec.clean()
    first = train.fit(*asked, build(MATRIX), p, 1, checkpoint=file)
    again = train.fit(*asked, build(MATRIX), p, 1, checkpoint=file)
    assert again["weights_sha256"] == first["weights_sha256"]
    other = build(MATRIX.flip(0, 1))
    with pytest.raises(ValueError, match=r"run \(loss_tensors was .*\): delete"):
        train.fit(*asked, other, p, 1, checkpoint=file)


def test_a_checkpoint_from_before_sums_of_losses_goes_on(tiny, tmp_path, monkeypatch):
    p, file = small(**MOVED, validation=0), tmp_path / "run.pt"
    about, elr = {}, ELRLoss(num_samples=52, num_classes=4)
    monkeypatch.setattr(train, "load_checkpoint", lambda _, a, __: about.update(a))
    asked = pictures(), noise.NoiseSpec.clean()
    for loss in (CELoss(), elr, elr):  # one that has been used, too
        train.fit(*asked, loss, p, 1, checkpoint=file)
    assert "loss" in about and "loss_tensors" not in about


def halved(loss):
    return lambda rows: loss.coefs.__setitem__(0, loss.coefs[0] / 2)


def tenfold(loss):
    return lambda rows: setattr(loss.losses[1], "m", 10 * loss.losses[1].m)


def mixed(loss):
    return lambda rows: loss.losses[2].transition.mul_(0.5).add_(0.125)


@pytest.mark.parametrize("change, stops", [(halved, 2), (tenfold, 2), (mixed, 1)])
def test_a_run_annealed_step_by_step_does_not_go_on(tiny, tmp_path, change, stops):
    p, file = small(**MOVED, epochs=4, validation=0), tmp_path / "run.pt"

    def run():
        loss = CELoss() + EpsCELoss(m=1) + ForwardLoss(transition=MATRIX)
        how = {"checkpoint": file, "watch": change(loss), "until": 0.0}
        train.fit(pictures(), noise.NoiseSpec.symmetric(0.4), loss, p, 1, **how)

    for _ in range(stops):  # after one epoch each
        with pytest.raises(train.OutOfTime):
            run()
    with pytest.raises(ValueError, match=r"let it set values from len\(rows\)"):
        run()


def test_a_run_annealed_by_its_epochs_goes_on_whenever_it_stopped(tiny, tmp_path):
    p, file = small(**MOVED, epochs=4, validation=0), tmp_path / "run.pt"

    def run(watch=annealed, **more):
        loss = CELoss() + EpsCELoss(m=1)
        asked = pictures(), noise.NoiseSpec.symmetric(0.4), loss, p, 1
        return train.fit(*asked, watch=watch(loss), **more)

    whole = run()
    for _ in range(2):
        with pytest.raises(train.OutOfTime):
            run(checkpoint=file, until=0.0)
    with pytest.raises(ValueError, match="give the same watch"):
        run(lambda loss: None, checkpoint=file)
    again = run(checkpoint=file)
    assert again["weights_sha256"] == whole["weights_sha256"]
