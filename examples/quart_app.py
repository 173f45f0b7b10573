"""A queue inside a Quart-Trio app: requests are answered at once, and a worker of the same process does the work.

The queue is opened outside of the app, so that it outlives the app's shutdown: what was accepted is still done.

    python examples/quart_app.py 8000
"""

import sys
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request
from quart_trio import QuartTrio

import zapq


def make_app(service: zapq.QueueService) -> QuartTrio:
    """Return the app, in front of a service that runs."""
    app = QuartTrio(__name__)

    @app.post("/thumbnails")
    async def order() -> tuple[str, int]:
        picture = await request.body
        return f"{await service.queue('pictures').enqueue(picture)}\n", 202

    return app


async def work(service: zapq.QueueService, done: list[bytes]) -> None:
    """Work on pictures until cancelled. What raises, or is cancelled in the middle, is released."""
    while True:
        async with service.queue("pictures").lease() as picture:
            done.append(picture.body[::-1])


async def main(port: str) -> None:
    """Serve until it is stopped."""
    async with zapq.open_service(zapq.Settings(max_msgs=1000)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(work, service, [])
        await serve(make_app(service), Config.from_mapping(bind=[f"127.0.0.1:{port}"]))


if __name__ == "__main__":
    trio.run(partial(main, sys.argv[1]))
