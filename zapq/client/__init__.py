"""zapq over HTTP for Trio programs: `open_client` gives a `Client`; its verbs are those of the queues.

Needs the extra `client`: `pip install zapq[client]`.
"""

from zapq.client.client import Client as Client
from zapq.client.client import open_client as open_client
from zapq.client.consumer import Consumer as Consumer
from zapq.client.consumer import HeldLease as HeldLease
from zapq.client.lease import Lease as Lease
