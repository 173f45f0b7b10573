"""`scripts/prose` finds what a reader would stumble over."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROSE = runpy.run_path(str(ROOT / "scripts/prose"))


@pytest.mark.parametrize("page", PROSE["PAGES"])
def test_nothing_is_wrong_with_a_page(page: str) -> None:
    assert PROSE["complaints"]((ROOT / page).read_text()) == []


def test_nothing_is_wrong_with_what_the_code_says() -> None:
    files = sorted((ROOT / "zapq").rglob("*.py"))
    assert [line for file in files for line in PROSE["in_code"](file)] == []


def test_texts_and_docstrings_are_found(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""Ask whoever is there."""\nraise Error(f"Nobody is {here} but for one.")\nA = "nobody"\n')
    assert len(PROSE["in_code"](file)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "All of them but for one.",
        "Ask the server. Who comes is served.",
        "Give it to\nwhoever asks.",
        "- What is wrong is refused.",
        "| a | nobody reads it |",
        "one, " * (PROSE["LONGEST"] + 1) + "end.",
    ],
)
def test_a_habit_is_found(text: str) -> None:
    assert len(PROSE["complaints"](f"# But for\n\n{text}\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "What is a lease? The client `who` asked [for it](but for).",
        "Who can reach it?",
        "```\nwhoever\n```",
        "one, " * (PROSE["LONGEST"] - 1) + "end. One more.",
    ],
)
def test_other_prose_is_left_alone(text: str) -> None:
    assert PROSE["complaints"](text) == []
