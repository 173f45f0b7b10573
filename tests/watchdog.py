"""Ends a test that takes too long, and that test only.

pytest-timeout raises an exception wherever the main thread happens to be. If that is in Trio's own loop, the run
neither goes on nor ends, and every later test finds itself "inside a run". So a run is first told to end in order:
everything in it is cancelled, and cleans up. What does not end then (a loop, a shield, a thread) gets
pytest-timeout's exception after all, and what is left of the run is put away.
"""

from __future__ import annotations

import inspect
import signal
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType, TracebackType

import pytest
import pytest_timeout
import trio

PATIENCE = 10.0
"""Seconds in which a run that was told to end should have ended."""
_told = pytest.StashKey[list[str]]()
_left: list[BaseException] = []
"""What holds tasks that never ended: collected as garbage, they would try to, in the middle of another test."""


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> Iterator[None]:
    """Ring first, where pytest-timeout would interrupt."""
    result = yield
    interrupt = signal.getsignal(signal.SIGALRM)
    if settings.method != "signal" or not callable(interrupt):
        return result
    item.stash[_told] = []
    run: trio.lowlevel.TrioToken | None = None

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal run
        before, run = run, trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None
        # Again and again, for Hypothesis runs again what has failed.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if run is None or run is before or pytest_timeout.is_debugging():
            interrupt(number, frame)
        else:
            run.run_sync_soon(_end, item, settings.timeout)

    signal.signal(signal.SIGALRM, ring)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Say where the tasks of a run were that was told to end."""
    try:
        return (yield)
    except BaseException as error:
        if trio.lowlevel.in_trio_run():
            _put_away(error.__traceback__)
            _left.append(error)
        if told := item.stash.get(_told, []):
            pytest.fail("\n".join(told), pytrace=False)
        raise


def _end(item: pytest.Item, seconds: float) -> None:
    """Crash the run, in whose loop this is called: that cancels everything in it."""
    item.stash[_told].append(f"Timeout (>{seconds}s). Its tasks were waiting here:")
    item.stash[_told] += _tasks(str(item.config.rootpath))
    raise TimeoutError


def _tasks(root: str) -> Iterator[str]:
    """Describe each task that runs our code: its name, and the lines of ours it is in."""
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        assert task is not None
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        frames = traceback.StackSummary.extract(task.iter_await_frames())
        ours = [each for each in frames if each.filename.startswith(root) and "site-packages" not in each.filename]
        if ours:
            yield f"{task.name}\n{''.join(traceback.format_list(ours))}"


def _put_away(place: TracebackType | None) -> None:
    """Close the loop that an exception has left without an end: Trio's generator, in a frame it came through."""
    while place is not None:
        loop = place.tb_frame.f_locals.get("gen")
        if inspect.isgenerator(loop):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it was abandoned
                loop.close()
        place = place.tb_next
