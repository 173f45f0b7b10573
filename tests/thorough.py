"""How long the tests search: only with `--all`, as in the gate, slow tests run and properties get many examples.

scripts/test                                       not the slow tests, and few examples of each property
scripts/test --all                                 all tests, and as many examples as the gate wants
scripts/test --all --hypothesis-profile nightly    all tests, for hours
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import waiting

# The same examples in each run, so that a failure belongs to the change. Nights try others each time.
# That data comes slowly says that the machine is busy.
_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("few", max_examples=25, derandomize=True, **_PATIENT)
settings.register_profile("gate", max_examples=50, derandomize=True, **_PATIENT)
settings.register_profile("nightly", max_examples=20_000, **_PATIENT)

SECONDS = {"gate": 180.0, "nightly": 24 * 3600.0}
"""How long one test may take in these profiles; in others it is what pyproject.toml says."""
GATE_PATIENCE = 120.0
"""How long it waits there for one thing to happen: where all tests run at once, servers take long to start."""

_left_out = pytest.StashKey[int]()
"""How many slow tests are not run; each worker of pytest-xdist counts, and tells the process that prints it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", dest="everything", action="store_true", help="Run slow tests as well, and try many examples"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    profile = config.option.hypothesis_profile or ("gate" if config.option.everything else "few")
    settings.load_profile(profile)
    if profile in SECONDS and getattr(config.option, "timeout", 0) is None:
        config.option.timeout = SECONDS[profile]
        # Modules of tests are imported later, and find this.
        waiting.PATIENCE = GATE_PATIENCE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless the command line asks for them: by `--all`, by a mark, or by their names."""
    named = any("::" in argument for argument in config.args)
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    if config.option.everything or config.option.markexpr or named:
        # What they need is downloaded meanwhile, and the last test that all wait for is a quick one.
        early = len(quick) // 3
        items[:] = quick[:early] + slow + quick[early:]
        return
    items[:] = quick
    config.hook.pytest_deselected(items=slow)
    config.stash[_left_out] = len(slow)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run what is in one file here, for workers take a second to start; else let pytest-xdist count the cores."""
    [first, *others] = config.args
    alone = not others and os.path.isfile(first.partition("::")[0])
    return 0 if alone or os.cpu_count() == 1 else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := getattr(session.config, "workeroutput", None):
        output["left out"] = session.config.stash.get(_left_out, 0)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any) -> None:
    # A worker that crashed has no output.
    config: pytest.Config = node.config
    config.stash[_left_out] = getattr(node, "workeroutput", {}).get("left out", config.stash.get(_left_out, 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(_left_out, 0):
        terminalreporter.write_line(
            f"{left_out} slow tests left out; scripts/test --all runs all tests.", yellow=True
        )


def is_as_long_as(profile: str) -> bool:
    """Whether tests search for as long as in this profile, or longer."""
    default = settings.default
    return default is not None and default.max_examples >= settings.get_profile(profile).max_examples


@pytest.fixture(scope="session")
def gate() -> bool:
    """Whether a test that loops over cases of its own tries as many as the gate wants, or more."""
    return is_as_long_as("gate")


@pytest.fixture(scope="session")
def nightly() -> bool:
    """Whether such a test tries all there are, or as many as a night has time for."""
    return is_as_long_as("nightly")
