"""The lines of an exported cell that are its idea; the rest folds away in the page.

A notebook holds the whole of a definition, because the library is exported from it.
Who reads the page wants the five lines that say how it works. A cell may name what
it is about, `#| idea: phi, grad_weight`; otherwise all but the plumbing is shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

CHECK = re.compile(r"_?check_\w+|_?refuse\w*")
DEFINITION = ast.FunctionDef | ast.ClassDef
DECLARED = {"ranges", "properties", "uses_top"}  # what a loss says of itself
SPARED = 4  # fewer lines than these are not worth a fold


def lines_of(node: ast.stmt) -> range:
    """Lines of a statement, from 1, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(d.lineno for d in decorators)])
    return range(start, node.end_lineno + 1)


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a text and nothing else."""
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(value, ast.Constant)


def is_check(node: ast.stmt) -> bool:
    """Whether a statement only refuses what is wrong."""
    if isinstance(node, ast.If):
        return not node.orelse and all(isinstance(x, ast.Raise) for x in node.body)
    call = getattr(node, "value", None)
    if isinstance(node, ast.Expr) and isinstance(call, ast.Call):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        return bool(CHECK.fullmatch(name))
    return False


def is_plumbing(node: ast.stmt) -> bool:
    """Whether a statement at the top of a cell only brings names in or hands them on."""
    if isinstance(node, ast.If):
        return getattr(node.test, "id", "") == "TYPE_CHECKING"
    names = [getattr(x, "id", "") for x in getattr(node, "targets", [])]
    return isinstance(node, ast.Import | ast.ImportFrom) or "_all_" in names


def is_declared(node: ast.stmt) -> bool:
    """Whether a statement of a class only says what it is and takes."""
    targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
    names = {getattr(x, "id", "") for x in targets}
    return bool(names & DECLARED) or getattr(node, "name", "") == "__init__"


def folded(body: list[ast.stmt], keep: set[str]) -> Iterator[int]:
    """Lines below a definition, or of a cell, that fold away."""
    for node in body:
        name = getattr(node, "name", None)
        if is_docstring(node):
            yield from list(lines_of(node))[1:]
        elif is_check(node) or is_plumbing(node):
            yield from lines_of(node)
        elif isinstance(node, DEFINITION) and (not keep or name in keep):
            inner = [x for x in node.body if isinstance(x, ast.FunctionDef)]
            declared = (
                [x for x in node.body if is_declared(x)] if len(inner) > 1 else []
            )
            yield from (i for x in declared for i in lines_of(x))
            yield from folded(node.body, set())
        elif isinstance(node, ast.ClassDef) and keep & names_in(node):
            yield from folded(node.body, keep)
        elif keep:
            yield from lines_of(node)


def names_in(node: ast.AST) -> set[str]:
    """Names of all that is defined in a statement."""
    return {x.name for x in ast.walk(node) if isinstance(x, DEFINITION)}


def closed(line: str) -> str:
    """The first line of a docstring, ended."""
    quotes = re.match(r"\s*[rRbBuUfF]*(\"\"\"|'''|\"|')", line)
    whole = not quotes or line.rstrip().count(quotes[1]) > 1
    return line if whole else line.rstrip() + quotes[1]


def idea(source: str, keep: set[str] = frozenset()) -> str | None:
    """The source as the page shows it first; all of it if little would fold.

    Args:
        source: of an exported cell, without its directives.
        keep: names of functions, classes and methods it is about; by default
            all that are not plumbing.

    Returns:
        Fewer lines; None if nothing would be left.

    Raises:
        ValueError: `keep` names what the cell does not define.
    """
    tree = ast.parse(source)
    if unknown := sorted(set(keep) - names_in(tree)):
        raise ValueError(f"#| idea: names {unknown}, which the cell does not define")
    gone, lines = set(folded(tree.body, set(keep))), source.splitlines()
    for node in filter(is_docstring, ast.walk(tree)):
        if node.end_lineno > node.lineno:
            lines[node.lineno - 1] = closed(lines[node.lineno - 1])
    shown = [x for i, x in enumerate(lines, 1) if i not in gone]
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(shown)).strip("\n")
    text = re.sub(r'("""\n)\n(?=\s+(?:def|return))', r"\1", text)
    if not text.strip():
        return None
    return text if len(lines) - text.count("\n") - 1 >= SPARED else source
