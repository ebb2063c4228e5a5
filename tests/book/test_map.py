"""The map on the front page says what the notebooks are."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NBS = ROOT / "nbs"


def chapters():
    text = (ROOT / "epsbook/assets/chapters.toml").read_text(encoding="utf-8")
    return [c for part in tomllib.loads(text)["part"] for c in part["chapters"]]


def problems(chapter, seen):
    "What the map says of a chapter that its notebook does not."
    path = NBS / f"{chapter['file']}.ipynb"
    number = re.match(r"(\d\d)_", chapter["file"])
    if not number or int(number[1]) != chapter["number"]:
        yield f"{chapter['file']} is not chapter {chapter['number']}"
    if not set(chapter["needs"]) <= seen:
        yield f"chapter {chapter['number']} needs a later one: {chapter['needs']}"
    if not path.exists():
        if chapter["state"] != "planned":
            yield f"{path.name} does not exist, so it is planned"
        return
    nb = json.loads(path.read_text(encoding="utf-8"))
    draft = nb["metadata"].get("epsbook", {}).get("draft", False)
    if chapter["state"] != ("draft" if draft else "finished"):
        yield f"{path.name} is {'a draft' if draft else 'finished'}"


def test_the_map_agrees_with_the_notebooks():
    found, seen = [], set()
    for chapter in chapters():
        found += problems(chapter, seen)
        seen.add(chapter["number"])
    assert not found, found


def test_every_chapter_is_on_the_map():
    listed = {c["file"] for c in chapters()}
    there = {p.stem for p in NBS.glob("[0-3]*_*.ipynb")}
    assert there <= listed, f"add to epsbook/assets/chapters.toml: {there - listed}"


@pytest.mark.parametrize(
    "change",
    [{"state": "planned"}, {"number": 2}, {"needs": [3]}, {"file": "01_other"}],
)
def test_a_wrong_entry_is_seen(change):
    first = chapters()[0]
    assert not list(problems(first, set()))
    assert list(problems(first | change, set()))
