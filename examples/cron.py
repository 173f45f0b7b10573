"""A cron that several machines run, so that no tick is missed, and whose job is there once for each tick.

The tick is the Idempotency-Key: the first machine stores the job, and the others are told that it is there. A
machine that was late or away changes nothing, as long as another one was on time.

    python examples/cron.py http://127.0.0.1:8080
"""

import sys
import time

from zapq.client.sync import Client, open_client

EVERY = 60.0


def tick(client: Client, now: float) -> bool:
    """Ask for the report of the minute that `now` is in, and return whether it was this machine that did."""
    number = int(now // EVERY)
    return not client.put("reports", b"%d" % number, key=f"report-{number}").replayed


if __name__ == "__main__":
    with open_client(sys.argv[1]) as here:
        while True:
            tick(here, time.time())
            time.sleep(EVERY - time.time() % EVERY)
