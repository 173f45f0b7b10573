"""The site has every page and every public name. That its links lead somewhere, scripts/docs finds out."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path

from tests.test_surface import MODULES, what
from zapq.service.service import QueueService

ROOT = Path(__file__).parent.parent
PYTHON = (ROOT / "docs/reference/python.md").read_text()
SECTIONS = ("how-to", "reference", "explanation")


def test_every_public_name_is_in_the_reference() -> None:
    shown = {*re.findall(r"^\.\. auto(?:function|class|data):: ([\w.]+)", PYTHON, re.MULTILINE)}
    fixtures = dict(re.findall(r"^\| `(zapq_\w+)` \| (.*) \|$", PYTHON, re.MULTILINE))
    # What joins zapq to a framework is in the guide of that framework, which is not there where the site is built.
    ours = [module for module in MODULES if not module.startswith("zapq.contrib.")]
    public = {f"{module}.{name}" for module in ours for name in import_module(module).__all__}
    # `zapq.errors` is there as a whole.
    assert shown | {f"zapq.testing.{name}" for name in fixtures} | {"zapq.ZapqError"} == public
    assert fixtures == {name: what("zapq.testing", name) for name in fixtures}


def test_what_a_service_shows_is_what_it_has() -> None:
    [members] = re.findall(r":no-members:\n   :members: (.*)", PYTHON)
    assert all(getattr(QueueService, name).__doc__ for name in members.split(", "))


def test_each_section_shows_all_its_pages() -> None:
    for section in SECTIONS:
        index = (ROOT / "docs" / section / "index.md").read_text()
        pages = {page.stem for page in (ROOT / "docs" / section).glob("*.md")} - {"index"}
        assert {*re.findall(r"^\| \[[^]]*\]\(([\w-]+)\.md", index, re.MULTILINE)} == pages


def test_its_version_is_ours() -> None:
    assert runpy.run_path(str(ROOT / "docs/conf.py"))["release"] == import_module("zapq").__version__
