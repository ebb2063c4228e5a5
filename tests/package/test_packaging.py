"""What a user installs: the wheel, what importing it needs, and the lock file."""

import configparser
import importlib
import importlib.metadata as metadata
import inspect
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
from alone import build_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "epsbook"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "_modidx.py"
)


# --- the wheel ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    "A folder with nothing but the unpacked wheel."
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(code, site, cwd):
    "Run code in an isolated interpreter that finds the wheel first."
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    run = [sys.executable, "-I", "-c", start + textwrap.dedent(code)]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True)


def expected_files():
    "Files a wheel must hold, by their path in it."
    for path in PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(ROOT))
    for path in (ROOT / "results").glob("*.json*"):
        yield f"epsbook/results/{path.name}"


def test_the_wheel_holds_the_package_its_data_and_nothing_else(site):
    found = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    package = {name for name in found if ".dist-info/" not in name}
    assert package - {"epsbook/results/__init__.py"} == set(expected_files())


def test_the_wheel_is_typed_licensed_and_has_its_command(site):
    info = next(site.glob("epsbook-*.dist-info"))
    assert (site / "epsbook" / "py.typed").exists(), "add an empty epsbook/py.typed"
    assert "epsbook.__main__:main" in (info / "entry_points.txt").read_text()
    for name in ("LICENSE", "LICENSE-text"):
        kept = (info / "licenses" / name).read_bytes()
        assert kept == (ROOT / name).read_bytes()


def test_the_wheel_states_the_version_in_settings(site):
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    info = metadata.PathDistribution(next(site.glob("epsbook-*.dist-info")))
    assert info.version == settings["DEFAULT"]["version"]
    assert info.metadata["License-Expression"] == "Apache-2.0"


# --- what importing needs -----------------------------------------------------------

OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("importing epsbook must not use the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


def test_the_wheel_imports_alone_offline_and_light(site, tmp_path):
    code = """
    import epsbook
    heavy = {"sklearn", "matplotlib", "pandas", "seaborn"} & set(sys.modules)
    assert not heavy, f"import epsbook imports {heavy}"
    import epsbook.losses
    heavy = {"sklearn", "matplotlib", "pandas", "seaborn"} & set(sys.modules)
    assert not heavy, f"import epsbook.losses imports {heavy}"
    print(epsbook.__file__, epsbook.losses.__file__)
    """
    done = python(OFFLINE + textwrap.dedent(code), site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(site)) == 2
    assert not list(tmp_path.iterdir()), "importing wrote a file"


def test_every_module_imports_offline(site, tmp_path):
    names = [name for name in MODULES if not name.startswith("epsbook.assets")]
    code = OFFLINE + f"import importlib\nfor n in {names}: importlib.import_module(n)"
    done = python(code, site, tmp_path)
    assert done.returncode == 0, done.stderr


def needs(*roots):
    "Distributions that these ones need, themselves included."
    found, todo = set(), [canonicalize_name(root) for root in roots]
    while todo:
        name = todo.pop()
        if name in found or not installed(name):
            continue
        found.add(name)
        todo += [canonicalize_name(r.name) for r in requirements_of(name)]
    return found


def installed(name):
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(name):
    "Requirements that hold here, without extras."
    listed = map(Requirement, metadata.requires(name) or [])
    return [r for r in listed if not r.marker or r.marker.evaluate({"extra": ""})]


def python_with_only(allowed, code, site, folder):
    "Run code where nothing but these distributions and their own can be imported."
    blocked = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & needs(*allowed)
    } - {"epsbook", "dill"}  # dill: torch imports it itself, where it is installed
    assert {"jaxtyping", "fastcore", "sklearn", "typer", "PIL"} <= blocked
    block = f"""
    import sys
    class Block:
        def find_spec(self, name, path=None, target=None):
            asks = sys._getframe(2).f_code.co_filename  # torch asks what is there
            if name.split(".")[0] in {blocked!r} and asks != "<frozen importlib.util>":
                raise ModuleNotFoundError(f"epsbook must not need {{name}} here")
    sys.meta_path.insert(0, Block())
    """
    return python(block + code, site, folder)


def test_losses_need_only_torch_and_numpy(site, tmp_path):
    code = """
    import torch
    from epsbook.losses import CELoss, EpsCELoss, MAELoss
    logits = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0])
    loss = CELoss() + 0.01 * EpsCELoss(m=1e3) + 5 * MAELoss()
    loss(logits, target).backward()
    assert logits.grad.isfinite().all()
    """
    done = python_with_only(("torch", "numpy"), code, site, tmp_path)
    assert done.returncode == 0, done.stderr


def test_training_needs_only_torch_numpy_and_tqdm(site, tmp_path):
    code = """
    import torch
    from epsbook import data, losses, noise, train
    from epsbook.runs import plan, record
    x = torch.randint(0, 256, (40, 3, 32, 32)).byte()
    y = torch.arange(40) % 4
    d = data.Dataset("made", x, y, x, y, 4)
    p = train.Protocol("cifar_cnn_half", 1, 8, 0.1, 0.9, 0, 5, 0, crop=4, flip=True)
    loss = losses.recipe("ce_eps+mae", dataset="cifar10")
    spec = noise.NoiseSpec.symmetric(0.4)
    r = train.fit(d, spec, loss, p, 1, checkpoint="run.pt")
    r |= {"experiment": "made", "method": "x", "scale": "smoke", "terms": []}
    assert record.read_record(record.write_record(r, "out"))["seed"] == 1
    """
    done = python_with_only(("torch", "numpy", "tqdm"), code, site, tmp_path)
    assert done.returncode == 0, done.stderr


# --- public names -------------------------------------------------------------------


def public(module):
    "Pairs (name, object) of a module's `__all__`."
    loaded = importlib.import_module(module)
    return [(name, getattr(loaded, name)) for name in getattr(loaded, "__all__", [])]


def undocumented(name, thing):
    "What a public function or class and its public methods lack."
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    if not inspect.getdoc(thing) or not thing.__doc__:
        yield f"{name} has no docstring"
    members = vars(thing).items() if inspect.isclass(thing) else []
    if not inspect.isclass(thing):
        yield from unannotated(name, thing)
    for member, value in members:
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if inspect.isfunction(function) and function.__module__ == thing.__module__:
            if member == "__init__":
                yield from unannotated(f"{name}.__init__", function)
            elif not member.startswith("_"):
                yield from undocumented(f"{name}.{member}", function)


def unannotated(name, function):
    "Parameters and results without a type."
    signature = inspect.signature(inspect.unwrap(function))
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty and parameter.name not in (
            "self",
            "cls",
        ):
            yield f"{name}: parameter {parameter.name} has no annotation"
    if signature.return_annotation is signature.empty and "__init__" not in name:
        yield f"{name}: the result has no annotation"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented_and_typed(module):
    problems = [p for name, thing in public(module) for p in undocumented(name, thing)]
    assert not problems, f"{module}:\n" + "\n".join(problems)


@pytest.mark.parametrize("module", MODULES)
def test_all_says_what_is_public(module):
    loaded = importlib.import_module(module)
    source = Path(loaded.__file__).read_text(encoding="utf-8")
    defines = "\ndef " in source or "\nclass " in source
    assert hasattr(loaded, "__all__") or not defines, f"{module} has no __all__"


def test_what_lacks_docstring_or_types_is_seen():
    class Bare:
        "Documented."

        def __init__(self, a):
            pass

        def method(self, b: int):
            pass

    seen = list(undocumented("Bare", Bare))
    assert len(seen) == 3, seen
    assert len(list(undocumented("f", lambda a: a))) == 3


# --- requirements.lock --------------------------------------------------------------


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(x) for x in lines if x.strip() and not x.startswith("#")]


def lock_problems(lock, wanted):
    "What keeps a lock from being exact, complete and single."
    names = [canonicalize_name(r.name) for r in lock]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} stands there twice"
    for entry in lock:
        pins = list(entry.specifier)
        if [p.operator for p in pins] != ["=="] or "*" in pins[0].version:
            yield f"{entry} is not one exact version"
    if "epsbook" in names:
        yield "epsbook itself stands there"
    versions = {
        n: p.version for n, r in zip(names, lock, strict=True) for p in r.specifier
    }
    for need in wanted:
        name = canonicalize_name(need.name)
        if name not in versions:
            yield f"{need} is missing"
        elif not need.specifier.contains(versions[name], prereleases=True):
            yield f"{need}, but {name} is locked at {versions[name]}"


def asked_for(*extras):
    "Requirements of the project and of these extras."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    listed = project["dependencies"] + [x for extra in extras for x in optional[extra]]
    return [r for r in map(Requirement, listed) if not r.marker or r.marker.evaluate()]


def test_the_lock_is_exact_and_satisfies_the_project():
    assert not list(lock_problems(locked(), asked_for("book", "dev")))


def test_the_lock_is_closed():
    here = [r for r in locked() if not r.marker or r.marker.evaluate()]
    wanted = [q for r in here if installed(r.name) for q in requirements_of(r.name)]
    assert not list(lock_problems(locked(), wanted))


@pytest.mark.parametrize(
    "lines",
    [
        ["a==1", "A==1"],
        ["a>=1"],
        ["a==1.*"],
        ["a==1", "epsbook==0.1"],
        ["b==1"],
        ["a==0.9"],
    ],
)
def test_a_bad_lock_is_seen(lines):
    assert list(lock_problems(list(map(Requirement, lines)), [Requirement("a>=1")]))


def test_a_good_lock_passes():
    lock = [Requirement('a==1.0; sys_platform == "linux"'), Requirement("b==2")]
    assert not list(lock_problems(lock, [Requirement("a>=1")]))
