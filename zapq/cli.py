"""The server's process: flags only build `Settings`; all that is wrong is one line on standard error."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import Any

import trio

import zapq
from zapq import logs, systemd
from zapq.allocator import settle_in
from zapq.command.exit import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EXIT_USAGE, fail
from zapq.errors import InvalidSetting, ZapqError
from zapq.limits import SIGNAL_ECHO_SECONDS
from zapq.movable_clock import MovableClock
from zapq.settings import Settings
from zapq.sources import load, unknown_variables

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPS = {signal.SIGINT, signal.SIGTERM}


def serve(**flags: Any) -> int:
    """Serve as the flags say, and return the exit code; each flag is what was typed, or None."""
    try:
        return _serve(**flags)
    except (ZapqError, BaseExceptionGroup) as error:
        refusal = _only_refusal(error)
        if refusal is None:
            raise
        return fail(refusal.detail, EXIT_USAGE if isinstance(refusal, InvalidSetting) else EXIT_FAILED)


def _serve(**flags: Any) -> int:
    handover = systemd.take(os.environ, os.getpid())
    config = flags.pop("config") or os.environ.get("ZAPQ_CONFIG")
    queues = flags.pop("queues") or os.environ.get("ZAPQ_QUEUES")
    settings = load(flags=flags, environ=os.environ, config=config, queues=queues)
    # Not before the settings are read, which a signal must be able to end, and before the first thread starts.
    _keep_signals_for_us()
    with logs.written_aside(settings):
        for variable, nearest in unknown_variables(os.environ).items():
            meant = {"nearest": nearest} if nearest else {}
            logs.say(logging.WARNING, "unknown variable in the environment", variable=variable, **meant)
        handover.check(settings)
        with systemd.open_notifier(handover.notify_socket) as notifier:
            clock = MovableClock() if settings.test_clock else None
            return trio.run(serve_until_signalled, settings, notifier, handover.watchdog, clock=clock)


def _keep_signals_for_us() -> None:
    """Block our signals in this thread and all it starts, until the process ends; `sigwait` takes them.

    A handler would not do. Signals that come fast run it within itself until one of its calls fails, and Python
    takes it away as it ends: after that, a signal kills the process. A blocked signal interrupts nothing and kills
    nothing at any time. It stays pending until it is waited for, and without a waiter it has no effect.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for each in _SIGNALS:
        # Some systems drop what was ignored when the process began, such as SIGINT behind `&`.
        signal.signal(each, signal.SIG_DFL)


async def serve_until_signalled(settings: Settings, notifier: systemd.Notifier, watchdog: float | None) -> int:
    """Serve until the first SIGINT or SIGTERM, end at once on the second, and return the exit code.

    A second one that comes together with the first counts for nothing: the program that stops us may send one to
    us and one to our process group.

    The signals are blocked, in every thread, and stay so: further ones are ignored to the end of the process.

    SIGHUP has the token file and the certificates read again; if there are none and the server runs on a terminal,
    it also stops.
    Systemd is told when clients can be answered, when that ends, and within `watchdog` seconds that all is well.
    """
    stopping = trio.Event()
    # Asked now, for a terminal that is closed is none any more.
    on_terminal = os.isatty(0)
    ask_to_reload, asked_to_reload = trio.open_memory_channel[None](1)
    code = EXIT_OK
    async with trio.open_nursery() as nursery:

        async def watch_signals(*, task_status: trio.TaskStatus[None]) -> None:
            nonlocal code
            task_status.started()
            alone = trio.CapacityLimiter(1)
            while True:
                # Abandoned, the thread waits on, and the process ends without it.
                number = await trio.to_thread.run_sync(
                    signal.sigwait, _SIGNALS, abandon_on_cancel=True, limiter=alone
                )
                name = signal.Signals(number).name
                # On a terminal, and with nothing to read again, it means what it does for most programs: the
                # terminal is closed.
                if number == signal.SIGHUP and (settings.token_file or settings.tls or not on_terminal):
                    with suppress(trio.WouldBlock):  # one is on its way already
                        ask_to_reload.send_nowait(None)
                    continue
                if stopping.is_set():
                    logs.say(logging.WARNING, "second shutdown signal received; ending now", signal=name)
                    code = EXIT_SIGNAL + number
                    nursery.cancel_scope.cancel()
                    return
                logs.say(logging.INFO, "shutdown signal received", signal=name, grace=settings.grace)
                notifier.tell("STOPPING=1", f"shutting down, within {settings.grace:g} s")
                stopping.set()
                await trio.sleep(SIGNAL_ECHO_SECONDS)
                while echoes := signal.sigpending() & _STOPS:
                    signal.sigwait(echoes)

        async def run_server(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await zapq.serve(
                settings,
                shutdown_trigger=stopping.wait,
                reload_trigger=asked_to_reload.receive,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

        await nursery.start(watch_signals)
        [url] = await nursery.start(run_server)
        address = url.partition("://")[2] or url
        settle_in()
        logs.say(
            logging.INFO,
            "queue listening",
            addr=address,
            tls=settings.tls,
            max_bytes=settings.max_bytes,
            max_msgs=settings.max_msgs,
        )
        warn_if_open(settings)
        if not stopping.is_set():
            notifier.tell("READY=1", f"listening on {address}")
        if watchdog is not None:
            nursery.start_soon(notifier.give_signs_of_life, watchdog)
    logs.say(logging.INFO, "bye")
    return code


def warn_if_open(settings: Settings) -> None:
    """Log a warning if the server listens on all addresses, and asks clients for no credential."""
    address = settings.address
    everywhere = not (address.path or address.descriptor >= 0) and address.host in {"", "0.0.0.0", "::"}
    if everywhere and not (settings.token_file or settings.token or settings.tls_client_ca):
        logs.say(
            logging.WARNING,
            "every client that reaches the port may send and take messages",
            remedy="--addr 127.0.0.1:8080 or --token-file",
        )


def _only_refusal(error: BaseException) -> ZapqError | None:
    """The refusal of ours that a nursery may have wrapped, if there is nothing else in the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, ZapqError) else None
