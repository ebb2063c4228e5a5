"""The page of notation knows every symbol that two chapters share."""

import json
import re
from pathlib import Path

NBS = Path(__file__).resolve().parents[2] / "nbs"
GREEK = "eta|epsilon|varepsilon|kappa|tau|alpha|beta|gamma|varphi|ell|lambda|rho"
SYMBOL = re.compile(
    rf"\\tilde\s*\{{?\s*[A-Za-z]|\\(?:{GREEK})(?![A-Za-z])|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])"
)
WORDS = re.compile(r"\\(?:text|mathrm|mathbb|operatorname|begin|end|tag)\{[^}]*\}")
MATH = re.compile(r"\$\$(.*?)\$\$|\$([^$]+)\$", re.S)
# Bound inside one proof or exercise, or a letter of a formula's own sentence.
LOCAL = set("bcdruvz")


def symbols(text):
    "Letters of the formulas in a text, with a tilde where they carry one."
    text = re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.S)
    formulas = (WORDS.sub(" ", a or b) for a, b in MATH.findall(text))
    return {
        s.replace(" ", "").replace("{", "") for f in formulas for s in SYMBOL.findall(f)
    }


def chapters(drafts=False):
    "Prose of each finished chapter; with drafts, of all."
    for path in sorted(NBS.glob("[0-3]*_*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        if drafts or not nb["metadata"].get("epsbook", {}).get("draft"):
            cells = (c for c in nb["cells"] if c["cell_type"] == "markdown")
            yield path.stem, "\n\n".join("".join(c["source"]) for c in cells)


def rows():
    "First and last column of each row of the tables."
    page = (NBS / "notation.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\| (\$.*) \|$", page, re.M):
        columns = line.split(" | ")
        yield columns[0], columns[-1]


def missing(known, texts):
    "Symbols of two chapters or more that are not known."
    used = [symbols(text) for _, text in texts]
    shared = {s for one in used for s in one if sum(s in other for other in used) > 1}
    return shared - known - LOCAL


def test_every_shared_symbol_has_a_row():
    known = {s for first, _ in rows() for s in symbols(first)}
    assert not missing(known, list(chapters())), "add a row to nbs/notation.md"


def test_a_symbol_without_a_row_is_seen():
    texts = [("a", r"Let $\beta Q$ be."), ("b", r"$$Q = \tilde q$$")]
    assert missing({r"\tilde q".replace(" ", "")}, texts) == {"Q"}


def test_every_row_leads_to_a_definition():
    texts = dict(chapters(drafts=True))
    for first, last in rows():
        page, kind, number = re.search(
            r"\((\w+)\.ipynb#([a-z]+)-([\d-]+)\)", last
        ).groups()
        number = number.replace("-", ".")
        mark = (
            rf"\tag{{{number}}}"
            if kind == "equation"
            else f"**{kind.title()} {number}**"
        )
        assert mark in texts[page], (
            f"{first}: nothing is called {kind} {number} in {page}"
        )
