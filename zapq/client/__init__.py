"""zapq over HTTP for Trio programs: `open_client` gives a `Client`; its verbs are those of the queues.

Needs the extra `client`: `pip install '.[client]'` in a checkout of zapq.
"""

try:
    import httpx2 as _httpx2  # noqa: F401 - only to see that it is there
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ModuleNotFoundError(
        "zapq.client needs httpx2, which is not installed. Run pip install '.[client]' in a checkout of zapq,"
        " or pip install 'httpx2>=2'.",
        name="httpx2",
    ) from None

from zapq.client.client import Client as Client
from zapq.client.client import open_client as open_client
from zapq.client.consumer import Consumer as Consumer
from zapq.client.consumer import HeldLease as HeldLease
from zapq.client.lease import Lease as Lease
