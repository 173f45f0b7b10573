"""The source distribution holds what the pages in it point to."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INCLUDED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
    "include"
]
PAGES = [page for name in INCLUDED for page in ROOT.glob(name if name.endswith(".md") else f"{name}/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_in_it(page: Path) -> None:
    text = page.read_text()
    places = [page.parent / place for place in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    places += [ROOT / script for script in re.findall(r"(?<![\w/])scripts/[\w-]+", text)]
    for place in places:
        assert place.exists(), place
        assert place.resolve().relative_to(ROOT).parts[0] in INCLUDED, place


def test_all_that_is_named_is_there() -> None:
    assert [name for name in INCLUDED if not (ROOT / name).exists()] == []
