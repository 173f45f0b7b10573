"""zapq bench: measures a server from here."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote
from zapq.command.exit import EXIT_FAILED, EXIT_OK
from zapq.command.http import Failed
from zapq.command.options import Duration, Whole, json_option, print_json
from zapq.command.program import OnStop, check_extra, client_of, run_program
from zapq.command.table import table
from zapq.limits import BENCH_LEAST_SIZE, BUSY_CLIENT, MAX_BATCH, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from zapq.programs.bench import Load, Measured


@click.command(cls=Remote)
@click.option("--producers", type=Whole(1, 1000), default=8, show_default=True, help="Tasks that send.")
@click.option(
    "--consumers",
    type=Whole(0, 1000),
    default=8,
    show_default=True,
    help="Tasks that receive and acknowledge; with 0, messages are only sent.",
)
@click.option(
    "--seconds",
    type=Duration(0.1, 3600),
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="How long to send.",
)
@click.option(
    "--size",
    type=Whole(BENCH_LEAST_SIZE, MAX_MESSAGE_BYTES),
    default=128,
    show_default=True,
    help="Bytes of a message.",
)
@click.option(
    "--batch",
    type=Whole(1, MAX_BATCH),
    default=1,
    show_default=True,
    help="Messages in a request.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw how long requests and messages took, as SVG, PNG or PDF by the end of FILE's name.",
)
@json_option
def bench(
    url: SplitResult,
    producers: int,
    consumers: int,
    seconds: float,
    size: int,
    batch: int,
    picture: Path | None,
    as_json: bool,
) -> int:
    """Measure how many messages the server takes and gives, and how long each takes.

    Producers wait for consumers that are behind. This one process sends everything, to a queue that it makes, and
    removes at the end. It also prints how much CPU it needs itself: if it is as busy as it can be, the server can
    do more than is shown.
    """
    from zapq.programs.bench import Load, measure

    if picture is not None:
        check_extra("bench --plot", "plot", "matplotlib")
        from zapq.programs.plot import FORMATS, plot

        if picture.suffix not in FORMATS:
            raise click.UsageError(f"--plot writes {', '.join(FORMATS)}; give FILE a name that ends so.")
        if not picture.parent.is_dir():
            raise click.UsageError(f"--plot {picture}: there is no directory {picture.parent}. Make it first.")
    load = Load(producers, consumers, seconds, size, batch)
    queue = f"zapq-bench-{secrets.token_hex(4)}"
    measured: Measured | None = None

    async def main(on_stop: OnStop) -> None:
        nonlocal measured
        import trio

        from zapq.errors import QueueNotFound, ZapqError

        async with client_of(url) as client:
            with trio.CancelScope() as scope, ExitStack() as stack:
                on_stop(scope.cancel)
                note: Any = lambda passed: None  # noqa: E731 (there is nothing to show)
                if sys.stderr.isatty():
                    bar = stack.enter_context(click.progressbar(length=int(seconds * 10), file=sys.stderr))
                    note = lambda passed: bar.update(int(passed * 10) - bar.pos)  # noqa: E731 (it is one line)
                try:
                    measured = await measure(client, queue, load, note=note)
                finally:
                    with trio.move_on_after(5, shield=True):
                        try:
                            await client.delete(queue)
                        except QueueNotFound:
                            pass  # Nothing was sent, so it was not made.
                        except ZapqError as error:
                            print(f"The queue {queue} was not removed: {error.detail}", file=sys.stderr)

    code = run_program(main)
    if measured is None:
        return code or EXIT_FAILED
    if picture is not None:
        try:
            plot(measured, picture)
        except OSError as error:
            raise Failed(f"{picture} was not written: {error.strerror}.") from error
    if as_json:
        print_json(_facts(load, measured))
    else:
        print(_shown(measured, taking=consumers > 0))
    return EXIT_OK


def _facts(load: Load, measured: Measured) -> dict[str, object]:
    from zapq.programs.bench import PERCENTILES, percentiles

    names = [f"p{each:g}" if each < 100 else "max" for each in PERCENTILES]

    def milliseconds(values: Any) -> dict[str, float]:
        return {name: round(value * 1000, 3) for name, value in zip(names, percentiles(values), strict=True)}

    return {
        "producers": load.producers,
        "consumers": load.consumers,
        "size": load.size,
        "batch": load.batch,
        "sent": measured.sent,
        "taken": measured.taken,
        "sent_per_second": round(measured.sent / measured.seconds, 1),
        "taken_per_second": round(measured.taken / measured.drained, 1),
        "put_ms": milliseconds(measured.puts),
        "put_to_receive_ms": milliseconds(measured.ways),
        "client_cpu": round(measured.cpu / measured.drained, 3),
        "client_cpu_us_per_message": round(measured.cpu / max(measured.sent, 1) * 1e6, 1),
    }


def _shown(measured: Measured, *, taking: bool = True) -> str:
    from zapq.programs.bench import PERCENTILES, percentiles

    def row(name: str, number: int, seconds: float, values: Any) -> list[str]:
        times = [f"{each * 1000:.2f}" for each in percentiles(values)]
        return [name, f"{number}", f"{number / seconds:.0f}", *times]

    head = ["", "messages", "a second", *(f"p{each:g} ms" if each < 100 else "max ms" for each in PERCENTILES)]
    share = measured.cpu / measured.drained
    rows = [head, row("put", measured.sent, measured.seconds, measured.puts)]
    if taking:
        rows.append(row("put to receive", measured.taken, measured.drained, measured.ways))
    lines = [
        table(rows),
        "",
        f"This program: {share:.0%} of a core, {measured.cpu / max(measured.sent, 1) * 1e6:.0f} us a message.",
    ]
    if share > BUSY_CLIENT:
        lines.append("It was as busy as it can be, so the server may do more. Run several, or give a --batch.")
    return "\n".join(lines)
