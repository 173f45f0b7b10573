"""Runs the tasks that move messages for SQS: each in a task of its own, one operation after the other."""

from __future__ import annotations

import logging
from typing import Any

import trio

from zapq import logs
from zapq.engine.engine import Engine
from zapq.errors import ZapqError
from zapq.service.pending import Pending
from zapq.sqs.tasks import Task, Tasks


class Mover:
    """The tasks of one server, which are begun as soon as `run` runs."""

    def __init__(self, engine: Engine) -> None:
        self.tasks = Tasks(self._begin)
        self._engine = engine
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Move messages until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _begin(self, task: Task) -> None:
        if self._nursery is None:
            task.status, task.failure = "FAILED", "ServiceUnavailable"
            return
        self._nursery.start_soon(self._move, task)

    async def _move(self, task: Task) -> None:
        steps = task.steps()
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, float):
                    await trio.sleep(wanted)
                    wanted = steps.send(None)
                    continue
                try:
                    outcome: Any = self._engine.perform(wanted, trio.current_time())
                    if isinstance(outcome, Pending):
                        outcome = await outcome.wait()
                except ZapqError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(outcome)
        except StopIteration:
            pass
        except Exception as error:
            task.status, task.failure = "FAILED", "InternalFailure"
            logs.log.error("moving messages failed", exc_info=error)
            return
        logs.say(
            logging.INFO,
            "moved",
            queue=task.source,
            status=task.status,
            messages=task.moved,
            **({} if task.failure is None else {"reason": task.failure}),
        )
