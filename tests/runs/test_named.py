"""Noise and runs by name: what a name means, what is refused, and what a file is called."""

import contextlib
import dataclasses
import itertools
import json
import re
from importlib.resources import files

import pytest
import torch

from epsbook import data, noise
from epsbook.data.files import home
from epsbook.losses.recipes import find_recipe, known_recipes
from epsbook.noise import NoiseSpec
from epsbook.noise.transition import fixed_labels
from epsbook.runs import duration, record
from epsbook.runs.duration import expected, say_duration
from epsbook.runs.named import named_noise, recipe_noise, run_name
from epsbook.runs.plan import Plan

TABLE = [
    ("clean", "mnist", NoiseSpec.clean()),
    ("symmetric:0.4", "mnist", NoiseSpec.symmetric(0.4)),
    ("symmetric:0", "mnist", NoiseSpec.symmetric(0)),
    ("inclusive:0.4", "mnist", NoiseSpec.symmetric(0.4, inclusive=True)),
    ("pair:0.4", "mnist", NoiseSpec.pair(0.4)),
    ("asymmetric:0.4", "cifar10", NoiseSpec.asymmetric(0.4, noise.CIFAR10_MAP)),
    ("asymmetric:0.4", "mnist", NoiseSpec.asymmetric(0.4, noise.MNIST_MAP)),
    (
        "asymmetric:0.4",
        "cifar10_patches",
        NoiseSpec.asymmetric(0.4, noise.CIFAR10_MAP),
    ),
    ("cifar10n-worse", "cifar10_patches", NoiseSpec.fixed("cifar10n-worse")),
    ("asymmetric:0.4", "digits", NoiseSpec.asymmetric(0.4, noise.MNIST_MAP)),
    (
        "asymmetric:0.4",
        "cifar100",
        NoiseSpec.superclass(0.4, noise.CIFAR100_SUPERCLASSES),
    ),
    ("blocks:0.4", "cifar100", NoiseSpec.superclass(0.4, noise.CIFAR100_BLOCKS)),
    (
        "in_place:0.4",
        "cifar10",
        NoiseSpec.from_transition(
            noise.in_place_transition(0.4, noise.CIFAR10_MAP, 10)
        ),
    ),
    ("instance:0.4", "cifar10", NoiseSpec.instance(0.4)),
    *(
        (name, name.partition("-")[0].removesuffix("n"), NoiseSpec.fixed(name))
        for name in fixed_labels()
    ),
]
COUNTED = {
    name: counts
    for which in ("cifar10n", "instance")
    for name, counts in record.measured(f"labels-{which}")["counts"].items()
}
TABLE += [
    (
        f"twin-{name}",
        "cifar10",
        NoiseSpec.from_transition(torch.tensor(counts, dtype=torch.float64) / 5000),
    )
    for name, counts in COUNTED.items()
]
NAMES = [(text, dataset) for text, dataset, _ in TABLE]


# --- noise ----------------------------------------------------------------------------


@pytest.mark.parametrize("text, dataset, spec", TABLE)
def test_every_name_of_the_table_is_its_noise(text, dataset, spec):
    assert named_noise(text, dataset) == spec


@pytest.mark.parametrize("text, dataset", NAMES)
def test_every_named_noise_survives_json(text, dataset):
    spec = named_noise(text, dataset)
    assert NoiseSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "text, dataset, k",
    [
        ("blocks:0.4", "cifar100", 100),
        ("asymmetric:0.4", "cifar100", 100),
        ("in_place:0.4", "cifar10", 10),
        ("asymmetric:0.4", "cifar10", 10),
    ],
)
def test_named_noise_fits_the_classes_of_its_data(text, dataset, k):
    given = named_noise(text, dataset).corrupt(torch.arange(100 * k) % k, k, 1)
    assert len(given.unique()) <= k and given.max() < k


@pytest.mark.parametrize("name", COUNTED)
def test_a_twin_has_the_counts_of_its_original(name):
    true = torch.arange(50_000) % 10
    spec = named_noise(f"twin-{name}", "cifar10_patches")
    given = spec.corrupt(true, 10, seed=1)
    counts = (10 * true + given).bincount(minlength=100).reshape(10, 10)
    assert counts.tolist() == COUNTED[name]
    assert fixed_labels()[name]["wrong"] == 50_000 - counts.trace()
    assert not torch.equal(given, spec.corrupt(true, 10, seed=2))


def test_released_variants_are_not_what_the_papers_say():
    pairs = [("cifar100", "blocks:0.4"), ("cifar10", "in_place:0.4")]
    for dataset, released in pairs:
        k = 100 if dataset == "cifar100" else 10
        found = named_noise(released, dataset).transition(k)
        wanted = named_noise("asymmetric:0.4", dataset).transition(k)
        assert abs(found - wanted).max() > 0.1


@pytest.mark.parametrize(
    "text, dataset, says",
    [
        ("symetric:0.8", "mnist", r"no noise 'symetric:0.8'; known: clean, asymm"),
        ("", "mnist", "no noise ''; known: clean"),
        ("clean:0.4", "mnist", "no noise 'clean:0.4'"),
        ("cifar10n-worse:0.4", "cifar10", "no noise .*cifar10n-worse, cifar100n-fine"),
        ("Symmetric:0.4", "mnist", "no noise"),
        ("symmetric", "mnist", "must end in a rate, as in symmetric:0.4; got 'symm"),
        ("symmetric:", "mnist", "must end in a rate"),
        ("symmetric:much", "mnist", "must end in a rate.*'symmetric:much'"),
        ("symmetric:0.4:1", "mnist", "must end in a rate"),
        ("symmetric:40", "mnist", r"\[0, 1\] \(40 % is 0.4\), got 40"),
        ("symmetric:-0.1", "mnist", r"rate must lie in \[0, 1\]"),
        ("symmetric:nan", "mnist", "must end in a rate"),
        ("symmetric: 0.4", "mnist", "must end in a rate"),
        ("symmetric:0.1_5", "mnist", "must end in a rate"),
        ("cifar10n-worse", "cifar100", "'cifar10n-worse' are for cifar10, not"),
        ("cifar100n-fine", "cifar10", "are for cifar100, not cifar10"),
        ("in_place:2", "cifar10", r"rate must lie in \[0, 1\]"),
        ("blocks:0.4", "mnist", "'blocks' is for cifar100 only"),
        ("twin-cifar10n-worse", "cifar100", "'cifar10n-worse' are for cifar10, not"),
        ("twin-cifar10n-worse:0.4", "cifar10", "no noise 'twin-cifar10n-worse:0.4'"),
        ("twin-clean", "cifar10", "no noise 'twin-clean'"),
        ("blocks:0.4", "cifar10_patches", "'blocks' is for cifar100 only"),
        ("cifar100n-fine", "cifar10_patches", "for cifar100, not cifar10_patches"),
        ("in_place:0.4", "cifar100", "'in_place' is for cifar10 only"),
        ("asymmetric:0.4", "fashion_mnist", "no asymmetric noise .* fashion_mnist"),
        ("asymmetric:0.4", "prototypes-10", "no asymmetric noise is published"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(text, dataset, says):
    with pytest.raises(ValueError, match=says):
        named_noise(text, dataset)


def test_an_unknown_name_lists_all_that_are_known():
    with pytest.raises(ValueError) as error:
        named_noise("no such noise", "mnist")
    listed = str(error.value).partition("known: ")[2].split(", ")
    words = {text.partition(":")[0] for text, _ in NAMES}
    assert {name.removesuffix(":RATE") for name in listed} == words
    assert len(listed) == len(words)


# --- what recipes call it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, dataset, wanted",
    [
        ("clean", "mnist", ("symmetric", 0)),
        ("symmetric:0.4", "mnist", ("symmetric", 0.4)),
        ("inclusive:0.4", "mnist", ("symmetric", 0.4)),
        ("pair:0.2", "mnist", ("asymmetric", 0.2)),
        ("asymmetric:0.3", "cifar10", ("asymmetric", 0.3)),
        ("asymmetric:0.3", "cifar100", ("asymmetric", 0.3)),
        ("blocks:0.3", "cifar100", ("asymmetric", 0.3)),
        ("instance:0.6", "cifar10", ("instance", 0.6)),
        ("cifar10n-worse", "cifar10", ("human", None)),
        ("cifar100n-fine", "cifar100", ("human", None)),
        ("cifar10-instance-20", "cifar10", ("instance", 0.2)),
        ("cifar100-instance-60", "cifar100", ("instance", 0.6)),
    ],
)
def test_recipes_know_every_kind_of_noise(text, dataset, wanted):
    assert recipe_noise(named_noise(text, dataset)) == wanted


def test_a_matrix_counts_as_asymmetric():
    assert recipe_noise(named_noise("in_place:0.4", "cifar10"))[0] == "asymmetric"


@pytest.mark.parametrize("spec", [spec for *_, spec in TABLE])
def test_recipes_have_the_kind_that_is_named(spec):
    assert recipe_noise(spec)[0] in {"symmetric", "asymmetric", "instance", "human"}
    assert {r.noise for r in known_recipes()} >= {"symmetric", "asymmetric", "instance"}


# --- names of files ------------------------------------------------------------------------


@pytest.mark.parametrize("text, dataset", [*NAMES, ("symmetric:1e-3", "prototypes-10")])
def test_names_of_runs_are_plain(text, dataset):
    assert re.fullmatch(r"[a-z0-9_.]+", run_name(dataset, text))


def test_different_runs_have_different_names():
    words = ["symmetric:0.2", "symmetric:0.4", "pair:0.4", "clean", *fixed_labels()]
    names = {run_name(d, text) for d in data.DATASETS for text in words}
    assert len(names) == len(words) * len(data.DATASETS)


def test_a_record_name_sorts_the_changes():
    changes = {"lr": 0.5, "batch_size": 8, "epochs": 1}
    names = [
        Plan("mnist", "symmetric:0.4", "ce", changes=dict(order)).record_name(3)
        for order in (changes.items(), reversed(changes.items()))
    ]
    assert names == ["mnist_symmetric_0.4-ce@batch_size=8@epochs=1@lr=0.5-seed3"] * 2


def test_without_changes_a_method_keeps_its_name():
    assert Plan("mnist", "clean", "sce").record_name(0) == "mnist_clean-sce-seed0"


@pytest.fixture(scope="module")
def plan():
    "A run of one epoch."
    changes = {"samples": 128, "epochs": 1, "channels_last": True}
    named = "digits", "pair:0.2", "gce", "smoke"
    return Plan(*named, recipe_of="cifar10", changes=changes)


@pytest.fixture(scope="module")
def made(plan):
    "Its record with seed 4."
    return plan.run(4)


def test_a_record_is_written_under_the_name_it_is_looked_for(plan, made, tmp_path):
    path = record.write_record(made, tmp_path)
    assert path.name == plan.record_name(4) + ".json"
    assert record.read_record(path) == json.loads(json.dumps(made))
    (found,) = record.read_records("digits_pair_*", tmp_path)
    assert found["method"] == "gce@channels_last=True@epochs=1@samples=128"


def test_a_run_by_names_has_recipe_noise_and_protocol_of_these_names(plan, made):
    wanted = find_recipe("gce", dataset="cifar10", noise="asymmetric", rate=0.2)
    assert made["terms"] == wanted.terms and made["scale"] == "smoke"
    assert NoiseSpec.from_dict(made["noise"]) == NoiseSpec.pair(0.2) == plan.spec
    assert made["dataset"] == "digits" and made["seed"] == 4
    assert made["protocol"] == plan.protocol.to_dict()
    assert plan.protocol.epochs == 1 and plan.protocol.samples == 128
    assert len(made["curves"]["test"]) == 1


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("method", "mae", r"method was mae, is gce@"),
        ("scale", "paper", "scale was paper, is smoke"),
        ("protocol", {"epochs": 3}, r"protocol was {'epochs': 3}, is {'network'"),
        ("protocol", None, "protocol was None"),
    ],
)
def test_a_record_of_another_run_says_in_what_it_differs(plan, made, key, value, says):
    assert plan.difference(made) is None
    assert plan.difference(json.loads(json.dumps(made))) is None
    assert plan.difference(made | {key: value}).startswith(says)


def test_a_record_from_another_machine_is_of_this_plan_in_either_precision():
    plan = Plan("cifar10", "symmetric:0.8", "ce", "paper")
    single, half = (
        dataclasses.replace(plan.protocol, precision=p).to_dict()
        for p in ("fp32", "bf16")
    )
    assert half["precision"] == "bf16" and "precision" not in single
    for protocol in (single, half):
        assert plan.difference(plan.head | {"protocol": protocol}) is None
    named = Plan(
        "cifar10", "symmetric:0.8", "ce", "paper", changes={"precision": "fp32"}
    )
    assert named.difference(named.head | {"protocol": single}) is None
    assert "protocol was" in named.difference(named.head | {"protocol": half})


def test_options_go_on_to_fit(monkeypatch):
    seen = []

    def fit(d, spec, loss, protocol, seed, **options):
        seen.append((d.name, seed, options))
        return {}

    monkeypatch.setattr("epsbook.runs.plan.fit", fit)
    plan = Plan("digits", "clean", "ce", "smoke", recipe_of="mnist")
    plan.run(2, device="cpu")
    plan.run(2, label="mine")
    assert seen == [
        ("digits", 2, {"device": "cpu", "label": "digits clean ce 2"}),
        ("digits", 2, {"label": "mine"}),
    ]


# --- how long it will take ----------------------------------------------------------------


def kept(made, folder, **changes):
    "Write its record so changed; a new seed is a new file."
    seed = len(list(folder.iterdir()))
    record.write_record(made | {"seed": seed} | changes, folder)


def test_a_duration_is_the_median_of_such_runs_here(plan, made, tmp_path):
    assert expected(plan, "cpu", tmp_path / "none") is None
    assert expected(plan, "cpu", tmp_path) is None
    for other in ({"dataset": "mnist"}, {"hardware": {"device": "cpu"}}):
        kept(made, tmp_path, seconds=1000.0, **other)
    batches = made["protocol"] | {"batch_size": 7}
    kept(made, tmp_path, seconds=1000.0, protocol=batches)
    assert expected(plan, "cpu", tmp_path) is None
    for seconds in (1.0, 2.0, 9.0):
        kept(made, tmp_path, seconds=seconds)
    assert expected(plan, "cpu", tmp_path) == 2.0
    longer = made["protocol"] | {"epochs": 10}  # each epoch takes 9 seconds
    for _ in range(9):
        kept(made, tmp_path, seconds=90.0, protocol=longer)
    assert expected(plan, "cpu", tmp_path) == 9.0


def test_a_duration_is_of_the_precision_that_the_machine_would_use(
    plan, made, tmp_path, monkeypatch
):
    auto = dataclasses.replace(plan, changes=plan.changes | {"precision": "auto"})
    kept(made, tmp_path, seconds=5.0)
    kept(made, tmp_path, seconds=3.0, protocol=made["protocol"] | {"precision": "bf16"})
    for has, seconds in ((True, 3.0), (False, 5.0)):
        monkeypatch.setattr("epsbook.train.protocol.has_bf16", lambda device, x=has: x)
        assert expected(auto, "cpu", tmp_path) == seconds


def test_the_second_epoch_says_how_long_a_run_takes(monkeypatch):
    said, clock = [], iter([10.0, 12.5, 15.0])
    monkeypatch.setattr(duration.time, "perf_counter", lambda: next(clock))
    watch = say_duration(40, said.append)
    for done in (1, 2, 3):
        watch([{}] * done)
    assert said == ["about 100 s a run"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_has_ended_is_not_announced(epochs):
    watch = say_duration(epochs, pytest.fail)
    for done in range(epochs):
        watch([{}] * (done + 1))


# --- names that are refused before anything is loaded -----------------------------------------


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(data, "load", lambda name: pytest.fail("data were loaded"))


METHODS = sorted({r.method for r in known_recipes()})
ASKED = ["symmetric:0.4", "instance:0.4", "asymmetric:0.2", "pair:0.3"]


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar100"])
@pytest.mark.parametrize("text", ASKED)
def test_another_recipe_is_offered_where_it_works(name, text):
    refused = 0
    for method in METHODS:
        try:
            Plan(name, text, method)
        except ValueError as error:
            refused += 1
            offered = str(error).partition("another data set's: ")[2].split(", ")
            works = set()
            for other in {r.dataset for r in known_recipes()}:
                with contextlib.suppress(ValueError):
                    works.add(Plan(name, text, method, recipe_of=other) and other)
            assert set(offered) == works, method
    assert refused
    for method in ("nonsense", ""):
        with pytest.raises(ValueError) as error:
            Plan(name, text, method)
        assert "recipe_of" not in str(error.value)


@pytest.mark.parametrize(
    "names, recipe_of",
    [
        (("cifar10", "symmetric:0.8", "ce_eps+mae"), None),
        (("cifar100", "blocks:0.4", "ce"), None),
        (("mnist", "clean", "gce"), None),
        (("digits", "symmetric:0.4", "ce"), "mnist"),
        (("fashion_mnist", "symmetric:0.4", "ce"), "mnist"),
        (("cifar10", "cifar10n-worse", "ce_eps+mae"), None),
        (("cifar10", "cifar10n-aggre", "ce_eps+mae"), None),
    ],
)
def test_good_names_are_accepted_without_loading(names, recipe_of, no_data):
    assert Plan(*names, recipe_of=recipe_of).terms


@pytest.mark.parametrize(
    "names, options, says",
    [
        (("imagenet", "clean", "ce"), {}, "no data set 'imagenet'; known: digits"),
        (("mnist", "symetric:0.4", "ce"), {}, "no noise 'symetric:0.4'; known: cl"),
        (("mnist", "symmetric:2", "ce"), {}, "rate"),
        (("mnist", "blocks:0.4", "ce"), {}, "for cifar100 only$"),
        (("mnist", "clean", "cee"), {}, "no recipe for method 'cee'; known: .*ce,"),
        (
            ("digits", "clean", "gce"),
            {},
            r"another data set's: cifar10, cifar100, mnist$",
        ),
        (
            ("digits", "clean", "ce"),
            {"recipe_of": "mnst"},
            "'mnst' .method 'ce'.; known: .*mnist",
        ),
        (("mnist", "cifar10n-worse", "ce"), {}, "are for cifar10, not mnist"),
        (("mnist", "clean", "ce"), {"changes": {"epoch": 1}}, "fields: network"),
        (("mnist", "clean", "ce"), {"at": "big"}, "one of"),
    ],
)
def test_bad_names_are_refused_with_those_that_are_known(names, options, says, no_data):
    with pytest.raises(ValueError, match=says):
        Plan(*names, **options)


def test_one_rate_has_one_name():
    texts = ("symmetric:0.4", "symmetric:.4", "symmetric:0.40", "symmetric:4e-1")
    assert {run_name("mnist", text) for text in texts} == {"mnist_symmetric_0.4"}


# --- what comes nearest -------------------------------------------------------------------------

METHODS = sorted({r.method for r in known_recipes()})
CIFAR10 = [text for text, name in NAMES if home(name) == "cifar10"]
CIFAR10 += ["clean", "symmetric:0.35", "inclusive:0.4", "pair:0.2", "instance:0.8"]
SCHEMA = "record.schema.json"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10_patches"])
@pytest.mark.parametrize("text", CIFAR10)
def test_every_method_runs_on_every_noise_of_cifar10(text, dataset, no_data):
    for method in METHODS:
        plan = Plan(dataset, text, method)
        assert plan.terms and plan.recipe["dataset"] in ("cifar10", "cifar10n")
        assert set(plan.recipe) == {*"dataset noise rate by source exact".split()}


def nearest(dataset, text, method="ce_eps+mae", **options):
    found = Plan(dataset, text, method, **options).recipe
    return tuple(found[key] for key in ("dataset", "noise", "rate", "exact"))


@pytest.mark.parametrize(
    "asked, wanted",
    [
        (("cifar10", "symmetric:0.8"), ("cifar10", "symmetric", None, True)),
        (("cifar10", "symmetric:0.35"), ("cifar10", "symmetric", None, True)),
        (("cifar10", "cifar10n-worse"), ("cifar10n", "human", None, True)),
        (("cifar10", "cifar10n-worse", "gce"), ("cifar10", "symmetric", None, False)),
        (("cifar10", "cifar10n-worse", "ce+lc"), ("cifar10n", "human", None, True)),
        (("cifar10", "cifar10-instance-40"), ("cifar10", "instance", None, True)),
        (("cifar10", "pair:0.2"), ("cifar10", "asymmetric", None, False)),
        (("cifar10", "in_place:0.4"), ("cifar10", "asymmetric", None, False)),
        (("cifar10", "inclusive:0.4"), ("cifar10", "symmetric", None, False)),
        (("cifar10", "symmetric:0.45", "ce+lc"), ("cifar10", "symmetric", 0.4, False)),
        (("cifar10", "symmetric:0.7", "ce+lc"), ("cifar10", "symmetric", 0.6, False)),
        (("cifar100", "clean"), ("cifar100", "symmetric", 0.0, True)),
        (("cifar100", "symmetric:0.5"), ("cifar100", "symmetric", 0.4, False)),
        (("cifar100", "symmetric:0.55"), ("cifar100", "symmetric", 0.6, False)),
        (("cifar100", "symmetric:0.3"), ("cifar100", "symmetric", 0.2, False)),
        (("cifar100", "blocks:0.4"), ("cifar100", "asymmetric", 0.4, True)),
        (("cifar100", "pair:0.45"), ("cifar100", "asymmetric", 0.4, False)),
        (("cifar100", "cifar100n-fine"), ("cifar100n", "human", None, True)),
        (
            ("cifar100", "cifar100n-fine", "gce"),  # 40.2 % of its labels are wrong
            ("cifar100", "symmetric", 0.4, False),
        ),
        (("cifar10_patches", "symmetric:0.8"), ("cifar10", "symmetric", None, True)),
        (("cifar10_patches", "cifar10n-aggre"), ("cifar10n", "human", None, True)),
        (("mnist", "instance:0.4", "gce"), ("mnist", "symmetric", None, False)),
    ],
)
def test_the_recipe_that_comes_nearest(asked, wanted, no_data):
    assert nearest(*asked) == wanted


def test_what_is_published_is_what_find_recipe_finds(no_data):
    texts = "clean", "symmetric:0.6", "asymmetric:0.3", "instance:0.4"
    for dataset, text, method in itertools.product(
        ("cifar10", "cifar100"), texts, METHODS
    ):
        kind, rate = recipe_noise(named_noise(text, dataset))
        try:
            wanted = find_recipe(method, dataset=dataset, noise=kind, rate=rate)
        except ValueError:  # nfl+nnfl has none for cifar100
            continue
        plan = Plan(dataset, text, method)
        assert plan.terms == wanted.terms and plan.recipe["exact"]
        assert plan.recipe["by"] == wanted.by


def test_another_data_set_is_used_if_it_is_named(no_data):
    found = nearest("cifar10", "symmetric:0.5", recipe_of="cifar100")
    assert found == ("cifar100", "symmetric", 0.4, False)
    found = nearest("cifar10", "cifar10n-worse", recipe_of="cifar100")
    assert found == ("cifar100n", "human", None, False)
    assert not Plan("digits", "clean", "gce", recipe_of="mnist").recipe["exact"]


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
def test_what_has_no_parameters_runs_on_any_data(dataset, no_data):
    for method in ("ce", "mae", "rce", "nce"):
        plan = Plan(dataset, "symmetric:0.3", method)
        assert plan.terms == find_recipe(method, dataset="cifar10").terms
        assert not plan.recipe["exact"]
    for method in ("gce", "mse", "ce_eps+mae"):
        says = re.escape(f"for dataset '{dataset}' (method '{method}'); known: ")
        with pytest.raises(ValueError, match=says):
            Plan(dataset, "symmetric:0.3", method)


def test_a_record_says_which_recipe_it_is(made, plan):
    assert made["recipe"] == plan.recipe
    assert plan.recipe["source"].startswith("Wang et al. 2024")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("epsbook.assets").joinpath(SCHEMA).read_text("utf-8"))
    plain = json.loads(json.dumps(made))
    jsonschema.validate(plain, schema)
    for broken in ({"exact": "no"}, {"by": "hearsay"}, {"rate": 2}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            recipe = plain["recipe"] | broken
            jsonschema.validate(plain | {"recipe": recipe}, schema)
    del plain["recipe"]  # records made before
    jsonschema.validate(plain, schema)
