"""The house stands as drawn: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zapq

ROOT = Path(zapq.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
# What each room may use of ours. A room may always use itself.
MAY_USE = {
    "errors": set[str](),
    "settings": {"errors"},
    "core": {"errors"},
    "logs": {"settings"},
    "store": {"errors", "settings", "core"},
    "service": {"errors", "settings", "core", "store"},
    "http": {"errors", "settings", "core", "service", "logs"},
    "server": {"errors", "settings", "core", "service", "logs", "http"},
    "testing": {"settings", "service", ""},
    "cli": {"errors", "settings", "logs", ""},
    "__main__": {"cli"},
    "": {"errors", "settings", "core", "service", "server"},
}
# Where each library may appear at all.
LIBRARIES = {
    "trio": {"service", "http", "server", "cli", "testing"},
    "quart": {"http"},
    "quart_trio": {"http"},
    "werkzeug": {"http"},
    "hypercorn": {"http", "server"},
    "h11": {"server"},
    "h2": {"server"},
    "click": {"cli"},
    "pytest": {"testing"},
    "trio_typing": set[str](),
}


def room(module: str) -> str:
    return module.removeprefix("zapq").removeprefix(".").split(".")[0]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            assert node.module is not None
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return found


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_point_one_way(module: str) -> None:
    mine = room(module)
    for name in imports(MODULES[module]):
        library = name.split(".")[0]
        if library == "zapq":
            assert room(name) == mine or room(name) in MAY_USE[mine], f"{module} imports {name}"
        elif library in LIBRARIES:
            assert mine in LIBRARIES[library], f"{module} imports {name}"


def test_the_core_uses_nothing_but_the_standard_library_and_msgspec() -> None:
    for module, path in MODULES.items():
        if room(module) == "core":
            for name in imports(path):
                library = name.split(".")[0]
                assert library in sys.stdlib_module_names | {"zapq", "msgspec"}, f"{module} imports {name}"
                assert library not in {"time", "os", "socket", "threading", "datetime"}, f"{module} imports {name}"


def test_importing_zapq_starts_no_web_framework() -> None:
    code = "import sys, zapq; sys.exit(bool({'quart', 'hypercorn', 'h11'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
