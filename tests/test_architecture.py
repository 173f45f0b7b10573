"""The house stands as drawn: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
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
    "limits": set[str](),
    "version": set[str](),
    "addresses": set[str](),
    "quantities": {"limits"},
    "spelling": set[str](),
    "declared": {"errors", "quantities", "core", "sqs"},
    "settings": {"addresses", "errors", "limits", "quantities", "core", "declared"},
    "sources": {"errors", "limits", "spelling", "core", "declared", "settings"},
    "core": {"errors", "limits", "spelling"},
    "access": {"errors", "limits", "settings"},
    "logs": {"limits", "settings", "spool"},
    "spool": {"limits"},
    "systemd": {"errors", "limits", "settings", "logs"},
    "movable_clock": {"errors"},
    "store": {"limits", "errors", "settings", "core"},
    "service": {"limits", "errors", "settings", "declared", "core", "store", "logs", "movable_clock"},
    "wakeup": {"limits"},
    "engine": {"addresses", "limits", "errors", "settings", "core", "service", "store", "logs", "wakeup"},
    "sqs": {"limits", "errors", "core", "access", "service"},
    "http": {
        "addresses",
        "limits",
        "errors",
        "settings",
        "core",
        "access",
        "service",
        "engine",
        "logs",
        "sqs",
        "quantities",
        "version",
    },
    "server": {
        "addresses",
        "limits",
        "errors",
        "settings",
        "core",
        "access",
        "service",
        "engine",
        "logs",
        "http",
        "sqs",
        "wakeup",
        "allocator",
    },
    "client": {"limits", "errors", "core"},
    "programs": {"limits", "errors", "core", "client", ""},
    "contrib": {"errors", "limits", "core", "client"},
    "testing": {"limits", "settings", "service", "command", ""},
    "command": {
        "limits",
        "errors",
        "quantities",
        "spelling",
        "settings",
        "sources",
        "access",
        "store",
        "engine",
        "server",
        "client",
        "programs",
        "",
    },
    "allocator": {"limits"},
    "cli": {
        "allocator",
        "errors",
        "limits",
        "settings",
        "sources",
        "logs",
        "systemd",
        "movable_clock",
        "command",
        "",
    },
    "__main__": {"command", "cli"},
    "": {"errors", "settings", "core", "engine", "service", "server", "version"},
}
# Where each library may appear at all.
LIBRARIES = {
    "trio": {
        *("service", "engine", "http", "server", "client", "programs", "command"),
        *("systemd", "cli", "testing", "movable_clock"),
    },
    "quart": {"http"},
    "quart_trio": {"http"},
    "werkzeug": {"http"},
    "hypercorn": {"http", "server"},
    "h11": {"server", "client"},
    "h2": {"server"},
    "click": {"command"},
    "hiredis": {"engine"},
    "cronsim": {"programs"},
    "matplotlib": {"programs"},
    "anyio": {"client", "contrib"},
    "django": {"contrib"},
    "taskiq": {"contrib"},
    "opentelemetry": {"client"},
    "pytest": {"testing"},
    # Its stubs shadow Trio's own types.
    "trio_typing": set[str](),
    "asyncio": {"client", "contrib"},
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


def test_no_files_import_each_other_in_a_circle_not_even_for_annotations() -> None:
    # graphlib.CycleError names the files. An import in a function or for annotations only counts like any other: a
    # file that names another one cannot be understood without it.
    TopologicalSorter({module: imports(path) & MODULES.keys() for module, path in MODULES.items()}).prepare()


def test_the_rooms_are_all_on_the_plan() -> None:
    assert {room(module) for module in MODULES} == MAY_USE.keys()


def test_the_http_room_knows_only_types_of_hypercorn_and_only_where_it_meets_it() -> None:
    known = {
        (module, name)
        for module, path in MODULES.items()
        for name in imports(path)
        if room(module) == "http" and name.split(".")[0] == "hypercorn"
    }
    assert known == {("zapq.http.exchange", "hypercorn.typing")}


def test_the_core_uses_nothing_but_the_standard_library_and_msgspec() -> None:
    for module, path in MODULES.items():
        if room(module) == "core":
            for name in imports(path):
                library = name.split(".")[0]
                assert library in sys.stdlib_module_names | {"zapq", "msgspec"}, f"{module} imports {name}"
                assert library not in {"time", "os", "socket", "threading", "datetime"}, f"{module} imports {name}"


@pytest.mark.parametrize("module", ["zapq", "zapq.cli", "zapq.client", "zapq.server", "zapq.testing"])
def test_importing_zapq_starts_no_web_framework(module: str) -> None:
    code = f"import sys, {module}; print(*{{'quart', 'quart_trio', 'hypercorn', 'h11', 'h2'}} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "\n", "")


def test_every_public_name_is_found_where_it_lives() -> None:
    tree = ast.parse(Path(zapq.__file__).read_text())
    declared = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module or "").startswith("zapq.") and alias.name != "__version__"
    }
    assert declared == zapq._HOMES
    for name in declared:
        assert getattr(zapq, name).__name__ == name
        assert name in dir(zapq)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zapq.nothing  # noqa: B018 (looking it up is the test)


def test_what_talks_to_a_server_elsewhere_imports_neither_it_nor_trio() -> None:
    code = (
        "import sys; sys.argv = ['zapq', 'health', '--url', 'http://127.0.0.1:1']\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'quart', 'hypercorn', 'trio', 'msgspec'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "\n"
