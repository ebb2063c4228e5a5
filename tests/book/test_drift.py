"""The book, the library and the papers stay in step.

A check is a generator of sentences: file and cell, what is wrong, the fix. Each is
run on every notebook, and on a small sound notebook with one defect planted in it,
which it must report. Cells are counted from 0, as `nbformat` counts them.
"""

import ast
import configparser
import functools
import graphlib
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NBS = ROOT / "nbs"
KINDS = "Definition|Theorem|Lemma|Proposition|Corollary|Remark"
STATEMENT = re.compile(rf"^> \*\*((?:{KINDS}) (\w+\.\d+))\.?\*\*", re.M)
EXERCISE = re.compile(r"^\*\*(Exercise (\w+\.\d+))\*\*", re.M)
EQUATION = re.compile(r"\\(tag\{(\w+\.\d+)\})")
NOT_PROSE = re.compile(r"^```.*?^```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
STEMS = (
    "apolog author central categor character critic crystall custom discret emphas "
    "equal factor final general global hypothes initial item linear local marginal "
    "maxim memor minim neutral normal optim organ parametr penal priorit quant random "
    "real recogn regular serial special stabil standard summar symmetr synthes token "
    "util vector visual"
).replace(" ", "|")
BRITISH = re.compile(
    rf"\b\w*(?:{STEMS})is(?:e[drs]?|ers|ing|ations?)\b"
    r"|\b\w*(?:colour|behaviour|neighbour|favour|honour|labour)\w*"
    r"|\b(?:un|re|mis)?(?:label|model|travel|cancel|signal|total)l(?:ed|ing)\b"
    r"|\b(?:analys(?:e|ed|ing)|cent(?:re[ds]?|ring)|grey\w*|fibres?|metres?|licences?"
    r"|defences?|practis(?:e[ds]?|ing)|whilst|amongst|learnt|artefacts?|judgements?"
    r"|fulfils?|maths|programmes?|sceptic\w*|ageing)\b"
    # `catalogue()` is a name of the library; in prose it is a catalog.
    r"|(?<!import )\bcatalogues?\b(?![(\"])",
    re.I,
)


@functools.cache
def settings():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


class Cell:
    def __init__(self, raw, where):
        self.where, self.kind = where, raw["cell_type"]
        self.source = "".join(raw["source"])
        self.tags = raw["metadata"].get("tags", [])
        self.outputs = raw.get("outputs", [])

    @property
    def prose(self):
        "Text without code and mathematics."
        return NOT_PROSE.sub(" ", self.source)

    @property
    def lines(self):
        "Lines of code: no blank ones, no directives, no nbval markers."
        noise = r"\s*(?:$|#\s*\||#\s*NBVAL_)"
        return [x for x in self.source.splitlines() if not re.match(noise, x)]

    def has_directive(self, *names):
        heads = re.findall(r"^#\s*\|\s*(.+?)\s*$", self.source, re.M)
        return any(head.replace(" ", "") in names for head in heads)

    @property
    def tree(self):
        "Syntax tree; magics stand as `pass`."
        return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", self.source, flags=re.M))


class Notebook:
    def __init__(self, name, raw):
        self.name, self.raw = name, raw
        self.draft = raw["metadata"].get("epsbook", {}).get("draft", False)
        cells = [
            Cell(c, f"nbs/{name}.ipynb, cell {i}") for i, c in enumerate(raw["cells"])
        ]
        self.code = [c for c in cells if c.kind == "code"]
        self.text = [c for c in cells if c.kind == "markdown"]
        head = re.match(r"(\d\d)_", name)
        # In the library, boxes and equations bear the name of their module.
        self.number = head[1].lstrip("0") if head else name.split("/")[-1]
        self.finished = bool(re.match(r"[0-3]\d_", name)) and not self.draft

    def find(self, pattern):
        "Pairs (cell, match) in the text."
        return [(c, m) for c in self.text for m in pattern.finditer(c.source)]

    @property
    def anchors(self):
        "Names that links may point to: theorem-8-1, equation-8-1, exercise-8-1."
        found = [m[1] for p in (STATEMENT, EXERCISE) for _, m in self.find(p)]
        found += [f"equation {m[2]}" for _, m in self.find(EQUATION)]
        return {x.lower().replace(" ", "-").replace(".", "-") for x in found}


@functools.cache
def load(path):
    name = path.relative_to(NBS).with_suffix("").as_posix()
    return Notebook(name, json.loads(path.read_text(encoding="utf-8")))


@functools.cache
def notebooks():
    return [load(path) for path in sorted(NBS.rglob("[!.]*.ipynb"))]


# --- a sound notebook, and the checks with the defect each must see -----------------


def code(source, *outputs, tags=()):
    metadata = {"tags": list(tags)} if tags else {}
    cell = {"cell_type": "code", "execution_count": None, "metadata": metadata}
    return cell | {"outputs": list(outputs), "source": source}


def text(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def printed(line, name="stdout"):
    return {"output_type": "stream", "name": name, "text": line}


def picture(alt):
    kind = "image/svg+xml"
    out = {"output_type": "display_data", "data": {kind: "<svg/>"}}
    return out | {"metadata": {kind: {"alt": alt}}}


def notebook(name, cells):
    cells = [{"id": f"cell-{i}"} | cell for i, cell in enumerate(cells)]
    raw = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return Notebook(name, raw)


def sound(*extra):
    "A notebook in which no check finds anything, and then cells to plant in it."
    url = settings()["git_url"]
    install = f"#| hide\ntry:\n    import epsbook\nexcept ImportError:\n    %pip {url}"
    alt = "Two lines that cross once, at a noise rate of one half."
    cells = [
        text("# 7 · Colors\n\n> By [Wang et al. 2024](references.bib#wang2024eps)."),
        code(install),
        text("> **Lemma 7.1** (A name). So.\n\nSee [Lemma 7.1](#lemma-7-1), (7.1)."),
        text("$$a = b \\tag{7.1}$$"),
        code(f'show(fig, "{alt}")\ntest_fail(lambda: show(fig, ""))', picture(alt)),
        *[code(f"x = {i}\nprint(x)", printed(f"{i}\n")) for i in range(14)],
        text(
            "**Exercise 7.1** (★). *Why?*\n\n<details><summary>Hint</summary>\n\nA.\n\n"
            "</details>\n\n<details><summary>Solution</summary>\n\nB.\n\n</details>"
        ),
    ]
    return notebook("07_sound", [*cells, *extra])


CHECKS, PLANTED = {}, []


def check(*defects):
    "Register a check; each defect is a list of cells it must report when planted."

    def register(function):
        CHECKS[function.__name__] = function
        PLANTED.extend((function.__name__, defect) for defect in defects)
        return function

    return register


@check([code("x\n" * 41)], [code(f"x = '{'y' * 80}'")])
def code_cells_are_small(nb):
    for cell in nb.code:
        lines = cell.source.splitlines()
        if len(lines) > 40:
            yield f"{cell.where}: {len(lines)} lines, at most 40. Split it."
        for line in lines:
            if len(line) > 80:
                yield f"{cell.where}: {len(line)} columns, at most 80. Wrap: {line}"


@check(
    [code("1 / 0", {"output_type": "error"})],
    [code("warn()", printed("careful", name="stderr"))],
)
def outputs_have_no_errors(nb):
    for cell in nb.code:
        for out in cell.outputs:
            if out["output_type"] == "error" or out.get("name") == "stderr":
                yield f"{cell.where}: an error or stderr is stored. Mend, run again."


@check([code("path", printed("/home/me/data.npz"))], [code("path", printed(str(ROOT)))])
def outputs_name_no_machine(nb):
    private = re.compile(rf"(?:/home/|/root/|/tmp/|/Users/|{re.escape(str(ROOT))})\S*")
    for cell in nb.code:
        if found := private.search(json.dumps(cell.outputs)):
            yield f"{cell.where}: output names {found[0]}. Print no absolute path."


@check(
    [text("```{note}\nx\n```")],
    [text("{prf:ref}`thm`")],
    [text("By {cite:t}`wang2024eps`.")],
    [text(":::{admonition} x")],
)
def text_has_no_myst(nb):
    raw = re.compile(r"```\{|^:::|\{(?:prf:|cite|ref\}|eq\}|numref\}|doc\})", re.M)
    for cell, found in nb.find(raw):
        yield f"{cell.where}: {found[0]!r} shows raw in Colab. Use CONTRIBUTING's forms."


@check(
    [text("> **Theorem 7.3** Skips one.")],
    [text("> **Theorem 7.1** Twice.")],
    [text("> **Theorem 8.2** Another chapter's.")],
    [text("**Exercise 7.3** (★). *Skips one.*")],
    [text(r"$$c = d \tag{7.3}$$")],
)
def numbers_are_consecutive(nb):
    for what, pattern in {
        "theorem": STATEMENT,
        "exercise": EXERCISE,
        "equation": EQUATION,
    }.items():
        for i, (cell, found) in enumerate(nb.find(pattern), 1):
            if found[2] != f"{nb.number}.{i}":
                yield f"{cell.where}: {what} {found[2]} should be {nb.number}.{i}."
                break


@check([text("> **Theorem 7.2 (Name).** So.")], [text("**Definition 7.2**. So.")])
def theorems_have_the_markup(nb):
    loose = re.compile(rf"^(?:> ?)?\*\*(?:{KINDS})\b.*", re.M)
    for cell, found in nb.find(loose):
        if not STATEMENT.match(found[0]):
            yield f"{cell.where}: write '> **Theorem 8.1** (Name). …': {found[0][:50]}"


@check([text("See (7.2).")])
def equations_referred_to_exist(nb):
    tags = {m[2] for _, m in nb.find(EQUATION)}
    for cell in nb.text:
        for number in re.findall(r"(?<![\w\]])\((\w+\.\d+)\)", cell.prose):
            if number.split(".")[0] == nb.number and number not in tags:
                yield f"{cell.where}: ({number}) is no equation here. Mend or reword."


@check(
    [text("[Nobody 1900](references.bib#nobody1900)")], [text("[W](references.bib)")]
)
def citations_are_in_the_bibliography(nb):
    bib = (NBS / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{([^,]+),", bib, re.M))
    for cell in nb.text:
        for key in re.findall(
            r"\]\((?:\.\./)*references\.bib(?:#([^)]*))?\)", cell.prose
        ):
            if key not in keys:
                yield f"{cell.where}: no entry {key!r} in references.bib. Add it."


@check(
    [text("[next](99_nowhere.ipynb)")],
    [text("[Theorem 7.9](#theorem-7-9)")],
    [text("[Theorem 7.1](#theorem-7-1)")],
    [text("![](nowhere.png)")],
)
def links_lead_somewhere(nb):
    for cell in nb.text:
        for link in LINK.findall(cell.prose):
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:|(?:\.\./)*references\.bib$", path):
                continue
            target = ((NBS / nb.name).parent / path).resolve() if path else None
            if target and not target.exists():
                yield f"{cell.where}: {path} is not in nbs/. Mend the link."
            elif re.match(rf"(?i:{KINDS}|equation|exercise)-\w+-\d+$", anchor):
                if anchor not in (load(target) if target else nb).anchors:
                    yield f"{cell.where}: nothing is named #{anchor}. Mend the link."


@check(
    [code("show(fig)")],
    [code('show(fig, alt="Two lines.")')],
    [code("plt.plot(x)", picture(""))],
)
def figures_have_alt_text(nb):
    for cell in nb.code:
        alts = [shown_text(call) for call in calls(cell.tree, "show")]
        for out in cell.outputs:
            for kind in out.get("data", {}):
                if kind.startswith("image/"):
                    alts.append(out["metadata"].get(kind, {}).get("alt", ""))
        if any(len(alt) < 30 for alt in alts):
            yield f"{cell.where}: end with show(fig, 'what one sees, 30 characters up')."


def calls(tree, *names):
    "Calls of plain functions with one of these names, not those a lambda puts off."
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
            found.append(node)
        todo += ast.iter_child_nodes(node)
    return found


def calls_now(tree):
    "Calls that a cell makes as it runs, in their order, not those in functions."
    later = (ast.FunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, later):
            yield from calls_now(node)
            if isinstance(node, ast.Call):
                yield node


def shown_text(call):
    "The literal text of a call's second or `alt` argument."
    given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "alt")]
    nodes = [n for arg in given for n in ast.walk(arg) if isinstance(n, ast.Constant)]
    return "".join(n.value for n in nodes if isinstance(n.value, str))


@check([text("The *behaviour* of unlabelled data.")], [code("# normalised\nx")])
def spelling_is_american(nb):
    for cell in nb.text + nb.code:
        words = LINK.sub(" ", cell.prose if cell.kind == "markdown" else cell.source)
        for word in sorted(set(BRITISH.findall(words))):
            yield f"{cell.where}: {word!r}. Spell it as Americans do."


@check([text("**Exercise 7.2** (★). *Why?*")], [text("<details>\n\nx")])
def exercises_have_hints_and_solutions(nb):
    for cell in nb.text:
        if cell.source.count("<details") != cell.source.count("</details>"):
            yield f"{cell.where}: <details> opens and closes in one cell. Close it."
        if re.search(r"</summary>\n(?!\n)", cell.source):
            yield f"{cell.where}: leave a blank line after </summary>."
        wanted = ("Hint", "Solution") if EXERCISE.match(cell.source) else ()
        for what in () if nb.draft else wanted:
            if f"<summary>{what}</summary>" not in cell.source:
                yield f"{cell.where}: {EXERCISE.match(cell.source)[1]} has no {what}."


@check([code("x = 1\n" * 21)] * 2, [code("x = 1\n" * 9)] * 40, [code("x = 1")] * 40)
def finished_chapters_have_good_measure(nb):
    shown = [c for c in nb.code if not c.has_directive("hide", "default_exp")]
    sizes = sorted(len(c.lines) for c in shown if "hide-cell" not in c.tags)
    sizes = [size for size in sizes if size]
    if not nb.finished:
        return
    if not 15 <= len(sizes) <= 30:
        yield f"{nb.name}: {len(sizes)} code cells shown, want 15 to 30."
    if sizes and (median := statistics.median(sizes)) > 8:
        yield f"{nb.name}: median cell has {median} lines, want 8 at most."
    if sizes and (large := sizes[math.ceil(0.9 * len(sizes)) - 1]) > 20:
        yield f"{nb.name}: nine cells of ten have up to {large} lines, want 20."


@check([code("print(1)")], [code("for i in x:\n    show(i, 'x' * 31)")])
def finished_chapters_have_outputs(nb):
    for cell in nb.code if nb.finished else []:
        skipped = cell.has_directive("eval:false", "slow", "gpu", "hide")
        loud = (ast.Expr, ast.For, ast.With)
        body = [node for node in cell.tree.body if isinstance(node, loud)]
        shows = any(calls(node, "print", "show", "display") for node in body)
        if shows and not skipped and not cell.outputs:
            yield f"{cell.where}: shows something, stores nothing. `make notebooks`."


@check(
    [code("h = torch.randn(6, 5)")],
    [code("def draw():\n    torch.manual_seed(0)"), code("draw(torch.rand(2))")],
)
def draws_have_a_seed(nb):
    kinds = r"rand(?:n|int|perm|)(?:_like)?|multinomial|bernoulli|normal"
    draws, unseeded = re.compile(rf"torch\.(?:{kinds})"), True
    for cell in nb.code:
        for call in calls_now(cell.tree):
            name = ast.unparse(call.func)
            unseeded &= name != "torch.manual_seed"
            own = any(k.arg == "generator" for k in call.keywords)
            if unseeded and not own and draws.fullmatch(name):
                yield f"{cell.where}: {name} draws anew each time. Call manual_seed."


@check(
    [{"cell_type": "code", "metadata": {}, "source": "x"}],
    [text("x") | {"id": "cell-0"}],
)
def format_is_valid(nb):
    ids = [cell["id"] for cell in nb.raw["cells"]]
    if len(ids) != len(set(ids)):
        yield f"{nb.name}: two cells have one id. Give one of them another."
    for error in nbformat.validator.iter_validate(nb.raw):
        yield f"{nb.name}: {str(error).splitlines()[0]}"


def installs_from_home(nb):
    "The first code cells hold one, hidden in the book, that installs the package."
    url = settings()["git_url"]
    heads = [c for c in nb.code[:2] if "import epsbook" in c.source and url in c.source]
    if nb.code and not any(c.has_directive("hide") for c in heads):
        yield f"{nb.name}: no hidden first cell that installs from {url}. Add it."


CHECKS["installs_from_home"] = installs_from_home


@pytest.mark.parametrize("name", CHECKS)
def test_notebooks(name):
    problems = [problem for nb in notebooks() for problem in CHECKS[name](nb)]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_notebook_passes(name):
    assert list(CHECKS[name](sound())) == []


@pytest.mark.parametrize("name, defect", PLANTED)
def test_a_planted_defect_is_seen(name, defect):
    assert list(CHECKS[name](sound(*defect)))


def test_a_missing_install_cell_is_seen():
    cells = [c for c in sound().raw["cells"] if "%pip" not in c["source"]]
    assert list(installs_from_home(notebook("07_bare", cells)))


# --- the generated package ----------------------------------------------------------


def tree(folder, pattern):
    "Bytes of each file, by its path in the folder."
    paths = (p for p in folder.rglob(pattern) if "checkpoint" not in str(p))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def differences(kept, made):
    "Names that differ between two trees of files."
    return sorted(n for n in kept | made if kept.get(n) != made.get(n))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the notebooks, cleaned and exported in a folder of its own."
    root = tmp_path_factory.mktemp("exported")
    shutil.copy(ROOT / "settings.ini", root)
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(NBS, root / "nbs", ignore=shutil.ignore_patterns("_static", ".*"))
    for tool in ("nbdev_clean", "nbdev_export"):
        command = [Path(sys.executable).with_name(tool)]
        subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return root


def test_the_package_is_what_the_notebooks_export(exported):
    kept = tree(ROOT / "epsbook", "*.py")
    kept = {name: kept[name] for name in kept if not name.startswith("assets/")}
    stale = differences(kept, tree(exported / "epsbook", "*.py"))
    assert not stale, f"epsbook/{stale}: edit the notebook, then run `make export`"


def test_the_notebooks_are_clean(exported):
    stale = differences(tree(NBS, "*.ipynb"), tree(exported / "nbs", "*.ipynb"))
    assert not stale, f"nbs/{stale}: run nbdev_clean"


def test_one_changed_byte_is_seen(exported):
    made = tree(exported / "epsbook", "*.py")
    name = next(iter(made))
    assert differences(made, made | {name: made[name] + b" "}) == [name]
    assert differences(made, made | {"by_hand.py": b""}) == ["by_hand.py"]


def test_one_notebook_is_one_module():
    modules = [
        line
        for nb in notebooks()
        for c in nb.code
        for line in re.findall(r"^#\|\s*default_exp\s+(\S+)", c.source, re.M)
    ]
    assert len(modules) == len(set(modules)), f"exported twice: {sorted(modules)}"


# --- contents, names and addresses --------------------------------------------------


def toc_files(toc):
    "Every file a table of contents lists."
    for key, value in toc.items() if isinstance(toc, dict) else []:
        if key in ("root", "file"):
            yield value
        for part in value if isinstance(value, list) else []:
            yield from toc_files(part)


def toc_problems(listed, present):
    for name in sorted(set(listed) - present):
        yield f"_toc.yml lists {name}, which does not exist. Remove the line."
    for name in sorted(present - set(listed)):
        yield f"{name} is not in _toc.yml. Add a line."
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        yield f"_toc.yml lists {name} twice."


def module(file):
    "Name of a module by its file; a package has the name of its folder."
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted((ROOT / "epsbook").rglob("*.py"))
MODULES = {module(file): file for file in FILES if file.stem != "_modidx"}
ROOMS = ["noise", "data", "losses", "theory", "train", "confident", "runs"]
ROOMS += ["doctor", "cli"]


def imports(file):
    "Modules of the package that a module imports when it is imported."
    here = list(file.relative_to(ROOT).parent.parts)
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for name in (f"{source}.{alias.name}" for alias in node.names):
                yield name if name in MODULES else source


def order(graph):
    "Modules, each after those it imports; graphlib.CycleError names a circle."
    return list(graphlib.TopologicalSorter(graph).static_order())


def test_modules_import_in_one_direction():
    graph = {m: MODULES.keys() & set(imports(f)) for m, f in MODULES.items()}
    assert order(graph).index("epsbook.train") < order(graph).index("epsbook.cli")


def room(name):
    "Place in the order of the rooms; None outside of them."
    part = name.split(".")[1:2]
    return ROOMS.index(part[0]) if part and part[0] in ROOMS else None


def upward(name, found):
    "Imports of a module that lead to a room after its own."
    here = room(name)
    return [x for x in found if None not in (here, room(x)) and room(x) > here]


def test_a_room_imports_only_rooms_before_it():
    found = {m: upward(m, imports(f)) for m, f in MODULES.items()}
    assert not any(found.values()), {m: x for m, x in found.items() if x}
    assert {m.split(".")[1] for m in MODULES if "." in m} == {
        *ROOMS,
        "assets",
        "figures",
        "__main__",
    }


def test_an_import_of_a_later_room_is_seen():
    assert upward("epsbook.train.fit", ["epsbook.noise", "epsbook.runs.record"])


def test_modules_are_imported_in_one_style():
    for name, file in MODULES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not node.module.startswith("epsbook"), f"{name}: {node.module}"


def test_no_module_is_long():
    sizes = {m: len(f.read_text("utf-8").splitlines()) for m, f in MODULES.items()}
    assert max(sizes.values()) <= 300, {m: n for m, n in sizes.items() if n > 300}


def test_a_circle_of_imports_is_seen():
    with pytest.raises(graphlib.CycleError):
        order({"a": {"b"}, "b": {"a"}})


def test_contents_list_every_page():
    listed = list(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text())))
    pages = [p for p in NBS.rglob("*") if p.suffix in (".ipynb", ".md")]
    names = {p.relative_to(ROOT).with_suffix("").as_posix() for p in pages}
    names = {name for name in names if "/_" not in name and "/." not in name}
    problems = list(toc_problems(listed, names))
    assert not problems, "\n".join(problems)


def test_a_wrong_table_of_contents_is_seen():
    toc = {"root": "a", "parts": [{"chapters": [{"file": "b"}, {"file": "b"}]}]}
    assert len(list(toc_problems(list(toc_files(toc)), {"a", "c"}))) == 3


def text_files():
    "Texts under version control or about to be, by path."
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout to know which files are the project's")
    for name in listed.stdout.decode().split("\0")[:-1]:
        if "_static/mathjax" not in name and (ROOT / name).is_file():
            yield name, (ROOT / name).read_bytes().decode("utf-8", "replace")


def strangers(name, content):
    "Addresses and authors of this project that are not those in settings.ini."
    repo, user = settings()["repo"], settings()["user"]
    code_host = rf"github(?:usercontent)?\.com[/:]+([\w.-]+)/{repo}\b"
    for owner in re.findall(code_host, content):
        if owner != user:
            yield f"{name}: github.com/{owner}/{repo}, but settings.ini says {user}."
    for owner in re.findall(rf"([\w-]+)\.github\.io/{repo}\b", content):
        if owner != user:
            yield f"{name}: {owner}.github.io/{repo}, but settings.ini says {user}."
    for author in re.findall(rf"(?i:the {repo}) (?:authors|team|developers)", content):
        if author != settings()["author"]:
            yield f"{name}: {author!r}, but settings.ini says {settings()['author']}."


def test_the_home_is_the_same_everywhere():
    problems = [p for file in text_files() for p in strangers(*file)]
    assert not problems, "\n".join(problems)


def test_another_home_is_seen():
    home = "git+https://github.com/someone/" + "epsbook, by the " + "epsbook team, "
    home += "https://someone.github.io/" + "epsbook"
    assert len(list(strangers("x", home))) == 3


def test_papers_are_spelled_as_americans_do():
    papers = [file for file in text_files() if file[0].endswith(".md")]
    words = {name: sorted(set(BRITISH.findall(content))) for name, content in papers}
    assert not any(words.values()), {n: w for n, w in words.items() if w}


def declared():
    "What each paper says, with the key of settings.ini that it must equal."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    book = yaml.safe_load((ROOT / "_config.yml").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    return [
        ("pyproject.toml authors", project["authors"][0]["name"], "author"),
        ("pyproject.toml urls", project["urls"]["Homepage"], "git_url"),
        ("pyproject.toml description", project["description"], "description"),
        ("pyproject.toml dependencies", project["dependencies"], "requirements"),
        ("pyproject.toml python", project["requires-python"][2:], "min_python"),
        ("CITATION.cff authors", citation["authors"][0]["name"], "author"),
        ("CITATION.cff url", citation["url"], "git_url"),
        ("CITATION.cff code", citation["repository-code"], "git_url"),
        ("CITATION.cff version", str(citation["version"]), "version"),
        ("_config.yml author", book["author"], "author"),
        ("_config.yml title", book["title"], "title"),
        ("_config.yml url", book["repository"]["url"], "git_url"),
        ("_config.yml branch", book["repository"]["branch"], "branch"),
        ("CHANGELOG.md", re.search(r"^## \[(\d\S*)\]", changes, re.M)[1], "version"),
    ]


def disagreements(papers):
    for where, found, key in papers:
        wanted = settings()[key]
        wanted = wanted.split() if isinstance(found, list) else wanted
        if found != wanted:
            yield f"{where}: {found!r}, but settings.ini says {key} = {wanted!r}."


def test_the_papers_agree_with_settings():
    problems = list(disagreements(declared()))
    assert not problems, "\n".join(problems)


def test_a_paper_that_disagrees_is_seen():
    wrong = [(where, "something else", key) for where, _, key in declared()]
    assert len(list(disagreements(wrong))) == len(wrong)


def test_the_readme_names_the_home():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert settings()["git_url"] in readme, "README.md does not say where the home is"
