"""What may be configured, each setting in one place: frozen, checked once, complete.

`zapq/sources.py` finds the values people have given. Limits that cannot be configured are in `zapq/limits.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

from zapq.addresses import Address, parse_address, parse_engine, parse_hosts, without_password
from zapq.core.queue_settings import QueueSettings
from zapq.declared import check_queues, parse_names
from zapq.errors import InvalidSetting
from zapq.limits import (
    KIB,
    MAX_DEDUPLICATION_IDS,
    MAX_MESSAGE_BYTES,
    MAX_WORKERS,
    MIB,
    MIN_SNAPSHOT_EVERY,
    MIN_TOKEN,
    SNAPSHOT_NAME,
    TOKEN_VARIABLE,
)
from zapq.quantities import parse_duration, parse_size

Kind = Literal[
    "text",
    "address",
    "engine",
    "hosts",
    "url",
    "account",
    "names",
    "size",
    "whole",
    "cores",
    "seconds",
    "choice",
    "switch",
    "share",
    "file",
]


@dataclass(frozen=True, slots=True)
class Option:
    """How people write one setting: flag, environment variable, meaning, and what is allowed."""

    name: str
    env: str
    kind: Kind
    help: str
    default: Any
    low: float
    high: float
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The option's spelling on the command line; what is on by default can be switched off."""
        return ("--no-" if self.default is True else "--") + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables it can have: the original's name, and ZAPQ_ with its own."""
        return tuple(dict.fromkeys((self.env, f"ZAPQ_{self.name.upper()}")))

    @property
    def default_text(self) -> str:
        """The default as people would write it; empty where there is none."""
        match self.kind:
            case "size":
                whole = self.default % MIB == 0
                return f"{self.default // MIB}M" if whole else f"{self.default // KIB}K"
            case "seconds":
                return f"{self.default:g}"
            case "share":
                return f"{self.default:g}" if self.default else "off"
            case "switch":
                return "on" if self.default else "off"
            case _:
                return str(self.default)

    @property
    def _range(self) -> str:
        unit = " seconds" if self.kind == "seconds" else ""
        return f"{self.low:,} to {self.high:,}{unit}".replace(",", " ")

    def parse(self, text: str) -> str | int | float | bool:
        """Return the value `text` means; ValueError says what to write instead."""
        match self.kind:
            case "size":
                return parse_size(text)
            case "whole":
                if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
                    raise ValueError(f"give a whole number, {self._range}")
                return int(text)
            case "cores" if text == "auto":
                return _cores()
            case "cores":
                if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
                    raise ValueError(f"give auto, or a whole number, {self._range}")
                return int(text)
            case "seconds":
                return parse_duration(text)
            case "share":
                return _parse_share(text)
            case "switch":
                if text.lower() not in _SWITCH:
                    raise ValueError("give true or false")
                return _SWITCH[text.lower()]
            case _:
                return text

    def public(self, value: Any) -> Any:
        """Return `value` as everybody may see it: without the password of an engine."""
        return without_password(value) if self.kind == "engine" and isinstance(value, str) else value

    def shown(self, value: Any) -> str:
        """Return `value` as a message may show it."""
        return repr(self.public(value))

    def check(self, value: Any) -> None:
        """Raise ValueError unless `value` is one this setting allows."""
        if self.kind in {"size", "whole", "cores", "seconds", "share"}:
            allowed = (int, float) if self.kind in {"seconds", "share"} else int
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError("give a number")
            if not self.low <= value <= self.high:
                raise ValueError(f"give {self._range}")
        elif self.kind == "switch":
            if not isinstance(value, bool):
                raise ValueError("give true or false")
        elif not isinstance(value, str):
            raise ValueError("give text")
        elif self.kind == "choice" and value not in self.choices:
            raise ValueError(f"give one of {', '.join(self.choices)}")
        elif "\0" in value:
            raise ValueError("give text without a NUL byte")
        elif self.kind == "address":
            parse_address(value)
        elif self.kind == "engine":
            parse_engine(value)
        elif self.kind == "hosts":
            parse_hosts(value)
        elif self.kind == "names":
            parse_names(value)
        elif self.kind == "url" and not re.fullmatch(r"(https?://[\x21-\x7e]{1,200})?", value, re.ASCII):
            raise ValueError("give a URL such as https://queue.example.com")
        elif self.kind == "account" and not re.fullmatch("[0-9]{12}", value, re.ASCII):
            raise ValueError("give 12 digits")
        elif self.kind == "file" and value and not is_snapshot_name(value):
            raise ValueError("give a bare name that ends in .msgpack or .json, such as queues.msgpack")


def _cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_SWITCH = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _parse_share(text: str) -> float:
    """Return the share that is meant by `0.01`, or by `on` and `off`; ValueError otherwise."""
    if text.lower() in _SWITCH:
        return float(_SWITCH[text.lower()])
    if not re.fullmatch(r"[01](\.[0-9]{1,9})?", text, re.ASCII):
        raise ValueError("give on, off, or a share of the requests such as 0.01")
    return float(text)


def check_token(text: str) -> str:
    """Return `text` if an operator may choose it as a token; ValueError otherwise, which does not show it."""
    if len(text) < MIN_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError(
            f"give at least {MIN_TOKEN} visible ASCII characters; `zapq token new` makes such a token"
        )
    return text


def is_snapshot_name(text: str) -> bool:
    """Whether a snapshot can be called this: a bare name of at most 128 characters, `*.json` or `*.msgpack`."""
    return re.fullmatch(SNAPSHOT_NAME, text, re.ASCII) is not None and text.endswith((".json", ".msgpack"))


def _setting(
    default: Any,
    env: str,
    kind: Kind,
    help: str,
    *,
    low: float = 0,
    high: float = 0,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """Return the field; one that is `secret` is not shown with the settings."""
    about = {"env": env, "kind": kind, "help": help, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=about, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything zapq can be told, checked when made: `InvalidSetting` says what was wrong and what to write."""

    addr: str = _setting(
        ":8080",
        "ZAPQ_ADDR",
        "address",
        "Address to listen on: :8080, host:port, [::1]:port, unix:/path or fd://3.",
    )
    allowed_host: str = _setting(
        "",
        "ZAPQ_ALLOWED_HOST",
        "hosts",
        "More host names that clients may call the server by, such as queue.example.com,*.example.org (*: any).",
    )
    tls_cert: str = _setting(
        "",
        "ZAPQ_TLS_CERT",
        "text",
        "File with the certificate chain (PEM). Turns on TLS, version 1.2 or newer; needs --tls-key.",
    )
    tls_key: str = _setting("", "ZAPQ_TLS_KEY", "text", "File with the private key of the certificate (PEM).")
    tls_client_ca: str = _setting(
        "",
        "ZAPQ_TLS_CLIENT_CA",
        "text",
        "File with CA certificates (PEM). Only clients with a certificate from them are served; needs --tls-cert.",
    )
    token_file: str = _setting(
        "",
        "ZAPQ_TOKEN_FILE",
        "text",
        "File that says what each client may do, one per line: name:credential:roles[:queues[:expires]].",
    )
    token: str = field(default="", repr=False)
    """A token that may do everything, beside those in the file. From the environment only (ZAPQ_TOKEN): what is on
    a command line every user of the machine can read."""
    http2: bool = _setting(False, "ZAPQ_HTTP2", "switch", "Offer HTTP/2 as well as HTTP/1.1; needs TLS.")
    max_bytes: int = _setting(
        256 * MIB, "QUEUE_MAX_BYTES", "size", "Most bytes of messages to hold, over all queues.", low=1, high=2**50
    )
    max_msgs: int = _setting(
        50_000, "QUEUE_MAX_MSGS", "whole", "Most messages to hold, over all queues.", low=1, high=10**12
    )
    max_message_bytes: int = _setting(
        128 * KIB,
        "ZAPQ_MAX_MESSAGE_BYTES",
        "size",
        "Largest message to accept, in bytes.",
        low=1,
        high=MAX_MESSAGE_BYTES,
    )
    data_dir: str = _setting(
        ".", "ZAPQ_DATA_DIR", "text", "Directory for snapshots and durable queues, created if it does not exist."
    )
    durable: bool = _setting(
        False,
        "ZAPQ_DURABLE",
        "switch",
        "Keep the queues on the disk, in --data-dir. A change is answered only once it is written.",
    )
    snapshot_every: float = _setting(
        0.0,
        "ZAPQ_SNAPSHOT_EVERY",
        "seconds",
        "How often to save a snapshot of all queues if anything changed, such as 5m (0: never).",
        low=0,
        high=86_400,
    )
    snapshot_keep: int = _setting(
        12, "ZAPQ_SNAPSHOT_KEEP", "whole", "How many snapshots of --snapshot-every to keep.", low=1, high=100_000
    )
    snapshot_on_exit: str = _setting(
        "",
        "ZAPQ_SNAPSHOT_ON_EXIT",
        "file",
        "Save a snapshot to this file at a graceful shutdown (.msgpack: all queues, .json: the default queue).",
    )
    load_on_start: str = _setting(
        "",
        "ZAPQ_LOAD_ON_START",
        "file",
        "Load the newest of this snapshot and the automatic ones at the start. If there are none, start empty.",
    )
    sqs: bool = _setting(True, "ZAPQ_SQS", "switch", "Do not speak the protocol of Amazon's SQS.")
    sqs_url: str = _setting(
        "",
        "ZAPQ_SQS_URL",
        "url",
        "Beginning of queue URLs in answers to SQS clients, such as https://queue.example.com. Without it, they"
        " begin as the client calls the server.",
    )
    sqs_account: str = _setting(
        "000000000000", "ZAPQ_SQS_ACCOUNT", "account", "The account id in queue URLs and ARNs: 12 digits."
    )
    admin_from: str = _setting(
        "loopback",
        "ZAPQ_ADMIN_FROM",
        "choice",
        "Where clients may administer queues and snapshots from: this machine (loopback), or anywhere (any).",
        choices=("loopback", "any"),
    )
    engine: str = _setting(
        "",
        "ZAPQ_ENGINE",
        "engine",
        "Valkey or Redis servers that have the queues: valkey://host:port[,host:port...], valkeys://... with TLS.",
        secret=True,  # there may be a password in it
    )
    engine_durability: str = _setting(
        "auto",
        "ZAPQ_ENGINE_DURABILITY",
        "choice",
        "What a change must reach in the engine before it is answered (auto: a replica, if there are some).",
        choices=("auto", "memory", "replicated", "committed"),
    )
    engine_password_file: str = _setting(
        "", "ZAPQ_ENGINE_PASSWORD_FILE", "text", "File with the password of the engine, if its URL has none."
    )
    engine_ca: str = _setting(
        "",
        "ZAPQ_ENGINE_CA",
        "text",
        "File with CA certificates (PEM) that signed the engine's; without it, those the system trusts count.",
    )
    workers: int = _setting(
        1,
        "ZAPQ_WORKERS",
        "cores",
        "Processes that serve clients (auto: one a core). From 2 on, without --engine, one more has the queues.",
        low=1,
        high=MAX_WORKERS,
    )
    grace: float = _setting(
        10.0, "ZAPQ_GRACE", "seconds", "How long a shutdown may take in total.", low=0, high=3600
    )
    max_connections: int = _setting(
        10_000, "ZAPQ_MAX_CONNECTIONS", "whole", "Most connections open at once.", low=1, high=1_000_000
    )
    max_connections_per_address: int = _setting(
        2500,  # a quarter: one client alone cannot keep the others out
        "ZAPQ_MAX_CONNECTIONS_PER_ADDRESS",
        "whole",
        "Most connections open at once from one address, or from one /64 network of IPv6 (0: no limit).",
        low=0,
        high=1_000_000,
    )
    max_waiters: int = _setting(
        10_000,
        "ZAPQ_MAX_WAITERS",
        "whole",
        "Most requests waiting at once, for messages or for room.",
        low=0,
        high=1_000_000,
    )
    queue: str = _setting(
        "",
        "ZAPQ_QUEUE",
        "names",
        "Queues to make at the start, such as emails,reports; one that is there already stays as it is.",
    )
    max_queues: int = _setting(
        1024,
        "ZAPQ_MAX_QUEUES",
        "whole",
        "Most queues at once, including the default queue.",
        low=1,
        high=1_000_000,
    )
    metrics_queues: int = _setting(
        1024,  # a scrape of as many takes 8 ms
        "ZAPQ_METRICS_QUEUES",
        "whole",
        "Most queues with series of their own for Prometheus: those made first. All others share one.",
        low=0,
        high=1_000_000,
    )
    max_deduplication_ids: int = _setting(
        MAX_DEDUPLICATION_IDS,
        "ZAPQ_MAX_DEDUPLICATION_IDS",
        "whole",
        "Most deduplication ids of FIFO queues known at once, each for 5 minutes in 250 bytes. Beyond it, messages"
        " are refused.",
        low=1,
        high=1_000_000_000,
    )
    keep_alive: float = _setting(
        75.0, "ZAPQ_KEEP_ALIVE", "seconds", "How long to keep an idle connection open.", low=0.1, high=86_400
    )
    head_timeout: float = _setting(
        10.0,
        "ZAPQ_HEAD_TIMEOUT",
        "seconds",
        "How long a client may take to send a request's head, once it has begun.",
        low=0.1,
        high=3600,
    )
    body_timeout: float = _setting(
        30.0,
        "ZAPQ_BODY_TIMEOUT",
        "seconds",
        "How long a client may take to send a request's body.",
        low=0.1,
        high=3600,
    )
    send_timeout: float = _setting(
        30.0,
        "ZAPQ_SEND_TIMEOUT",
        "seconds",
        "How long a client may stop reading an answer before its connection is closed.",
        low=0.1,
        high=3600,
    )
    hot_path: bool = _setting(
        True, "ZAPQ_HOT_PATH", "switch", "Turn the hot path off: Hypercorn and Quart then answer every request."
    )
    test_clock: bool = _setting(
        False,
        "ZAPQ_TEST_CLOCK",
        "switch",
        "For tests: let POST /test/advance?seconds= move the time of the queues on. Never in production.",
    )
    log_level: str = _setting(
        "info",
        "ZAPQ_LOG_LEVEL",
        "choice",
        "Least severe level of lines to log.",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "auto",
        "ZAPQ_LOG_FORMAT",
        "choice",
        "Format of log lines: a JSON object each, text for people, or auto: text on a terminal, else JSON.",
        choices=("auto", "json", "text"),
    )
    access_log: float = _setting(
        0.0,
        "ZAPQ_ACCESS_LOG",
        "share",
        "Log a line for each request, or for a share of them such as 0.01, chosen at random.",
        low=0,
        high=1,
    )

    queues: Mapping[str, QueueSettings] = field(default_factory=dict, hash=False)
    """Queues that are there from the start, set like this, also if an earlier run has kept other settings. In
    the TOML file these are tables, such as [queues.jobs]; a further file, of --queues, may have such tables and
    nothing else."""

    def __post_init__(self) -> None:
        for option in options():
            value = getattr(self, option.name)
            try:
                option.check(value)
            except ValueError as error:
                raise InvalidSetting(
                    f"{option.flag} {option.shown(value)}: {error}.", setting=option.name
                ) from None
        if self.engine:
            _check_engine(self)
        elif self.engine_password_file or self.engine_ca or self.engine_durability != "auto":
            raise InvalidSetting(
                "--engine-durability, --engine-password-file and --engine-ca need --engine: without it, the queues"
                " are in this process.",
                setting="engine",
            )
        if self.durable and self.load_on_start:
            raise InvalidSetting(
                "--load-on-start would replace the queues kept by --durable at each start. Give only one of them.",
                setting="load_on_start",
            )
        if self.test_clock and (self.durable or self.workers > 1):
            raise InvalidSetting(
                "--test-clock moves the time of queues in the memory of one process. Start without"
                f" {'--durable' if self.durable else '--workers'}.",
                setting="test_clock",
            )
        if 0 < self.snapshot_every < MIN_SNAPSHOT_EVERY:
            raise InvalidSetting(
                f"--snapshot-every {self.snapshot_every!r}: give at least {MIN_SNAPSHOT_EVERY:g}, or 0 for never.",
                setting="snapshot_every",
            )
        check_queues(self.queues, self.named_queues, self.max_queues)
        if self.token:
            try:
                check_token(self.token)
            except ValueError as error:
                raise InvalidSetting(f"{TOKEN_VARIABLE}: {error}.", setting="token") from None
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidSetting(
                "--tls-client-ca needs --tls-cert and --tls-key: clients show certificates over TLS only.",
                setting="tls_client_ca",
            )
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("--tls-cert", "--tls-key") if self.tls_cert else ("--tls-key", "--tls-cert")
            raise InvalidSetting(f"{given} is given without {missing}: TLS needs both.", setting="tls_cert")
        if self.http2 and not self.tls_cert:
            raise InvalidSetting(
                "--http2 needs --tls-cert and --tls-key: zapq speaks HTTP/2 over TLS only.", setting="http2"
            )

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return bool(self.tls_cert)

    @property
    def named_queues(self) -> dict[str, QueueSettings]:
        """How queues of `queue` are set that are not there yet."""
        return parse_names(self.queue)

    @property
    def address(self) -> Address:
        """Where to listen, taken apart."""
        return parse_address(self.addr)


_NOT_WITH_ENGINE = {
    "durable": "The engine keeps the queues: see --engine-durability.",
    "snapshot_every": "Back up the engine itself, or save by hand (zapq snapshot save).",
    "snapshot_on_exit": "Back up the engine itself, or save by hand (zapq snapshot save).",
    "test_clock": "The time of the engine cannot be moved.",
    "load_on_start": "Restore the engine itself, or load by hand (zapq snapshot load).",
}


def _check_engine(settings: Settings) -> None:
    """Raise `InvalidSetting` for what has no meaning where the queues are in an engine elsewhere."""
    for option in options():
        remedy = _NOT_WITH_ENGINE.get(option.name)
        if remedy is not None and getattr(settings, option.name) != option.default:
            raise InvalidSetting(
                f"{option.flag} does not go with --engine: the queues are not in this process. {remedy}",
                setting=option.name,
            )


@cache
def options() -> tuple[Option, ...]:
    """How people write each field of `Settings`, in its order; secrets, which they do not, left out."""
    return tuple(
        Option(name=each.name, default=each.default, **each.metadata) for each in fields(Settings) if each.metadata
    )
