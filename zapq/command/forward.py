"""zapq forward: delivers the messages of a queue to a URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote
from zapq.command.http import Failed
from zapq.command.options import Duration, Whole, queue_argument
from zapq.command.program import OnStop, check_extra, client_of, run_program
from zapq.limits import MAX_VISIBILITY, WEBHOOK_SECRET_VARIABLE


@click.command(cls=Remote)
@queue_argument
@click.argument("target", metavar="TARGET")
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help=f"File with the secrets that sign, whsec_ and base64, one a line. Or one in {WEBHOOK_SECRET_VARIABLE}.",
)
@click.option(
    "--concurrency",
    type=Whole(1, 1000),
    default=8,
    show_default=True,
    help="Messages under way at once.",
)
@click.option(
    "--timeout",
    type=Duration(0.1, 3600),
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long the receiver may take for one message.",
)
@click.option(
    "--visibility",
    type=Duration(1, MAX_VISIBILITY),
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="If this program is killed, its messages come back after this time at the latest.",
)
def forward(
    url: SplitResult,
    queue: str,
    target: str,
    secret_file: str | None,
    concurrency: int,
    timeout: float,
    visibility: float,
) -> int:
    """POST each message of QUEUE to the URL TARGET, as a signed webhook.

    A message is acknowledged once TARGET has answered with 2xx; after any other answer, or none, it is back in the
    queue and is delivered again, with the queue's back-off, or after the Retry-After of the answer. After 410 the
    program ends. The first signal lets deliveries under way end, the second does not.
    """
    check_extra("forward", "client", "anyio")
    from zapq.programs.receiver import parse_target

    try:
        receiver = parse_target(target)
    except ValueError as error:
        raise click.UsageError(f"TARGET {target}: {error}.") from None
    secrets = _secrets(secret_file)

    async def main(on_stop: OnStop) -> None:
        from zapq.programs.forward import Forwarder, ReceiverGone

        async with client_of(url) as client:
            forwarder = Forwarder(
                client,
                queue,
                receiver,
                secrets=secrets,
                concurrency=concurrency,
                timeout=timeout,
                visibility=visibility,
            )
            on_stop(forwarder.stop)
            try:
                await forwarder.run()
            except ReceiverGone:
                raise Failed(
                    f"{receiver.host} answered 410: it wants no more messages. The message stays in {queue}."
                ) from None

    return run_program(main)


def _secrets(file: str | None) -> list[bytes]:
    from zapq.programs.webhook import parse_secrets

    given = os.environ.get(WEBHOOK_SECRET_VARIABLE, "")
    if file is None and not given:
        return []
    place = WEBHOOK_SECRET_VARIABLE if file is None else file
    try:
        return parse_secrets(given if file is None else Path(file).read_text("ascii"))
    except UnicodeDecodeError:
        raise click.UsageError(f"{place}: a secret must begin with whsec_.") from None
    except ValueError as error:
        raise click.UsageError(f"{place}: {error}.") from None
