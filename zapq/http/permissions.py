"""The role each endpoint needs, in one table. An endpoint that is not in it is refused to every client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zapq.access.grant import Role

Scope = Literal["default", "queue", "server", "listed"]


@dataclass(frozen=True, slots=True)
class Permission:
    """What it takes to be let in to one endpoint."""

    role: Role | None
    """None: nothing. A probe has no credentials, and what the documentation says is no secret."""
    scope: Scope = "server"
    """Which queue it must be good for: the default one, the one in the path, all, or those it then lists."""


_OPEN = Permission(None)
_PRODUCE, _CONSUME, _WATCH, _ADMINISTER = (
    Permission("producer", "queue"),
    Permission("consumer", "queue"),
    Permission("metrics", "queue"),
    Permission("admin", "queue"),
)

PERMISSIONS: dict[tuple[str, str], Permission] = {
    ("POST", "/enqueue"): Permission("producer", "default"),
    ("GET", "/dequeue"): Permission("consumer", "default"),
    ("POST", "/dequeue"): Permission("consumer", "default"),
    ("POST", "/clear"): Permission("admin", "default"),
    ("POST", "/persist"): Permission("admin"),
    ("POST", "/load"): Permission("admin"),
    ("GET", "/snapshots"): Permission("admin"),
    ("POST", "/drain"): Permission("admin"),
    ("GET", "/metrics"): Permission("metrics"),
    ("GET", "/health"): _OPEN,
    ("GET", "/livez"): _OPEN,
    ("GET", "/readyz"): _OPEN,
    ("GET", "/problems"): _OPEN,
    ("GET", "/problems/<problem>"): _OPEN,
    ("GET", "/queues"): Permission("metrics", "listed"),
    ("GET", "/queues/<name>"): _WATCH,
    ("PUT", "/queues/<name>"): _ADMINISTER,
    ("PATCH", "/queues/<name>"): _ADMINISTER,
    ("DELETE", "/queues/<name>"): _ADMINISTER,
    ("POST", "/queues/<name>/purge"): _ADMINISTER,
    ("POST", "/queues/<name>/pause"): _ADMINISTER,
    ("POST", "/queues/<name>/resume"): _ADMINISTER,
    ("POST", "/queues/<name>/redrive"): _ADMINISTER,
    ("POST", "/queues/<name>/messages"): _PRODUCE,
    ("POST", "/queues/<name>/messages/batch"): _PRODUCE,
    ("POST", "/queues/<name>/receive"): _CONSUME,
    ("POST", "/queues/<name>/receive/batch"): _CONSUME,
    ("DELETE", "/queues/<name>/receipts/<receipt>"): _CONSUME,
    ("POST", "/queues/<name>/receipts/<receipt>/release"): _CONSUME,
    ("POST", "/queues/<name>/receipts/<receipt>/extend"): _CONSUME,
    ("POST", "/queues/<name>/settle"): _CONSUME,
    ("GET", "/queues/<name>/messages"): _CONSUME,
    ("GET", "/queues/<name>/messages/<int:id>"): _CONSUME,
}
"""By method and path; HEAD is GET. OPTIONS, which only says what there is, takes nothing."""
