"""Celery with zapq as its broker, over SQS: no Redis, no RabbitMQ, and no account at Amazon.

Tasks are acknowledged when they are done (`acks_late`): those of a worker that was killed are done by another one.

    zapq --addr :9324 --durable
    BROKER=sqs://any:any@localhost:9324// celery -A celery_app worker    # in examples/
    BROKER=sqs://any:any@localhost:9324// python celery_app.py
"""

import os

from celery import Celery

app = Celery("celery_app", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {
    "region": "us-east-1",
    "is_secure": False,
    "wait_time_seconds": 20,
    # A task that takes longer than this is given to a second worker.
    "visibility_timeout": 60,
}
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = True


@app.task(name="resize")  # type: ignore[untyped-decorator]  # Celery has no types
def resize(picture: str) -> None:
    """Do the work."""
    print(f"resized {picture}", flush=True)


if __name__ == "__main__":
    for number in range(3):
        resize.delay(f"picture {number}")
