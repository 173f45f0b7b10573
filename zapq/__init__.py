"""zapq: message queues in RAM behind plain HTTP, and inside your Trio program.

`core/` is the queues as values and imports nothing of the rest; `store/` is what outlives the process;
`service/` runs the queue on Trio; `http/` speaks for it with Quart; `server/` carries that over sockets with
Hypercorn; `cli.py` is the command. Dependencies point that way only. Here are the public names.
"""

from zapq.core.message import Draft as Draft
from zapq.core.message import Lease as Lease
from zapq.core.message import Message as Message
from zapq.core.queue import QueueSettings as QueueSettings
from zapq.core.queue import QueueStats as QueueStats
from zapq.errors import ZapqError as ZapqError
from zapq.server import serve as serve
from zapq.service.queue import NamedQueue as NamedQueue
from zapq.service.queue import QueueInfo as QueueInfo
from zapq.service.queue import Settlement as Settlement
from zapq.service.service import QueueService as QueueService
from zapq.service.service import ServiceStats as ServiceStats
from zapq.service.service import open_service as open_service
from zapq.settings import Settings as Settings

__version__ = "0.1.0"
