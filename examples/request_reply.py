"""Ask a worker and wait for its answer: one queue for requests, and one for the answers to each program that asks.

A request says where its answer goes (`reply-to`) and which one it is (`request`). An answer that its caller no
longer waits for is gone after its ttl.

    python examples/request_reply.py http://127.0.0.1:8080
"""

import sys
from uuid import uuid4

import trio

from zapq.client import Client, HeldLease, open_client


async def work(client: Client) -> None:
    """Answer requests until cancelled. The answer is stored before the request is acknowledged."""

    async def answer(lease: HeldLease) -> None:
        replies, request = lease.headers["reply-to"], lease.headers["request"]
        await client.put(replies, lease.body.upper(), headers={"request": request}, ttl=60, key=f"reply-{request}")

    await client.consume_with("requests", answer)


async def ask(client: Client, body: bytes, within: float = 10.0) -> bytes:
    """Send a request and return its answer; `trio.TooSlowError` if there is none in that time."""
    request = uuid4().hex
    replies = f"replies-{request}"
    with trio.fail_after(within):
        await client.put("requests", body, headers={"reply-to": replies, "request": request}, ttl=within)
        while (lease := await client.receive(replies, wait=within)) is None:
            pass
        await client.ack(lease)
    await client.delete(replies)
    return lease.body


async def main(url: str) -> None:
    """Be both, for the length of one question."""
    async with open_client(url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(work, client)
        print((await ask(client, b"hello")).decode())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
