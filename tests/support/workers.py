"""The processes of a server that has `--workers`."""

from __future__ import annotations

from pathlib import Path

from tests.support.process import Zapq
from tests.support.waiting import eventually
from tests.support.wire import ask


def children_of(server: Zapq) -> set[int]:
    """Return the processes it has started."""
    # Linux has them by the threads that started them.
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return {int(pid) for children in tasks for pid in children.read_text().split()}


async def served_by_each(server: Zapq, number: int = 2) -> None:
    """Return once each worker has answered a request."""

    async def all_have() -> bool:
        traces = {
            (await ask(server.url, "GET", "/health")).headers["x-trace-id"].partition("-")[2] for _ in range(8)
        }
        return len(traces) >= number

    await eventually(all_have, "each worker to answer")
