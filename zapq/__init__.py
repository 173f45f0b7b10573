"""zapq: message queues behind plain HTTP, in memory or on the disk, and inside your Trio program.

`core/` holds the queues as values and imports nothing of the rest; `store/` keeps them on the disk; `service/`
runs them on Trio, and does what it is asked by values (`operations.py`, `queues.py`); `http/` says what each
endpoint asks of it and how the outcome is answered, in one table, and has the road through Quart; `server/` has
the sockets, the fast road that answers from the bytes, and Hypercorn for the other; `cli.py` is the command.
Dependencies point that way only. `access/` knows credentials and roles; `client/` is for programs elsewhere,
`command/` for people. Here are the public names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from zapq.version import __version__

if TYPE_CHECKING:
    from zapq.core.message import Draft as Draft
    from zapq.core.message import Lease as Lease
    from zapq.core.message import Message as Message
    from zapq.core.placed import Placed as Placed
    from zapq.core.queue_settings import QueueSettings as QueueSettings
    from zapq.core.stats import QueueStats as QueueStats
    from zapq.engine.open import open_queues as open_queues
    from zapq.engine.queues import EngineQueue as EngineQueue
    from zapq.engine.queues import Queues as Queues
    from zapq.errors import ZapqError as ZapqError
    from zapq.server import serve as serve
    from zapq.service.named_queue import NamedQueue as NamedQueue
    from zapq.service.open import open_service as open_service
    from zapq.service.operations import Offer as Offer
    from zapq.service.operations import Settlement as Settlement
    from zapq.service.operations import terms as terms
    from zapq.service.queue_state import QueueInfo as QueueInfo
    from zapq.service.service import QueueService as QueueService
    from zapq.service.service_stats import ServiceStats as ServiceStats
    from zapq.settings import Settings as Settings

__all__ = [
    "Draft",
    "EngineQueue",
    "Lease",
    "Message",
    "NamedQueue",
    "Offer",
    "Placed",
    "QueueInfo",
    "QueueService",
    "QueueSettings",
    "QueueStats",
    "Queues",
    "ServiceStats",
    "Settings",
    "Settlement",
    "ZapqError",
    "__version__",
    "open_queues",
    "open_service",
    "serve",
    "terms",
]

# Imported when they are first used (PEP 562): Trio and the service take a sixth of a second, which a health check
# from the command line need not spend.
_HOMES = {
    "Draft": "zapq.core.message",
    "Lease": "zapq.core.message",
    "Message": "zapq.core.message",
    "Placed": "zapq.core.placed",
    "QueueSettings": "zapq.core.queue_settings",
    "QueueStats": "zapq.core.stats",
    "EngineQueue": "zapq.engine.queues",
    "Queues": "zapq.engine.queues",
    "open_queues": "zapq.engine.open",
    "ZapqError": "zapq.errors",
    "serve": "zapq.server",
    "NamedQueue": "zapq.service.named_queue",
    "Offer": "zapq.service.operations",
    "QueueInfo": "zapq.service.queue_state",
    "Settlement": "zapq.service.operations",
    "terms": "zapq.service.operations",
    "QueueService": "zapq.service.service",
    "ServiceStats": "zapq.service.service_stats",
    "open_service": "zapq.service.open",
    "Settings": "zapq.settings",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zapq' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
