"""One directory, many crashes: load, kill, restart, audit."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from tests.durable.audit import Ledger
from tests.durable.load import DEEP, LEASED, LOST, SIDE, TAKEN, Clients, Crowd, look
from tests.durable.process import Link, Server


@dataclass
class Crashing(ABC):
    """A server on `directory` that dies once a round; what its clients do and when it dies follows from `seed`."""

    directory: Path
    seed: str
    rounds: int = 0

    def __post_init__(self) -> None:
        self._server = self._start()
        link = Link(self._server.port)
        self._make(link)
        link.close()

    @property
    @abstractmethod
    def answered(self) -> int:
        """Requests that were answered."""

    @property
    @abstractmethod
    def messages(self) -> int:
        """Messages that were sent."""

    @abstractmethod
    def _make(self, link: Link) -> None:
        """Make the queues."""

    @abstractmethod
    def _load(self, port: int, seed: str) -> Crowd:
        """Return the clients of a round."""

    @abstractmethod
    def _audit(self, port: int, seed: str) -> None:
        """Raise AssertionError for anything that is wrong with what there is after a restart."""

    def crash(self) -> None:
        """Load the server, kill it, start it again, and raise AssertionError for anything that is wrong then."""
        self.rounds += 1
        seed = f"{self.seed}-{self.rounds}"
        random = Random(seed)
        load = self._load(self._server.port, seed)
        enough = self.answered + random.randint(1, 400)
        load.start()
        link = Link(self._server.port)
        try:
            # Not after a time but after so much work, which depends less on the machine.
            while self.answered < enough and not load.failures:
                link.ask("GET", "/health")
        except LOST:
            raise AssertionError(f"the server died by itself: {self._server.log[-5:]}") from None
        self._server.kill()
        link.close()
        load.end()
        self._server = self._start()
        assert not load.failures, f"seed {seed}: {load.failures}"
        self._audit(self._server.port, seed)

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


@dataclass
class Crashes(Crashing):
    """Its clients use all that there is but SQS."""

    ledger: Ledger = field(default_factory=Ledger)
    _settings: list[dict[str, float]] = field(default_factory=lambda: [{"visibility": 30.0}])

    @property
    def answered(self) -> int:
        return self.ledger.answered

    @property
    def messages(self) -> int:
        return len(self.ledger.sent)

    def _make(self, link: Link) -> None:
        for name in (LEASED, TAKEN, SIDE):
            settings = json.dumps({"max_messages": DEEP}).encode()
            assert link.ask("PUT", f"/queues/{name}", settings).status in {200, 201}

    def _load(self, port: int, seed: str) -> Clients:
        return Clients(port, seed, ledger=self.ledger, settings=self._settings)

    def _audit(self, port: int, seed: str) -> None:
        seen = look(port)
        wrong = self.ledger.audit(seen.ready, seen.delayed)
        assert not wrong, f"seed {seed}: {len(wrong)} wrong, such as {wrong[:5]}"
        visibility = seen.settings["visibility"]
        known = [each["visibility"] for each in self._settings]
        assert visibility in known, f"seed {seed}: {visibility} and not one of {known}"
        self._settings[:] = [{"visibility": visibility}]
        self.ledger.settle([*seen.ready, *seen.delayed])
