"""Where connections wait and hot requests are answered: one task for all of them.

A task for each connection would spend more on being woken than on a hot request. So every connection, plain or
TLS, between two requests waits in one selector. The lobby's task waits for the selector, which is itself
pollable (an epoll or kqueue descriptor is readable when something in it is ready). For each socket that is ready
it takes one bounded step: accept, or receive and `HotPath.respond`. The answers are sent when all that were
ready have had theirs. Waking a client on another core costs as much as answering it, and one that has many
connections is then woken once for all of them.

Nothing here waits for a client. What would have to (a request that is not hot, an answer that the client does
not take in) is given, with the bytes received so far, to a task of its own, a `Connection`; between requests
that gives the socket back. A connection is in exactly one of the two places. A connection that waits for a message
(a long poll) stays here: it stands in line, and the step that brings the message has it answered in the lobby's
next turn.

Requests that may take milliseconds (batches, listings) have a line of their own. Each turn ends with a few of
them, once all that were ready have had theirs, so a client that asks for little waits for these at most. Clients
whose TLS handshakes are under way have another (`zapq/server/newcomers.py`), and each turn ends with one step of
one of them: however many clients connect, those that are connected wait for one step at most. What the states of
a guest are, and which may follow which, is in `zapq/server/states.py`.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from math import inf

import trio

from zapq import logs
from zapq.engine.engine import Engine, Outcomes
from zapq.limits import (
    BYTES_PER_COST,
    HANDSHAKE_SECONDS,
    LARGE_SECONDS,
    MIB,
    RECEIVE_BYTES,
    TURN_COST,
)
from zapq.server.connection import Connection, Handoff
from zapq.server.door import Door
from zapq.server.guest import Guest
from zapq.server.hotpath import Answers, HotPath
from zapq.server.listeners import ListeningSocket
from zapq.server.newcomers import Newcomers
from zapq.server.site import Site
from zapq.server.states import GuestState
from zapq.server.stream import ClientStream
from zapq.server.tls import PlainHTTP, TlsSocket, Wire
from zapq.service.pending import Group, Pending
from zapq.wakeup import Wakeup

# Looked up for every request: as members of the class they cost more.
_HANDSHAKE, _IDLE, _HEAD, _BODY = GuestState.HANDSHAKE, GuestState.IDLE, GuestState.HEAD, GuestState.BODY
_MORE, _PARKED, _COMMIT, _GONE = GuestState.MORE, GuestState.PARKED, GuestState.COMMIT, GuestState.GONE
_AFTER = {"idle": _IDLE, "head": _HEAD, "body": _BODY, "more": _MORE}
"""The states that answers leave a guest in, by `Answers.then`."""
_READ = selectors.EVENT_READ
_READ_OR_WRITE = selectors.EVENT_READ | selectors.EVENT_WRITE


class Lobby:
    """The connections of one server that need no task, and the door they come in by."""

    def __init__(
        self,
        listening: ListeningSocket,
        site: Site,
        hot: HotPath,
        engine: Engine,
        connections: trio.Nursery,
        *,
        shares_door: bool = False,
    ) -> None:
        """If it `shares_door`, lobbies of other processes accept from the same socket, and get their part."""
        self._engine = engine
        self._site = site
        self._hot = hot
        self._settings = site.settings
        self._connections = connections
        self._selector = selectors.DefaultSelector()
        self._door = Door(listening, site, self._selector, self.admit, shared=shares_door)
        self._guests: set[Guest] = set()
        self._ready: deque[Guest | Newcomers | Outcomes | Door] = deque()
        """Whose turn is next."""
        self._answered: list[tuple[Guest, Answers, bytes]] = []
        """Guests, the answers to send them, and the bytes of theirs that these do not answer."""
        self._held: list[tuple[Guest, Answers, bytes]] = []
        """Those whose answers are made, and leave when it is known what became of `_group`."""
        self._group: Group | None = None
        self._newcomers = Newcomers(self._selector)
        self._large: deque[Guest] = deque()
        """Those with a request that may take milliseconds."""
        self._wakeup = Wakeup()
        """Woken for guests that have become ready otherwise than by sending something."""
        self._in_turn = False
        self._now = 0.0
        self._alarm = inf
        self._alarm_changed = trio.Event()

    @staticmethod
    def possible() -> bool:
        """Whether this platform has a selector that is itself pollable: epoll and kqueue are, poll is not."""
        with selectors.DefaultSelector() as selector:
            return hasattr(selector, "fileno")

    async def run(self) -> None:
        """Accept and serve until cancelled; then close guests between two requests, and give the others a task."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_clock)
                nursery.start_soon(self._watch_outcomes)
                self._hot.access.on_change.append(self._check_credentials)
                self._door.open()
                self._selector.register(self._wakeup.inside, _READ, self._wakeup)
                while True:
                    if self._ready or self._newcomers.ready or self._large:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._selector.fileno())
                    self._in_turn = True
                    self._turn(nursery)
                    self._in_turn = False
        finally:
            with suppress(ValueError):
                self._hot.access.on_change.remove(self._check_credentials)
            self._empty()
            self._wakeup.close()

    async def _watch_outcomes(self) -> None:
        """Have the selector see to the outcomes of what was asked."""
        with self._engine.watched() as outcomes:
            if outcomes is None:
                return
            self._selector.register(outcomes, _READ, outcomes)
            try:
                await trio.sleep_forever()
            finally:
                # The selector is closed by the task that leaves last.
                with suppress(KeyError, ValueError, RuntimeError):
                    self._selector.unregister(outcomes)

    def admit(self, wire: Wire, network: str, received: bytes = b"") -> None:
        """Take in a connection that is new or between requests; `received` is what it has sent already."""
        guest = Guest(wire, network)
        patience = HANDSHAKE_SECONDS if guest.state is _HANDSHAKE else self._settings.keep_alive
        self._set_deadline(guest, trio.current_time() + patience)
        if guest.state is _HANDSHAKE:
            self._newcomers.add(guest)
        else:
            self._watch(guest, _READ)
        self._guests.add(guest)
        if received:
            guest.rest += received
            self._become(guest, _MORE)

    def _turn(self, nursery: trio.Nursery) -> None:
        """Serve the guests that are ready, for a bounded time."""
        self._now = trio.current_time()
        self._hot.set_time(time.time(), self._now)
        cost, due = 0, 0
        with self._engine.turn():
            while cost < TURN_COST:
                if not self._ready:
                    due = len(self._large)
                    self._send_answers()
                    self._ready.extend([key.data for key, _ in self._selector.select(0)])
                    if not self._ready:
                        break
                guest = self._ready.popleft()
                if isinstance(guest, Guest):
                    if guest.state is not _GONE:
                        try:  # as `_attend`, without the call
                            cost += self._step(guest, large=False)
                        except Exception as error:
                            self._disconnect(guest, error)
                elif isinstance(guest, Door):
                    cost += guest.accept(nursery)
                else:
                    guest.answer()
            self._send_answers()
            if due:
                # Not those that came since: guests that were ready with them have not had their turn.
                self._serve_large(due)
        if self._answered:
            self._send_answers()
        if self._newcomers.ready:
            self._take_handshake_step(self._newcomers.pop())

    def _serve_large(self, due: int) -> None:
        """Answer some of the `due` first in the line of large requests; other clients wait for these at most."""
        cost, last, until = 0, len(self._large) - due, time.perf_counter() + LARGE_SECONDS
        while len(self._large) > last and cost < TURN_COST and time.perf_counter() < until:
            guest = self._large.popleft()
            if guest.state is not _MORE:
                continue
            if len(guest.rest) > MIB and isinstance(guest.rest, bytearray):
                # To copy it takes milliseconds, so it is answered in the next turn.
                guest.rest = bytes(guest.rest)
                self._large.appendleft(guest)
                return
            cost += self._attend(guest, large=True)
            if self._large and self._large[-1] is guest:
                # It waits for what is done for the one before.
                self._large.rotate(1)
                break
        self._send_answers()

    def _attend(self, guest: Guest, large: bool = False) -> int:
        """Take one step for `guest`, and return what it cost; an error ends this guest only."""
        try:
            return self._step(guest, large)
        except Exception as error:
            self._disconnect(guest, error)
            return 1

    def _send_answers(self) -> None:
        answered, self._answered = self._answered, []
        for guest, answers, rest in answered:
            try:
                self._answer(guest, answers, rest)
            except Exception as error:
                self._disconnect(guest, error)

    def _disconnect(self, guest: Guest, error: Exception) -> None:
        if isinstance(error, OSError):
            logs.say(logging.DEBUG, "client gone", error=repr(error))
        else:
            self._site.note_failure(error)
        if guest.state is not _GONE:
            self._close(guest)

    def _step(self, guest: Guest, large: bool) -> int:
        state, reserved = guest.state, None
        if state is _IDLE or state is _HEAD or state is _BODY:
            try:
                data = guest.wire.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return 1
            if state is not _IDLE or not data:
                received = len(data)
                if guest.large and data and len(guest.rest) + received >= guest.needed:
                    guest.rest += data
                    self._line_up(guest)
                    return 1 + received // BYTES_PER_COST
                data = self._resume(guest, data)
                if not data:
                    return 1 + received // BYTES_PER_COST
                # The message it was for is complete, and stored or refused now.
                reserved = guest.release_reservation()
        elif state is _MORE:
            data = bytes(guest.rest)
            reserved = guest.release_reservation()
        elif guest.answers is None:
            # Ready for two reasons, in one turn: its answers are about to be sent.
            return 1
        else:
            return self._look_after(guest, guest.answers)
        answers = self._hot.respond(data, guest.identities, guest.sock, large)
        if answers.then == "large":
            guest.rest = data
            if reserved is not None and reserved.cover(len(data)):
                guest.reserved = reserved  # until it has its turn, it is still only held
            self._line_up(guest)
            return 1
        # What was answered is not kept till then: memory that is used again at once costs least.
        rest = data[answers.used :]
        if answers.pending is None:
            self._answered.append((guest, answers, rest))
        elif answers.group is not None:
            self._hold(guest, answers, rest, answers.group)
        else:
            self._wait(guest, answers, rest)
        return 1 + answers.cost

    def _line_up(self, guest: Guest) -> None:
        """Let a request that may take milliseconds, and has arrived, wait for its turn."""
        guest.deadline = inf  # that it waits now is not its client's doing
        guest.large = True
        guest.become(_MORE)
        self._watch(guest, 0)
        self._large.append(guest)

    def _take_handshake_step(self, guest: Guest) -> None:
        """Go on with a handshake, as far as what its client has sent goes."""
        if guest.state is _GONE:
            return
        wire = guest.wire
        assert isinstance(wire, TlsSocket)
        try:
            received = wire.handshake()
            if received is None:
                if wire.begun:
                    given_up = self._newcomers.note_step(guest, has_unsent=wire.has_unsent)
                    if given_up is not None:
                        self._close(given_up)
                return
            self._newcomers.remove(guest)
            guest.become(_IDLE)
            guest.identities = wire.identities
            guest.rest += received
            if wire.http2:
                self._promote(guest, Handoff(received))
                return
            self._set_deadline(guest, self._now + self._settings.keep_alive)
            self._watch(guest, _READ)
            if received:
                self._become(guest, _MORE)
        except PlainHTTP:
            self._promote(guest, Handoff())  # it says so
        except OSError as error:
            self._site.note_handshake_failed(error, guest.sock)
            self._close(guest)
        except Exception as error:
            self._disconnect(guest, error)

    def _answer(self, guest: Guest, answers: Answers, rest: bytes) -> None:
        """Send answers, and go on with `rest`, which was received and is not answered yet."""
        if answers.data:
            try:
                sent = guest.wire.send(answers.data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._hot.reconcile(answers, 0)
                raise
            if sent < len(answers.data):
                self._promote(guest, Handoff(rest, unsent=answers, sent=sent))
                return
        state = guest.state
        if answers.then == "idle" and (state is _IDLE or (state is _COMMIT and guest.events == _READ)):
            if state is _COMMIT:
                guest.become(_IDLE)
            # Later than before, so no alarm need be set.
            guest.deadline = self._now + self._settings.keep_alive
        else:
            self._follow(guest, answers, rest)

    def _hold(self, guest: Guest, answers: Answers, rest: bytes, group: Group) -> None:
        """Keep answers that are made until it is known what became of `group`, with others that wait for it."""
        if group is not self._group:
            self._group, self._held = group, []
            group.after.append(partial(self._let_go, group, self._held))
        guest.answers = answers
        if rest or guest.rest:
            guest.rest = bytearray(rest)
        guest.become(_COMMIT)
        if guest.events != _READ:
            self._watch(guest, _READ)
        self._held.append((guest, answers, rest))

    def _let_go(self, group: Group, held: list[tuple[Guest, Answers, bytes]]) -> None:
        """Have answers sent that waited for `group`; if it failed, they are refusals."""
        for guest, answers, rest in held:
            if guest.answers is not answers:
                continue  # it has left
            guest.answers = None
            if rest:
                guest.rest = bytearray()
            if group.failure:
                self._hot.complete(answers, guest.sock)
            answers.pending = None
            self._answered.append((guest, answers, rest))
        held.clear()
        if not self._in_turn:
            self._wakeup.wake()

    def _wait(self, guest: Guest, answers: Answers, rest: bytes) -> None:
        """Keep `answers` until their outcome is known."""
        pending = answers.pending
        assert pending is not None
        guest.answers = answers
        if rest or guest.rest:
            guest.rest = bytearray(rest)
        if pending.patient:
            # The queue's line sees to its time; ours is when its client's credential may end.
            self._set_deadline(guest, self._when_credentials_end())
            guest.become(_PARKED)
            self._watch(guest, 0 if rest else _READ)
        else:
            guest.become(_COMMIT)
            if guest.events != _READ:
                self._watch(guest, _READ)
            if len(answers.unfinished) == 1:
                pending.when_done(partial(self._on_known, guest, answers, pending))
                return
        pending.when_done(partial(self._on_done, guest))

    def _when_credentials_end(self) -> float:
        """Return when the next of all credentials ends, as a time of Trio's clock."""
        until = self._hot.access.until
        return inf if until == inf else trio.current_time() + until - time.time()

    def _check_credentials(self) -> None:
        """Have what waits refused, as if it came now, if its client's credential is not good for it any more."""
        until = self._when_credentials_end()
        for guest in [guest for guest in self._guests if guest.state is _PARKED]:
            if guest.answers is None or self._hot.still_lets_in(guest.answers, guest.identities):
                self._set_deadline(guest, until)
                continue
            try:
                self._refuse_waiting(guest, guest.answers)
            except Exception as error:
                self._disconnect(guest, error)

    def _refuse_waiting(self, guest: Guest, answers: Answers) -> None:
        """Have what waits answered by the other road, which refuses it; if it has begun, that is too late."""
        [unfinished] = answers.unfinished
        if not unfinished.pending.done and self._hot.may_end(answers):
            self._refuse(guest, answers)

    def _refuse(self, guest: Guest, answers: Answers) -> None:
        """Have what was withdrawn refused by the other road."""
        [unfinished] = answers.unfinished
        # Most bodies are not kept, nor needed for a refusal. That ends the connection, and with it all behind.
        rest = b"" if unfinished.head.length and not answers.whole else bytes(guest.rest)
        self._promote(guest, Handoff(answers.waiting_head + rest))

    def _on_done(self, guest: Guest) -> None:
        """Have a guest answered soon; this is called in the middle of the step that brought its outcome."""
        self._ready.append(guest)
        if not self._in_turn:
            self._wakeup.wake()

    def _on_known(self, guest: Guest, answers: Answers, pending: Pending[object]) -> None:
        """Have answers sent as soon as the one outcome is known that they wait for; most of many are like this."""
        if pending.withdrawn:
            self._on_done(guest)
            return
        self._finish(guest, answers)
        if not self._in_turn:
            self._wakeup.wake()

    def _look_after(self, guest: Guest, answers: Answers) -> int:
        """Answer a guest whose outcome is known, or that has left, which is looked for first."""
        pending, left = answers.pending, False
        assert pending is not None
        if guest.state is _PARKED and guest.events:
            with suppress(BlockingIOError):
                if guest.wire is guest.sock:
                    left = not guest.sock.recv(1, socket.MSG_PEEK)
                else:
                    # Only by decrypting it can it be told what was sent.
                    behind = guest.wire.recv(RECEIVE_BYTES)
                    left = not behind
                    guest.rest += behind
                if not left:
                    # What comes behind it is for later; till then the kernel keeps it.
                    self._watch(guest, 0)
        elif not pending.done:
            # What it sends now waits until it has its answers; in the selector it would be ready all the time.
            self._watch(guest, 0)
        if pending.done and (other := answers.awaited()) is not None:
            other.when_done(partial(self._on_done, guest))
        elif pending.done and pending.withdrawn and not left:
            self._refuse(guest, answers)
        elif pending.done or (left and self._hot.may_end(answers)):
            self._finish(guest, answers, left=left)
        elif left:
            self._watch(guest, 0)
        return 1

    def _finish(self, guest: Guest, answers: Answers, *, left: bool = False, draining: bool = False) -> None:
        """Make the answers that waited, and go on with what came behind them."""
        guest.answers = None
        self._hot.complete(answers, guest.sock, left=left, draining=draining)
        rest = b""
        if guest.rest:
            rest, guest.rest = bytes(guest.rest), bytearray()
        if answers.then == "wait":
            answers.then = "more" if rest else "idle"
        # Until they are sent it stays in its state, so that what comes next is not read before `rest` has had its
        # turn, nor answered over the head of an answer that has gone to a task.
        self._answered.append((guest, answers, rest))

    def _watch(self, guest: Guest, events: int) -> None:
        """Have `guest` ready on these events of its socket; on none if they are 0."""
        if events == guest.events:
            return
        if not guest.events:
            self._selector.register(guest.sock, events, guest)
        elif events:
            self._selector.modify(guest.sock, events, guest)
        else:
            self._selector.unregister(guest.sock)
        guest.events = events

    def _resume(self, guest: Guest, data: bytes) -> bytes:
        """Add `data` to what there is of `guest`'s request, and return it all once that is worth a look."""
        if data:
            guest.rest += data
            return bytes(guest.rest) if len(guest.rest) >= guest.needed else b""
        if guest.rest:
            # Half a request, and no more to come: h11 has the word for it.
            self._promote(guest, self._handoff(guest, bytes(guest.rest)))
        else:
            self._close(guest)
        return b""

    def _follow(self, guest: Guest, answers: Answers, rest: bytes) -> None:
        """Bring `guest` into the state its last bytes put it in."""
        fresh = answers.used > 0 or guest.state is not _AFTER.get(answers.then)
        if guest.state is _COMMIT or guest.state is _PARKED:
            guest.become(_IDLE)
        large = False
        match answers.then:
            case "cold":
                self._promote(guest, Handoff(rest) if answers.used else self._handoff(guest, rest))
                return
            case "close":
                # At once, and without the pause in which a `Connection` reads on: it is the client's own wish,
                # so nothing more will come whose arrival could make the kernel send a reset.
                self._close(guest)
                return
            case "body":
                assert answers.announced is not None
                guest.reserved = self._hot.reserve(answers.announced)
                if guest.reserved is None:
                    self._promote(guest, Handoff(rest) if answers.used else self._handoff(guest, rest))
                    return
                patience = self._settings.body_timeout
                large = answers.announced.large
            case "head":
                patience = self._settings.head_timeout
            case _:
                patience = self._settings.keep_alive
        if fresh:
            self._set_deadline(guest, self._now + patience)
        guest.rest = bytearray(rest)
        guest.needed = answers.needed
        guest.large = large
        self._become(guest, _AFTER[answers.then])

    def _become(self, guest: Guest, state: GuestState) -> None:
        guest.become(state)
        # A guest with more requests to answer is ready without sending anything: when it can take the answers.
        self._watch(guest, _READ_OR_WRITE if state is _MORE else _READ)

    def _handoff(self, guest: Guest, received: bytes, *, in_body: bool = False) -> Handoff:
        """Return what a task must know, and what it must have, to take `guest` over in the middle of a request."""
        reserved, guest.reserved = guest.reserved, None
        in_body = in_body or guest.state is _BODY
        return Handoff(
            received,
            reserved=reserved,
            head_deadline=guest.deadline if guest.state is _HEAD else None,
            body_deadline=guest.deadline if in_body else None,
        )

    def _promote(self, guest: Guest, handoff: Handoff) -> None:
        """Give `guest` a task of its own, until it is between requests again."""
        self._forget(guest)
        connection = Connection(
            self._site,
            ClientStream(guest.wire),
            network=guest.network,
            handoff=handoff,
            hand_back=partial(self.admit, guest.wire, guest.network),
        )
        self._connections.start_soon(connection.run)

    def _forget(self, guest: Guest) -> None:
        if guest.state is _HANDSHAKE:
            self._newcomers.remove(guest)
        else:
            self._watch(guest, 0)
        if guest.answers is not None:
            self._hot.drop(guest.answers)
            guest.answers = None
        guest.release_reservation()
        self._guests.discard(guest)
        guest.become(_GONE)

    def _close(self, guest: Guest) -> None:
        self._forget(guest)
        guest.wire.close()
        self._site.leave(guest.network)

    async def _watch_clock(self) -> None:
        """End what lasts too long. Looking at all guests now and then is cheaper than a timer for each request."""
        limits = self._settings
        grain = min(1.0, min(limits.keep_alive, limits.head_timeout, limits.body_timeout) / 10)
        while True:
            self._now = trio.current_time()
            for guest in [guest for guest in self._guests if guest.deadline <= self._now]:
                if guest.state is _PARKED:
                    self._hot.access.expire(time.time())
                    guest.deadline = self._when_credentials_end()
                elif guest.state is _COMMIT:
                    guest.deadline = self._now + limits.keep_alive  # the disk is late, not the client
                elif guest.state is _BODY:
                    self._promote(guest, self._handoff(guest, bytes(guest.rest)))  # it answers 408
                else:
                    self._close(guest)
            self._alarm = max(self._now + grain, min((guest.deadline for guest in self._guests), default=inf))
            self._alarm_changed = trio.Event()
            with trio.move_on_at(self._alarm):
                await self._alarm_changed.wait()

    def _set_deadline(self, guest: Guest, deadline: float) -> None:
        guest.deadline = deadline
        if deadline < self._alarm:
            self._alarm_changed.set()

    def _empty(self) -> None:
        """Close guests between requests and give the others a task; what has arrived by now is served first."""
        for key, _ in self._selector.select(0):
            if isinstance(key.data, Guest) and key.data.state is not _GONE:
                self._attend(key.data)
        self._hot.set_time(time.time(), trio.current_time())
        for guest in list(self._guests):
            if guest.state is _PARKED and guest.answers is not None:
                try:
                    if self._hot.may_end(guest.answers):
                        self._finish(guest, guest.answers, draining=True)
                except Exception as error:
                    self._disconnect(guest, error)
        self._send_answers()
        for guest in list(self._guests):
            if guest.answers is not None:
                answers, guest.answers = guest.answers, None
                self._promote(guest, Handoff(bytes(guest.rest), unsent=answers))
            elif guest.rest:
                # One in line for its turn has sent its body, and so had begun before the shutdown.
                in_line = guest.state is _MORE and guest.large
                self._promote(guest, self._handoff(guest, bytes(guest.rest), in_body=in_line))
            else:
                self._close(guest)
        self._newcomers.close()
        self._selector.close()
