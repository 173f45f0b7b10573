"""A relay between a front end and a server, which can lose answers, or all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.engine.valkey.servers import Server
from zapq.limits import CHANNEL_BYTES


class Relay:
    """Forwards what both say. While `deaf`, an answer ends its connection instead: the server has acted."""

    def __init__(self, path: str, server: Server) -> None:
        self.address = path
        self.deaf = False
        self.cut = 0
        """Answers that were lost."""
        self.frozen = False
        """Whether nothing is forwarded to the server."""
        self.refusing = False
        """Whether new connections are closed at once."""
        self._server = server
        self._open: set[trio.CancelScope] = set()

    def hang_up(self) -> None:
        """Close all connections."""
        for scope in list(self._open):
            scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Forward until cancelled."""
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        with listener:
            await listener.bind(self.address)
            listener.listen(100)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    sock, _ = await listener.accept()
                    nursery.start_soon(self._serve, sock)

    async def _serve(self, ours: trio.socket.SocketType) -> None:
        address = self._server.address
        assert isinstance(address, str)
        with trio.CancelScope() as scope, ours, trio.socket.socket(trio.socket.AF_UNIX) as theirs:
            if self.refusing:
                return
            self._open.add(scope)
            try:
                await theirs.connect(address)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, ours, theirs, scope)
                    await self._answer(theirs, ours)
                    nursery.cancel_scope.cancel()
            except* (OSError, trio.BrokenResourceError):
                pass
            finally:
                self._open.discard(scope)

    async def _forward(
        self, ours: trio.socket.SocketType, theirs: trio.socket.SocketType, scope: trio.CancelScope
    ) -> None:
        while data := await ours.recv(CHANNEL_BYTES):
            while self.frozen:
                await trio.sleep(0.01)
            await trio.SocketStream(theirs).send_all(data)
        scope.cancel()

    async def _answer(self, theirs: trio.socket.SocketType, ours: trio.socket.SocketType) -> None:
        while data := await theirs.recv(CHANNEL_BYTES):
            if self.deaf:
                self.cut += 1
                return
            await trio.SocketStream(ours).send_all(data)


@asynccontextmanager
async def relaying(directory: Path, server: Server) -> AsyncGenerator[tuple[Relay, Server], None]:
    """Run a relay to `server` for the length of the block, and yield it with what stands for the server."""
    path = str(directory / "relay")
    relay = Relay(path, server)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield relay, Server(path, server.process)
        nursery.cancel_scope.cancel()
