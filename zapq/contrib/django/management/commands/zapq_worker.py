"""`manage.py zapq_worker`: run the tasks that are sent to a zapq server."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import anyio
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from zapq.errors import ZapqError
from zapq.limits import SIGNAL_ECHO_SECONDS

if TYPE_CHECKING:
    from zapq.contrib.django.backend import ZapqBackend
    from zapq.contrib.django.worker import Worker


class Command(BaseCommand):
    """Runs tasks until SIGTERM or SIGINT: then it ends those that run, and takes no more."""

    help = "Run the tasks of a zapq server. SIGTERM or Ctrl-C: end those that run, and take no more."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add what the command takes."""
        parser.add_argument("--backend", default="default", help="the alias in TASKS (default: %(default)s)")
        parser.add_argument(
            "--queue", action="append", help="a queue to run; may be given more than once (default: all of QUEUES)"
        )
        parser.add_argument(
            "--concurrency", type=int, default=8, help="tasks of each queue at once (default: %(default)s)"
        )
        parser.add_argument(
            "--visibility",
            type=float,
            default=30.0,
            help="seconds after which another worker is given the tasks of one that died (default: %(default)g)",
        )
        parser.add_argument(
            "--grace",
            type=float,
            default=30.0,
            help="seconds that tasks have to end after SIGTERM; then they are given up (default: %(default)g)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker."""
        # Not before Django's checks have said whether a framework of tasks is installed.
        from zapq.contrib.django.backend import ZapqBackend
        from zapq.contrib.django.framework import task_backends

        aliases = getattr(settings, "TASKS", {})
        if options["backend"] not in {*aliases, "default"}:
            known = ", ".join(sorted(aliases)) or "none"
            raise CommandError(f"TASKS has no {options['backend']!r}. It has: {known}.")
        backend = task_backends[options["backend"]]
        if not isinstance(backend, ZapqBackend):
            raise CommandError(f"TASKS[{options['backend']!r}] is no backend of zapq.")
        queues = options["queue"] or sorted(backend.queues) or ["default"]
        unknown = set(queues) - (backend.queues or set(queues))
        if unknown:
            raise CommandError(f"TASKS[{backend.alias!r}] has no queue {', '.join(sorted(unknown))}.")
        if options["concurrency"] < 1 or options["visibility"] <= 0 or options["grace"] < 0:
            raise CommandError("--concurrency and --visibility must be more than 0, and --grace 0 or more.")
        self.stdout.write(f"running tasks of {', '.join(queues)}, from {backend.url}")
        self.stdout.flush()
        terms = {name: options[name] for name in ("concurrency", "visibility", "grace")}
        left, refusals = 0, list[BaseException]()
        try:
            left = anyio.run(partial(_run, backend, queues, **terms), backend="asyncio")
        except* ZapqError as group:
            refusals.append(group)
        for refusal in refusals:
            raise CommandError(str(_first(refusal)))
        if left:
            # Python would wait for their threads.
            self.stderr.write(f"gave up {left} tasks that were running: other workers get them")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


async def _run(backend: ZapqBackend, queues: Sequence[str], **terms: Any) -> int:
    """Run a worker until signals stop it, and return how many of its threads still run."""
    from zapq.contrib.django.worker import Worker

    worker = Worker(backend, queues, **terms)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, signals, worker)
            await worker.run()
            group.cancel_scope.cancel()
    return worker.running


def _first(error: BaseException) -> BaseException:
    """Return the first of the errors in a group: with several queues, they are the same."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _watch(signals: AsyncIterator[signal.Signals], worker: Worker) -> None:
    stopped = -inf
    async for _ in signals:
        # Two at once are one: sent to the program, and to its process group.
        now = anyio.current_time()
        if now - stopped >= SIGNAL_ECHO_SECONDS:
            stopped = now
            worker.stop()
