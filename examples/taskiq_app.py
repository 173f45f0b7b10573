"""taskiq with zapq as its broker.

A task that fails is sent again, and one whose worker was killed is given to another.

zapq --durable
taskiq worker taskiq_app:broker    # in examples/
python taskiq_app.py
"""

import asyncio
import os

from taskiq import SmartRetryMiddleware

from zapq.contrib.taskiq import ZapqBroker

broker = ZapqBroker(os.environ.get("ZAPQ_URL", "http://127.0.0.1:8080"), queue="pictures")
broker.add_middlewares(SmartRetryMiddleware(default_retry_count=5, default_delay=10, use_delay_exponent=True))


@broker.task(retry_on_error=True)
async def resize(picture: str) -> None:
    """Do the work."""
    print(f"resized {picture}", flush=True)


async def main() -> None:
    """Send tasks; no picture is waited for twice."""
    await broker.startup()
    for number in range(3):
        await resize.kicker().with_labels(unique=f"picture-{number}").kiq(f"picture {number}")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
