"""Tasks for Celery's worker; run as a program, it sends all of them."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

app = Celery("celery_tasks", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {
    "region": "us-east-1",
    "is_secure": False,
    "polling_interval": 0.1,
    "wait_time_seconds": 1,
    # What the worker holds when it is killed comes back after so long, and not while a busy one still has it.
    "visibility_timeout": 8,
}
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = True
app.conf.task_routes = {"tasks.other": {"queue": "second"}}


def note(done: str) -> None:
    """Write down that a task is done."""
    with open(os.environ["DONE"], "a") as file:
        file.write(f"{done}\n")


@app.task(name="tasks.one", bind=True, max_retries=3)  # type: ignore[untyped-decorator]  # it is not installed where types are checked
def one(self: Any, number: int) -> None:
    """Do some work; every tenth only when it is tried again."""
    time.sleep(0.05)
    if number % 10 == 0 and self.request.retries < 1:
        raise self.retry(countdown=1)
    note(f"one {number}")


@app.task(name="tasks.other")  # type: ignore[untyped-decorator]  # it is not installed where types are checked
def other(number: int) -> None:
    """Do some work from the other queue."""
    note(f"other {number}")


if __name__ == "__main__":
    for number in range(45):
        one.delay(number)
    for number in range(45, 50):
        one.apply_async((number,), countdown=2)
    for number in range(10):
        other.delay(number)
