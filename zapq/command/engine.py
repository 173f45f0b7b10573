"""The command that looks at the servers of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zapq.command.base import Local
from zapq.command.exit import EXIT_FAILED, EXIT_OK, EXIT_USAGE, fail
from zapq.command.misplaced import Family
from zapq.command.options import json_option, print_json
from zapq.command.table import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from zapq.engine.valkey.check import Report
    from zapq.settings import Settings

COLUMNS = ("master", "server", "fit")


@click.group(cls=Family, no_args_is_help=False)
def engine() -> None:
    """Look at the Valkey or Redis servers that front ends with --engine have their queues in."""


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the URL of an engine, and the options of `serve` about it."""
    for name, metavar in (
        ("--engine-ca", "FILE"),
        ("--engine-password-file", "FILE"),
        ("--engine-durability", "auto|memory|replicated|committed"),
    ):
        default = "auto" if name == "--engine-durability" else ""
        variable = f"ZAPQ_{name[2:].replace('-', '_').upper()}"
        about = f"As the option of serve; {variable} may hold it."
        command = click.option(name, default=default, metavar=metavar, envvar=variable, help=about)(command)
    return click.argument("url", metavar="URL", envvar="ZAPQ_ENGINE")(command)


@engine.command(cls=Local)
@_with_options
@json_option
def check(url: str, engine_durability: str, engine_password_file: str, engine_ca: str, as_json: bool) -> int:
    """Check whether zapq can use the servers at URL, such as valkey://127.0.0.1:6379; ZAPQ_ENGINE may hold it.

    If it cannot, the exit code is 1. The library of functions is loaded where it is missing. No queue is changed.
    """

    def look() -> int:
        from zapq.engine.valkey.check import check as look_at_servers

        report = look_at_servers(_settings(url, engine_durability, engine_password_file, engine_ca))
        if as_json:
            print_json(_as_json(report))
        else:
            print(_text(report))
        return EXIT_OK if report.fit else EXIT_FAILED

    return _refused(look)


@engine.command(cls=Local)
@_with_options
@click.option("--mend", is_flag=True, help="Put right what is found.")
@json_option
def repair(
    url: str, engine_durability: str, engine_password_file: str, engine_ca: str, mend: bool, as_json: bool
) -> int:
    """Compare what each queue at URL says of itself with what it holds, and print those that are not in order.

    Front ends may go on meanwhile. Without --mend nothing is changed, and the exit code is 1 if a queue is not in
    order.
    """

    def look() -> int:
        from zapq.engine.valkey.check import repair as look_at_queues
        from zapq.errors import ZapqError

        settings = _settings(url, engine_durability, engine_password_file, engine_ca)
        found = look_at_queues(settings, mend=mend)
        left = found and (not mend or any(isinstance(what, ZapqError) for _, what in found))
        if as_json:
            print_json([
                {"queue": queue, "error": what.detail}
                if isinstance(what, ZapqError)
                else {"queue": queue, "wrong": what._asdict(), "mended": mend}
                for queue, what in found
            ])
            return EXIT_FAILED if left else EXIT_OK
        for queue, what in found:
            if isinstance(what, ZapqError):
                print(f"{queue}: {what.detail}")
                continue
            wrong = [f"{name} {value}" for name, value in what._asdict().items() if value]
            print(f"{queue}: {', '.join(wrong)}{'; mended' if mend else ''}")
        some = "1 queue is" if len(found) == 1 else f"{len(found)} queues are"
        print(f"{some} not in order" if found else "ok")
        return EXIT_FAILED if left else EXIT_OK

    return _refused(look)


def _settings(url: str, engine_durability: str, engine_password_file: str, engine_ca: str) -> Settings:
    # Only here, as all below: the other commands need not wait for it.
    from zapq.settings import Settings

    return Settings(
        engine=url,
        engine_durability=engine_durability,
        engine_password_file=engine_password_file,
        engine_ca=engine_ca,
    )


def _refused(look: Callable[[], int]) -> int:
    """Return the exit code of `look`; what refuses it is one line."""
    from zapq.errors import InvalidSetting, ZapqError

    try:
        return look()
    except InvalidSetting as refusal:
        return fail(refusal.detail, EXIT_USAGE)
    except ZapqError as refusal:
        return fail(refusal.detail, EXIT_FAILED)


def _as_json(report: Report) -> dict[str, object]:
    servers = [
        {
            "server": str(each.server),
            "version": each.version,
            "problems": list(each.problems),
            "warnings": list(each.warnings),
        }
        for each in report.findings
    ]
    return {
        "fit": report.fit,
        "clustered": report.clustered,
        "replicas": report.replicas,
        "durability": report.durability,
        "servers": servers,
    }


def _text(report: Report) -> str:
    kind = "a cluster" if report.clustered else "no cluster"
    masters = f"{len(report.findings)} {'master' if len(report.findings) == 1 else 'masters'}"
    rows = [[str(each.server), each.version, "no" if each.problems else "yes"] for each in report.findings]
    return "\n".join([
        f"{kind}, {masters}, replicas of the master that has the fewest: {report.replicas}",
        f"what a change reaches before it is answered: {report.durability}",
        table([list(COLUMNS), *rows]),
        *(f"{each.server}: {problem}" for each in report.findings for problem in each.problems),
        *(f"warning: {each.server}: {warning}" for each in report.findings for warning in each.warnings),
        "ok" if report.fit else "zapq cannot use it as it is",
    ])
