"""The listening socket in the lobby's selector: it lets clients in, and is closed for a moment at times."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable

import trio

from zapq.limits import ACCEPT_PAUSE, ACCEPTS, DOOR_PAUSE
from zapq.server.listeners import ListeningSocket
from zapq.server.site import NoResources, Site
from zapq.server.tls import Wire


class Door:
    """Accepts clients, so many in a step."""

    def __init__(
        self,
        listening: ListeningSocket,
        site: Site,
        selector: selectors.BaseSelector,
        admit: Callable[[Wire, str], object],
        *,
        shared: bool,
    ) -> None:
        """`admit` takes in a client. If it is `shared`, other processes accept from the same socket."""
        self._listening = listening
        self._site = site
        self._selector = selector
        self._admit = admit
        self._shared = shared
        self._accepts = 1 if shared else ACCEPTS
        self._has_waited = False
        """Whether the clients at the door were left to others for a moment."""

    def open(self) -> None:
        """Have the selector tell when clients are there. Raises `OSError` if the kernel watches no more."""
        self._selector.register(self._listening.sock, selectors.EVENT_READ, self)

    def accept(self, nursery: trio.Nursery) -> int:
        """Accept the clients that are there, and return what it cost; no checkpoint."""
        if self._shared:
            # The other workers were woken as well. Where they share a core with this one, they would else run only
            # when it has accepted all clients that came at once.
            os.sched_yield()
            if self._leaves_clients_to_others():
                self._close_for(DOOR_PAUSE, nursery)
                return 1
        for accepted in range(self._accepts):
            try:
                entered = self._site.accept(self._listening)
            except BlockingIOError:
                return accepted
            except NoResources as shortage:
                if shortage.turned_away is None:
                    self._close_for(ACCEPT_PAUSE, nursery)
                return 1 + accepted + (shortage.turned_away or 0)
            if entered is None:
                continue
            sock, network = entered
            try:
                self._admit(self._listening.guard(sock), network)
            except OSError as error:  # the kernel watches no more sockets for us: fs.epoll.max_user_watches
                self._site.note_no_resources(error, 1)
                self._site.leave(network)
                sock.close()
        return self._accepts

    def _leaves_clients_to_others(self) -> bool:
        """Whether workers that have fewer connections are to accept the clients that are there, once."""
        balance = self._site.balance
        self._has_waited = balance is not None and not self._has_waited and balance.is_ahead()
        return self._has_waited

    def _close_for(self, seconds: float, nursery: trio.Nursery) -> None:
        self._selector.unregister(self._listening.sock)
        nursery.start_soon(self._reopen, seconds)

    async def _reopen(self, pause: float) -> None:
        """Accept again after a pause, once the kernel can watch the socket."""
        while True:
            await trio.sleep(pause)
            try:
                self.open()
            except OSError as error:
                self._site.note_no_resources(error, None)
                pause = ACCEPT_PAUSE
            else:
                return
