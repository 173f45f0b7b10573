"""zapq over HTTP: `open_client` gives a `Client` for asyncio and Trio, `zapq.client.sync` one for threads.

One core makes the bytes of requests and reads those of answers (`calls.py`, `wire.py`, `answers.py`). One body
sends them, keeps connections and tries again (`talk.py`), over the sockets of asyncio, Trio or threads
(`on_asyncio.py`, `on_trio.py`, `threads.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zapq.client.client import Client as Client
    from zapq.client.client import open_client as open_client
    from zapq.client.consumer import Consumer as Consumer
    from zapq.client.consumer import HeldLease as HeldLease
    from zapq.client.lease import Lease as Lease
    from zapq.client.lease import Page as Page
    from zapq.client.lease import Redriven as Redriven
    from zapq.client.lease import Seen as Seen
    from zapq.client.lease import Stored as Stored
    from zapq.client.lease import StoredMany as StoredMany
    from zapq.client.producer import Producer as Producer

__all__ = [
    "Client",
    "Consumer",
    "HeldLease",
    "Lease",
    "Page",
    "Producer",
    "Redriven",
    "Seen",
    "Stored",
    "StoredMany",
    "open_client",
]

# Imported when they are first used (PEP 562): programs of threads need no event loop, those of asyncio no Trio.
_HOMES = {
    "Client": "zapq.client.client",
    "open_client": "zapq.client.client",
    "Consumer": "zapq.client.consumer",
    "HeldLease": "zapq.client.consumer",
    "Lease": "zapq.client.lease",
    "Page": "zapq.client.lease",
    "Redriven": "zapq.client.lease",
    "Seen": "zapq.client.lease",
    "Stored": "zapq.client.lease",
    "StoredMany": "zapq.client.lease",
    "Producer": "zapq.client.producer",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
