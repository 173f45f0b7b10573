"""zapq has one version: that of zapq/version.py."""

from __future__ import annotations

from pathlib import Path

from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import zapq
from zapq.http.endpoints import ENDPOINTS
from zapq.http.openapi import describe
from zapq.version import __version__

ROOT = Path(__file__).parents[1]


def test_everything_says_the_same_version() -> None:
    built = ProjectMetadata(str(ROOT), PluginManager())
    assert built.core.dynamic == ["version"]
    assert built.version == __version__
    # The program, its metrics and what `zapq forward` sends say that of the package.
    assert zapq.__version__ == __version__
    assert describe(ENDPOINTS)["info"]["version"] == __version__


def test_it_stands_in_one_place() -> None:
    line = f'"{__version__}"'
    found = [path for path in ROOT.joinpath("zapq").rglob("*.py") if line in path.read_text()]
    assert found == [ROOT / "zapq/version.py"]
    assert line not in (ROOT / "pyproject.toml").read_text()
