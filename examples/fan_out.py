"""One event for several consumers: a queue for each, and a copy of the event in each queue.

Each service takes its own copy at its own pace, and one that fails holds up no other. The event's id is the
Idempotency-Key in every queue: a publisher that was interrupted publishes again, and no queue has the event twice.

    python examples/fan_out.py http://127.0.0.1:8080
"""

import sys

from zapq.client.sync import Client, open_client

SUBSCRIBERS = {"order-placed": ["billing", "shipping", "statistics"]}


def publish(client: Client, kind: str, id: str, body: bytes) -> None:
    """Put an event into the queue of each subscriber. If this raises, call it again."""
    for queue in SUBSCRIBERS[kind]:
        client.put(queue, body, headers={"kind": kind}, key=f"{kind}-{id}")


if __name__ == "__main__":
    with open_client(sys.argv[1]) as here:
        publish(here, "order-placed", "4711", b'{"order": 4711}')
