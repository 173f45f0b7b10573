"""`zapq cron`: sends messages at the times a file says; in any number of programs at once, each message once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import trio

from zapq.client import Client
from zapq.client.retry import passes
from zapq.errors import KeyReused, ZapqError
from zapq.limits import CRON_LOOK_SECONDS, CRON_PATIENCE, CRON_SET_BACK, SETTLE_SECONDS
from zapq.programs.crontab import Entry


class Cron:
    """Sends what entries say at each of their ticks.

    All programs with the same entries give the message of a tick the same Idempotency-Key, so the server stores it
    once.
    """

    def __init__(
        self,
        client: Client,
        entries: Sequence[Entry],
        *,
        say: Callable[[str], object] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`say` is told what could not be sent; `clock` gives the Unix time."""
        self._client = client
        self._entries = entries
        self._say = say
        self._clock = clock
        self._away = False
        """Whether it was said that the server takes nothing, and nothing was sent since."""
        self._waiting = trio.CancelScope()
        self._sending = trio.CancelScope()

    def stop(self) -> None:
        """Send nothing more that is not due yet; what is being sent has 5 s."""
        self._waiting.cancel()
        self._sending.deadline = trio.current_time() + SETTLE_SECONDS

    async def run(self) -> None:
        """Send messages until `stop`, beginning with the first tick after now."""
        with self._sending:
            async with trio.open_nursery() as sending:
                with self._waiting:
                    async with trio.open_nursery() as waiting:
                        for entry in self._entries:
                            waiting.start_soon(self._wait, entry, sending)

    async def _wait(self, entry: Entry, sending: trio.Nursery) -> None:
        latest = self._clock()
        ticks = entry.ticks(latest)
        while True:
            tick = next(ticks, None)
            if tick is None:
                return
            # What counts is the clock on the wall, which may be set meanwhile.
            while latest - CRON_SET_BACK <= (now := self._clock()) < tick:
                latest = max(latest, now)
                await trio.sleep(min(tick - now, CRON_LOOK_SECONDS))
            if now < latest - CRON_SET_BACK:
                self._say(f"{entry.name}: the clock was set back by {latest - now:.0f} s, so it begins anew")
            elif now - tick > CRON_PATIENCE:
                self._say(f"{entry.name}: missed what was due from {entry.key(tick)[-20:]} on")
            else:
                sending.start_soon(self._send, entry, tick)
                continue
            latest = now
            ticks = entry.ticks(now)

    async def _send(self, entry: Entry, tick: float) -> None:
        failures = 0
        until = trio.current_time() + CRON_PATIENCE

        def left() -> float:
            # Trio's clock stands still while the machine sleeps, and that on the wall may be set back.
            return min(tick + CRON_PATIENCE - self._clock(), until - trio.current_time())

        while True:
            try:
                # Nor may one attempt last so long: the client has patience, and several attempts of its own.
                with trio.fail_after(max(left(), SETTLE_SECONDS)):
                    await self._client.put(
                        entry.queue,
                        entry.body,
                        key=entry.key(tick),
                        **entry.how | {"headers": entry.headers(tick)},
                    )
            except trio.TooSlowError:
                self._say(f"{entry.name}: not sent: the server has not answered in time")
                return
            except KeyReused:
                self._say(f"{entry.name}: another program with this entry sent something else")
                return
            except ZapqError as error:
                failures += 1
                pause = self._client.retry.pause(error, failures)
                # The server forgets the key some time after that: what is sent then might be there twice.
                if not passes(error) or pause > left():
                    self._say(f"{entry.name}: not sent: {error.detail}")
                    return
                if not self._away:
                    self._away = True
                    self._say(f"{entry.name}: tried for up to {CRON_PATIENCE / 60:g} minutes: {error.detail}")
                await trio.sleep(pause)
            else:
                self._away = False
                return
