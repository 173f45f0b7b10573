"""The processes of a server that has `--workers`."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path

from tests.support.process import Zapq, running_zapq
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


async def check_that_they_end_with_the_server(directory: Path, *flags: str) -> None:
    """Start two workers with these flags and kill what started them; they must end as well."""
    async with running_zapq(directory, *flags) as server:
        workers = children_of(server)
        assert len(workers) == 2
        server.process.kill()
        await server.process.wait()
        await eventually(lambda: not any(Path(f"/proc/{each}").exists() for each in workers), "the workers to end")


async def check_that_a_reload_reaches_all(directory: Path, *flags: str) -> None:
    """Start two workers with these flags and change the token file; both must let in by the new one."""
    tokens = directory / "tokens"
    first, second = "a" * 20, "b" * 20
    tokens.write_text(f"one:{sha256(first.encode()).hexdigest()}:producer\n")
    async with running_zapq(directory, *flags, "--token-file", str(tokens)) as server:
        tokens.write_text(f"one:{sha256(second.encode()).hexdigest()}:producer\n")
        server.process.send_signal(signal.SIGHUP)
        await eventually(
            lambda: [line["msg"] for line in server.messages()].count("reloaded") == 2, "both to have read it"
        )
        for _ in range(6):
            headers = {"Authorization": f"Bearer {second}"}
            assert (await ask(server.url, "POST", "/enqueue", b"x", headers)).status == 202
