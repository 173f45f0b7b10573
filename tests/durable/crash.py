"""One directory, many crashes: load, kill, restart, audit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from tests.durable.audit import Ledger
from tests.durable.load import DEEP, LEASED, LOST, SIDE, TAKEN, Clients, look
from tests.durable.process import Link, Server


@dataclass
class Crashes:
    """A server on `directory` that dies once a round; what its clients do and when it dies follows from `seed`."""

    directory: Path
    seed: str
    ledger: Ledger = field(default_factory=Ledger)
    rounds: int = 0
    _settings: list[dict[str, float]] = field(default_factory=lambda: [{"visibility": 30.0}])

    def __post_init__(self) -> None:
        self._server = self._start()
        link = Link(self._server.port)
        for name in (LEASED, TAKEN, SIDE):
            settings = json.dumps({"max_messages": DEEP}).encode()
            assert link.ask("PUT", f"/queues/{name}", settings).status in {200, 201}
        link.close()

    def crash(self) -> None:
        """Load the server, kill it, start it again, and raise AssertionError for anything that is wrong then."""
        self.rounds += 1
        seed = f"{self.seed}-{self.rounds}"
        random = Random(seed)
        clients = Clients(self._server.port, self.ledger, seed, self._settings)
        enough = self.ledger.answered + random.randint(1, 400)
        clients.start()
        link = Link(self._server.port)
        try:
            # Not after a time but after so much work, which depends less on the machine.
            while self.ledger.answered < enough and not clients.failures:
                link.ask("GET", "/health")
        except LOST:
            raise AssertionError(f"the server died by itself: {self._server.log[-5:]}") from None
        self._server.kill()
        link.close()
        clients.end()
        self._server = self._start()
        assert not clients.failures, f"seed {seed}: {clients.failures}"
        seen = look(self._server.port)
        wrong = self.ledger.audit(seen.ready, seen.delayed)
        assert not wrong, f"seed {seed}: {len(wrong)} wrong, such as {wrong[:5]}"
        visibility = seen.settings["visibility"]
        known = [each["visibility"] for each in self._settings]
        assert visibility in known, f"seed {seed}: {visibility} and not one of {known}"
        self._settings[:] = [{"visibility": visibility}]
        self.ledger.settle([*seen.ready, *seen.delayed])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()

    def stop(self) -> int:
        """End the server in order, and return its exit code."""
        return self._server.stop()

    def _start(self) -> Server:
        server = Server(self.directory)
        assert server.start(), f"it does not start: {server.log[-5:]}"
        return server
