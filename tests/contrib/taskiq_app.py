"""A program of taskiq whose tasks zapq has. Processes that a test starts get the server's address."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from zapq.contrib.taskiq import ZapqBroker

broker = ZapqBroker(os.environ.get("PROJECT_URL", "unix:/nowhere"), "jobs", visibility=5.0)


@broker.task
async def hang(place: str, seconds: float) -> int:
    """Leave a file that says which process it is in; a second attempt ends at once."""
    file = Path(place) / "attempts"
    before = file.read_text().split() if file.exists() else []
    file.write_text(" ".join([*before, str(os.getpid())]))
    if not before:
        await asyncio.sleep(seconds)
    return len(before) + 1
