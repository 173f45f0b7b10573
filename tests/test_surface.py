"""What Python programs may rely on is what tests/surface.txt has: a name that comes or goes is a decision.

PYTHONPATH=. python -m tests.test_surface >tests/surface.txt

records it anew. docs/reference/versions.md says what may change when.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from zapq import errors

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "surface.txt"
MODULES = (
    "zapq",
    "zapq.client",
    "zapq.client.sync",
    "zapq.testing",
    "zapq.contrib.django.backend",
    "zapq.contrib.taskiq",
)


def exceptions() -> list[str]:
    """Return the names of the exceptions of zapq.errors."""
    return [
        name
        for name, value in sorted(vars(errors).items())
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
    ]


def parameters(value: object) -> str:
    """Return how something is called: names and kinds of parameters. Types are a matter of mypy."""
    if not callable(value):
        return ""
    shown = []
    for each in inspect.signature(value).parameters.values():
        default = each.replace(annotation=inspect.Parameter.empty)
        shown.append(default.replace(default="") if each.default is not inspect.Parameter.empty else default)
    text = str(inspect.Signature(shown))
    return re.sub(r"(?<==)''", "...", text)


def members(kind: type) -> Iterator[str]:
    """Yield what a class of ours has that is public, with what it has from classes of ours."""
    found: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("zapq."):
            found |= vars(base)
    fields = [each.name for each in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    for name in sorted({*found, *fields}):
        if not name.startswith("_"):
            value = found.get(name)
            yield name + (parameters(value) if inspect.isfunction(value) else "")


def surface() -> Iterator[str]:
    """Yield the lines of the record."""
    for module in (*MODULES, "zapq.errors"):
        there = import_module(module)
        names = exceptions() if there is errors else there.__all__
        yield module
        for name in names:
            value = getattr(there, name)
            if inspect.isclass(value):
                yield f"    {name}"
                yield from (f"        {each}" for each in members(value))
            else:
                yield f"    {name}{parameters(value) if inspect.isfunction(value) else ''}"


def test_the_public_names_are_those_that_are_recorded() -> None:
    assert RECORDED.read_text().splitlines() == [*surface()], "record it anew: see the top of this file"


@pytest.mark.parametrize("module", ["zapq", "zapq.client"])
def test_what_is_imported_late_is_what_is_public(module: str) -> None:
    there = import_module(module)
    assert {*there._HOMES} == {*there.__all__} - {"__version__"}
    assert {*there.__all__} <= {*dir(there)}


def test_the_documentation_has_each_name_and_says_what_it_is() -> None:
    page = (ROOT / "docs/reference/versions.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert rows == [
        (module, name, what(module, name)) for module in MODULES for name in import_module(module).__all__
    ]


def test_the_documentation_has_each_extra_and_so_has_what_is_released() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs/reference/versions.md").read_text().partition("## Extras")[2].partition("## The names")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == sorted(extras)
    release = (ROOT / ".github/workflows/release.yml").read_text()
    assert f"dist/*.whl)[{','.join(sorted(extras))}]" in release


def what(module: str, name: str) -> str:
    """Return the first line of the documentation of a name."""
    if name == "__version__":
        return "the version"
    return (inspect.getdoc(getattr(import_module(module), name)) or "").partition("\n")[0]


if __name__ == "__main__":
    print("\n".join(surface()))
