"""Where plain connections wait and hot requests are answered: one task for all of them.

A task for each connection would spend more on being woken than on a hot request. So every plain connection
between two requests waits in one selector, and the lobby's task waits for the selector, which is itself
pollable (an epoll or kqueue descriptor is readable when something in it is ready). For each socket that is
ready it takes one bounded step: accept, or receive and `HotPath.respond`. The answers are sent when all that were
ready have had theirs: a client on another core that is woken costs as much as answering it, and one that has many
connections is then woken once for all of them.

Nothing here waits for a client. What would have to (a request that is not hot, an answer that the client does
not take in) is given, with the bytes received so far, to a task of its own, a `Connection`; between requests
that gives the socket back. A connection is in exactly one of the two places. A connection that waits for a message
(a long poll) stays here: it stands in line, and the step that brings the message has it answered in the lobby's
next turn.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Literal

import trio

from zapq import logs
from zapq.limits import ACCEPT_PAUSE, ACCEPTS, BYTES_PER_COST, RECEIVE_BYTES, TURN_COST
from zapq.server.connection import Connection, Handoff, Site
from zapq.server.hotpath import Answers, HotPath
from zapq.server.listeners import CHANGED_THEIR_MIND, OUT_OF_RESOURCES, ListeningSocket
from zapq.server.peer_network import peer_network
from zapq.service.journal import Journal
from zapq.service.reservation import Reservation

State = Literal["idle", "head", "body", "more", "wait", "commit"]
_READ = selectors.EVENT_READ


class Wakeup:
    """Something in a selector that any thread can wake."""

    def __init__(self, answer: Callable[[], object] = lambda: None) -> None:
        self.inside, self._outside = socket.socketpair()
        self.inside.setblocking(False)
        self._outside.setblocking(False)
        self._answer = answer

    def wake(self) -> None:
        """Have it answered soon; from any thread."""
        # It is full, and woken already; or the lobby is gone.
        with suppress(OSError):
            self._outside.send(b"!")

    def answer(self) -> None:
        """Do what it is woken for."""
        with suppress(BlockingIOError):
            self.inside.recv(RECEIVE_BYTES)
        self._answer()

    def close(self) -> None:
        """Take it down."""
        self.inside.close()
        self._outside.close()


class Guest:
    """A connection in the lobby."""

    __slots__ = (
        "answers",
        "deadline",
        "here",
        "needed",
        "network",
        "reserved",
        "rest",
        "sock",
        "state",
        "watched",
    )

    def __init__(self, sock: socket.socket, network: str) -> None:
        self.sock = sock
        self.network = network
        self.deadline = inf
        """When its state has lasted too long."""
        self.here = True
        self.state: State = "idle"
        """As in `Answers.then`; `commit`: its answers wait for the disk."""
        self.answers: Answers | None = None
        """Those, or that of a long poll."""
        self.watched = True
        """Whether the selector knows it."""
        self.rest = bytearray()
        """What was received and not answered yet."""
        self.needed = 0
        """How long `rest` must be before it is worth looking at again."""
        self.reserved: Reservation | None = None
        """Room for the message it is sending."""

    def release_reservation(self) -> None:
        """Reserve nothing any more."""
        if self.reserved is not None:
            self.reserved.release()
            self.reserved = None


class Lobby:
    """The plain connections of one server that need no task, and the door they come in by."""

    def __init__(self, listening: ListeningSocket, site: Site, hot: HotPath, connections: trio.Nursery) -> None:
        self._listening = listening.sock
        self._reserve_descriptor = listening.reserve_descriptor
        self._site = site
        self._hot = hot
        self._settings = site.settings
        self._connections = connections
        self._selector = selectors.DefaultSelector()
        self._guests: set[Guest] = set()
        self._ready: deque[Guest | Wakeup | None] = deque()
        """Whose turn is next; None is the door."""
        self._answered: list[tuple[Guest, Answers, bytes]] = []
        """Guests, the answers to send them, and the bytes of theirs that these do not answer."""
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
                if self._hot.journal is not None:
                    nursery.start_soon(self._listen_for, self._hot.journal)
                self._selector.register(self._listening, _READ, None)
                self._selector.register(self._wakeup.inside, _READ, self._wakeup)
                while True:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._selector.fileno())
                    self._in_turn = True
                    self._turn(nursery)
                    self._in_turn = False
        finally:
            self._empty()
            self._wakeup.close()

    async def _listen_for(self, journal: Journal) -> None:
        """Be told of commits through the selector: that is two of Trio's turns faster than its own way."""
        wakeup = Wakeup(journal.collect)
        try:
            self._selector.register(wakeup.inside, _READ, wakeup)
            with journal.roused_by(wakeup.wake):
                await trio.sleep_forever()
        finally:
            # The selector is closed by the task that leaves last.
            with suppress(KeyError, ValueError, RuntimeError):
                self._selector.unregister(wakeup.inside)
            wakeup.close()

    def admit(self, sock: socket.socket, network: str, received: bytes = b"") -> None:
        """Take in a connection that is between requests; `received` is what it has sent already."""
        guest = Guest(sock, network)
        self._set_deadline(guest, trio.current_time() + self._settings.keep_alive)
        self._selector.register(sock, _READ, guest)
        self._guests.add(guest)
        if received:
            guest.rest += received
            self._become(guest, "more")

    def _turn(self, nursery: trio.Nursery) -> None:
        """Serve the guests that are ready, for a bounded time."""
        self._now = trio.current_time()
        self._hot.set_time(time.time(), self._now)
        cost = 0
        with self._hot.written_together():
            while cost < TURN_COST:
                if not self._ready:
                    self._send_answers()
                    self._ready.extend([key.data for key, _ in self._selector.select(0)])
                    if not self._ready:
                        return
                guest = self._ready.popleft()
                if guest is None:
                    cost += self._accept(nursery)
                elif isinstance(guest, Wakeup):
                    guest.answer()
                elif guest.here:
                    cost += self._attend(guest)
            self._send_answers()

    def _attend(self, guest: Guest) -> int:
        """Take one step for `guest`, and return what it cost; an error ends this guest only."""
        try:
            return self._step(guest)
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
        if guest.here:
            self._close(guest)

    def _step(self, guest: Guest) -> int:
        if guest.answers is not None:
            return self._look_after(guest, guest.answers)
        if guest.state == "more":
            data = bytes(guest.rest)
        else:
            try:
                data = guest.sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return 1
            if guest.state != "idle" or not data:
                received = len(data)
                data = self._resume(guest, data)
                if not data:
                    return 1 + received // BYTES_PER_COST
                # The message it was for is complete, and stored or refused now.
                guest.release_reservation()
        answers = self._hot.respond(data, sock=guest.sock)
        # What was answered is not kept till then: memory that is used again at once costs least.
        rest = data[answers.used :]
        if answers.pending is None:
            self._answered.append((guest, answers, rest))
        else:
            self._wait(guest, answers, rest)
        return 1 + answers.cost

    def _answer(self, guest: Guest, answers: Answers, rest: bytes) -> None:
        """Send answers, and go on with `rest`, which was received and is not answered yet."""
        if answers.data:
            sent = self._send(guest, answers)
            if sent < len(answers.data):
                self._promote(guest, Handoff(rest, unsent=answers, sent=sent))
                return
        if answers.then == guest.state == "idle":
            # Later than before, so no alarm need be set.
            guest.deadline = self._now + self._settings.keep_alive
        else:
            self._follow(guest, answers, rest)

    def _wait(self, guest: Guest, answers: Answers, rest: bytes) -> None:
        """Keep `answers` until their outcome is known."""
        assert answers.pending is not None
        guest.answers = answers
        guest.rest = bytearray(rest)
        if answers.pending.patient:
            # The queue's line sees to its time.
            guest.deadline = inf
            self._become(guest, "wait")
            if rest:
                self._unwatch(guest)
        else:
            self._become(guest, "commit")
        answers.pending.when_done(partial(self._on_done, guest))

    def _on_done(self, guest: Guest) -> None:
        """Have a guest answered soon; this is called in the middle of the step that brought its outcome."""
        self._ready.append(guest)
        if not self._in_turn:
            self._wakeup.wake()

    def _look_after(self, guest: Guest, answers: Answers) -> int:
        """Answer a guest whose outcome is known, or who has left: looked for first, so that nothing is lost."""
        pending, left = answers.pending, False
        assert pending is not None
        if guest.watched and pending.patient:
            with suppress(BlockingIOError):
                left = not guest.sock.recv(1, socket.MSG_PEEK)
                if not left:
                    # What comes behind it is for later; till then the kernel keeps it.
                    self._unwatch(guest)
        elif not pending.done:
            # What it sends now waits until it has its answers; in the selector it would be ready all the time.
            self._unwatch(guest)
        if left or pending.done:
            self._finish(guest, answers, left=left)
        return 1

    def _finish(self, guest: Guest, answers: Answers, *, left: bool = False, draining: bool = False) -> None:
        """Make the answers that waited, and go on with what came behind them."""
        guest.answers = None
        self._hot.complete(answers, guest.sock, left=left, draining=draining)
        rest, guest.rest = bytes(guest.rest), bytearray()
        if answers.then == "wait":
            answers.then = "more" if rest else "idle"
        guest.state = "idle"
        self._set_deadline(guest, self._now + self._settings.keep_alive)
        if not guest.watched:
            self._watch_again(guest, answers)
        self._answered.append((guest, answers, rest))

    def _watch_again(self, guest: Guest, answers: Answers) -> None:
        try:
            self._watch(guest)
        except OSError:
            self._hot.reconcile(answers, 0)
            raise

    def _watch(self, guest: Guest) -> None:
        self._selector.register(guest.sock, _READ, guest)
        guest.watched = True

    def _unwatch(self, guest: Guest) -> None:
        if guest.watched:
            self._selector.unregister(guest.sock)
            guest.watched = False

    def _send(self, guest: Guest, answers: Answers) -> int:
        try:
            return guest.sock.send(answers.data)
        except BlockingIOError:
            return 0
        except OSError:
            self._hot.reconcile(answers, 0)
            raise

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
        fresh = answers.used > 0 or guest.state != answers.then
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
            case "head":
                patience = self._settings.head_timeout
            case _:
                patience = self._settings.keep_alive
        if fresh:
            self._set_deadline(guest, self._now + patience)
        guest.rest = bytearray(rest)
        guest.needed = answers.needed
        self._become(guest, answers.then)

    def _become(self, guest: Guest, state: State) -> None:
        # A guest with more requests to answer is ready without sending anything: when it can take the answers.
        if "more" in {state, guest.state}:
            events = _READ | selectors.EVENT_WRITE if state == "more" else _READ
            self._selector.modify(guest.sock, events, guest)
        guest.state = state

    def _handoff(self, guest: Guest, received: bytes) -> Handoff:
        """What a task must know, and what it must have, to take `guest` over in the middle of a request."""
        reserved, guest.reserved = guest.reserved, None
        return Handoff(
            received,
            reserved=reserved,
            head_deadline=guest.deadline if guest.state == "head" else None,
            body_deadline=guest.deadline if guest.state == "body" else None,
        )

    def _promote(self, guest: Guest, handoff: Handoff) -> None:
        """Give `guest` a task of its own, until it is between requests again."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(guest.sock))
        self._forget(guest)
        hand_back = partial(self.admit, guest.sock, guest.network)
        connection = Connection(self._site, stream, network=guest.network, handoff=handoff, hand_back=hand_back)
        self._connections.start_soon(connection.run)

    def _forget(self, guest: Guest) -> None:
        self._unwatch(guest)
        if guest.answers is not None:
            self._hot.drop(guest.answers)
            guest.answers = None
        guest.release_reservation()
        self._guests.discard(guest)
        guest.here = False

    def _close(self, guest: Guest) -> None:
        self._forget(guest)
        guest.sock.close()
        self._site.leave(guest.network)

    def _accept(self, nursery: trio.Nursery) -> int:
        """Accept the clients at the door, and return what it cost."""
        for accepted in range(ACCEPTS):
            try:
                sock, address = self._listening.accept()
            except BlockingIOError:
                return accepted
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    turned_away = self._reserve_descriptor.turn_away(self._listening)
                    self._site.note_no_resources(error, turned_away)
                    if turned_away is None:
                        self._selector.unregister(self._listening)
                        nursery.start_soon(self._reopen)
                    return 1 + accepted + (turned_away or 0)
                if error.errno not in CHANGED_THEIR_MIND:
                    raise
                continue
            network = peer_network(address)
            if not self._site.enter(network):
                sock.close()
                continue
            sock.setblocking(False)
            try:
                self.admit(sock, network)
            except OSError as error:  # the kernel watches no more sockets for us: fs.epoll.max_user_watches
                self._site.note_no_resources(error, 1)
                self._site.leave(network)
                sock.close()
        return ACCEPTS

    async def _reopen(self) -> None:
        """Accept again after a pause, once the kernel can watch the door."""
        while True:
            await trio.sleep(ACCEPT_PAUSE)
            try:
                self._selector.register(self._listening, _READ, None)
            except OSError as error:
                self._site.note_no_resources(error, None)
            else:
                return

    async def _watch_clock(self) -> None:
        """End what lasts too long. Looking at all guests now and then is cheaper than a timer for each request."""
        limits = self._settings
        grain = min(1.0, min(limits.keep_alive, limits.head_timeout, limits.body_timeout) / 10)
        while True:
            self._now = trio.current_time()
            for guest in [guest for guest in self._guests if guest.deadline <= self._now]:
                if guest.state == "commit":
                    guest.deadline = self._now + limits.keep_alive  # the disk is late, not the client
                elif guest.state == "body":
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
            if isinstance(key.data, Guest) and key.data.here:
                self._attend(key.data)
        self._hot.set_time(time.time(), trio.current_time())
        for guest in list(self._guests):
            answers = guest.answers
            if answers is not None and answers.pending is not None and answers.pending.patient:
                try:
                    self._finish(guest, answers, draining=True)
                except Exception as error:
                    self._disconnect(guest, error)
        self._send_answers()
        for guest in list(self._guests):
            answers = guest.answers
            if answers is not None:
                guest.answers = None
                self._promote(guest, Handoff(bytes(guest.rest), unsent=answers))
            elif guest.rest:
                self._promote(guest, self._handoff(guest, bytes(guest.rest)))
            else:
                self._close(guest)
        self._selector.close()
