"""Settings to a running engine; what cannot work is refused before a client is served, with the remedy."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import trio

from zapq import logs
from zapq.addresses import parse_engine
from zapq.core.queue_settings import declared
from zapq.engine.valkey.cluster import Topology, find_topology, info_of
from zapq.engine.valkey.connection import (
    FIT,
    Connection,
    ConnectionLost,
    Login,
    LoginRefused,
    Server,
    open_connection,
)
from zapq.engine.valkey.engine import ValkeyEngine
from zapq.engine.valkey.keys import LAYOUT, SHARDS
from zapq.engine.valkey.master import durability_said
from zapq.engine.valkey.poller import Poller
from zapq.engine.valkey.prepare import prepare
from zapq.engine.valkey.resp import ReplyError
from zapq.engine.valkey.sweep import Sweep
from zapq.errors import CannotStart, InvalidSetting, QueueNotFound
from zapq.limits import ENGINE_CONNECT_SECONDS, MAX_WAITING_BYTES
from zapq.service.operations import Configure, Describe, Operation
from zapq.service.pending import Pending
from zapq.settings import Settings
from zapq.store.snapshot import SnapshotStore

_CHANNEL = "{zapq}:check"
_LAYOUT = b"%d shards, layout 1" % SHARDS


@dataclass(frozen=True, slots=True)
class Finding:
    """What one server of an engine is like."""

    server: Server
    version: str
    problems: tuple[str, ...]
    """What must be different, each with its remedy."""
    warnings: tuple[str, ...]


@asynccontextmanager
async def open_engine(settings: Settings, *, share: int = 1) -> AsyncGenerator[ValkeyEngine, None]:
    """Run the engine that `settings` name. Raises `CannotStart` and `InvalidSetting`.

    This front end is one of `share` of one server, which divide what may wait in it and be received by it.
    """
    if not Poller.possible():
        raise CannotStart("--engine needs epoll or kqueue, which this platform does not have.")
    seeds, login = read_engine(settings)
    try:
        topology = await find_topology(seeds, login)
        durability = choose_durability(settings.engine_durability, topology)
        for server in topology.servers:
            finding = await look_at(server, login, durability)
            if finding.problems:
                raise CannotStart(f"--engine: {server}: {' '.join(finding.problems)}")
            for warning in finding.warnings:
                logs.say(logging.WARNING, "engine", server=str(server), reason=warning)
        await _agree_on_layout(topology, login)
    except ConnectionLost as error:
        raise CannotStart(f"--engine: {error}. {remedy_for(error, login)}") from None
    about = {
        "masters": len(topology.servers),
        "replicas": topology.replicas,
        "durability": durability_said(durability),
    }
    logs.say(logging.INFO, "engine", clustered=topology.clustered, **about)
    front_end = secrets.token_hex(8)
    engine = ValkeyEngine(
        topology,
        seeds,
        login,
        front_end=front_end,
        durability=durability,
        max_messages=settings.max_msgs,
        max_bytes=settings.max_bytes,
        max_queues=settings.max_queues,
        max_message_bytes=settings.max_message_bytes,
        max_waiters=ceil(settings.max_waiters / share),
        max_body_bytes=settings.max_bytes // share,
        max_waiting_bytes=MAX_WAITING_BYTES // share,
        open_store=partial(SnapshotStore, settings),
    )
    # The engine goes on when the block is cancelled: messages that then reach no consumer must go back.
    life = trio.CancelScope(shield=True)

    async def live(*, task_status: trio.TaskStatus[None]) -> None:
        with life:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                nursery.start_soon(Sweep(engine.fleet, engine.codec, engine.tasks, front_end).run)  # noqa: ASYNC113 - it may begin later
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(live)
        try:
            await engine.fleet.wait_until_connected(ENGINE_CONNECT_SECONDS)
            yield engine
        finally:
            with trio.CancelScope(shield=True):  # it ends by itself
                await engine.finish()  # noqa: ASYNC102 - said above
            life.cancel()


async def declare(engine: ValkeyEngine, settings: Settings) -> None:
    """Make the queues that are declared, and set them so; make those that are named and not there."""
    for name, about in settings.queues.items():
        try:
            kept = (await _outcome(engine, Describe(name))).settings
        except QueueNotFound:
            kept = about
        await _outcome(engine, Configure(name, declared(about, kept)))
    for name, about in settings.named_queues.items():
        try:
            await _outcome(engine, Describe(name))
        except QueueNotFound:
            await _outcome(engine, Configure(name, about))


async def _outcome(engine: ValkeyEngine, operation: Operation) -> Any:
    outcome = engine.perform(operation, trio.current_time())
    return await outcome.wait() if isinstance(outcome, Pending) else outcome


def read_engine(settings: Settings) -> tuple[list[Server], Login]:
    """Return the servers and the login that `settings` name. Raises `InvalidSetting`."""
    address = parse_engine(settings.engine)
    assert address is not None
    password, context = address.password, None
    if settings.engine_password_file:
        if password:
            raise InvalidSetting(
                "--engine has a password, and there is --engine-password-file as well: give one of them.",
                setting="engine_password_file",
            )
        try:
            with open(settings.engine_password_file, encoding="utf-8") as file:
                password = file.read().strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidSetting(
                f"--engine-password-file {settings.engine_password_file!r}: {reason}.",
                setting="engine_password_file",
            ) from None
    if address.tls:
        try:
            context = ssl.create_default_context(cafile=settings.engine_ca or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(f"--engine-ca {settings.engine_ca!r}: {error}.", setting="engine_ca") from None
    elif settings.engine_ca:
        raise InvalidSetting("--engine-ca needs an engine with TLS: write valkeys://.", setting="engine_ca")
    servers = [Server(each.host, each.port, each.path) for each in address.servers]
    return servers, Login(user=address.user, password=password, tls=context)


def remedy_for(error: ConnectionLost, login: Login) -> str:
    """Return what the operator can do about servers that cannot be asked."""
    if isinstance(error, LoginRefused):
        return "Give the user and password in the URL, or the password in --engine-password-file."
    trust = "" if login.tls is None else " --engine-ca names the certificates to trust."
    return f"Check that the servers run, and that the URL is right: valkeys:// with TLS, valkey:// without.{trust}"


def choose_durability(wanted: str, topology: Topology) -> str:
    """Return the key of `master.WAITS` for what the operator wants. Raises `CannotStart` if it cannot be had."""
    if wanted == "auto":
        return "replicated" if topology.replicas else "memory"
    if wanted == "replicated" and not topology.replicas:
        raise CannotStart(
            "--engine-durability replicated needs a replica for each master, and there is a master without one."
            " Add replicas, or give memory or committed."
        )
    if wanted == "committed" and not topology.replicas:
        return "committed alone"
    return wanted


async def look_at(server: Server, login: Login, durability: str) -> Finding:
    """Look whether a server can be used, and what about it loses messages. Raises `ConnectionLost`."""
    connection = await open_connection(server, login)
    try:
        return await _look_at(connection, durability)
    finally:
        connection.close()


async def _look_at(connection: Connection, durability: str) -> Finding:
    about = await info_of(connection, "server")
    version = about.get("valkey_version") or about.get("redis_version", "?")
    name = "Valkey" if "valkey_version" in about else "Redis"
    problems: list[str] = []
    warnings: list[str] = []
    # By what it can do: Valkey says that it is Redis 7.2. Functions and sharded channels came with Redis 7.0, and
    # WAITAOF with 7.2.
    known = await connection.call("COMMAND", "INFO", "FCALL", "WAITAOF", "SPUBLISH")
    has_functions, has_waitaof, has_sharded = (
        (bool(each) for each in known) if isinstance(known, list) else (0, 0, 0)
    )
    if not (has_functions and has_sharded):
        problems.append(f"{name} {version} has no functions. {FIT}.")
    if durability.startswith("committed") and not has_waitaof:
        problems.append(
            f"{name} {version} has no WAITAOF, which --engine-durability committed needs. Use Valkey 8 or later,"
            " or Redis 7.2 or later, or give replicated or memory."
        )
    policy, appendonly, appendfsync = [
        await _config(connection, each) for each in ("maxmemory-policy", "appendonly", "appendfsync")
    ]
    if policy not in {"noeviction", ""}:
        problems.append(
            f"maxmemory-policy is {policy}: when memory is short, the server would drop messages unseen. Set it to"
            " noeviction."
        )
    if durability.startswith("committed") and appendonly == "no":
        problems.append("appendonly is no, and --engine-durability committed needs the file. Set it to yes.")
    elif appendonly == "no":
        warnings.append("appendonly is no: what is in memory is lost when the server restarts.")
    if durability.startswith("committed") and appendfsync == "everysec":
        warnings.append("appendfsync is everysec, so a change waits up to a second. Set it to always.")
    if "" in {policy, appendonly}:
        warnings.append("CONFIG GET is not allowed: see to maxmemory-policy noeviction and appendonly yourself.")
    if not problems:
        try:
            await prepare(connection)
        except ConnectionLost as error:
            problems.append(f"{error}.")
    # Last: a connection that listens takes no other commands. On a channel of its own: what another front end that
    # starts at this moment publishes would be a reply too many.
    channel = f"{_CHANNEL}{secrets.token_hex(8)}"
    for reply in await connection.call_all([("SPUBLISH", channel, ""), ("SSUBSCRIBE", channel)]):
        # MOVED is well: another server would do it.
        if isinstance(reply, ReplyError) and reply.code == "NOPERM":
            problems.append(
                f"{reply}. Without channels no consumer is woken. Allow the user all of them: allchannels."
            )
            break
    return Finding(connection.server, f"{name} {version}", tuple(problems), tuple(warnings))


async def _config(connection: Connection, name: str) -> str:
    """Return a setting of a server; empty if it does not tell, as some that are rented."""
    reply = await connection.call("CONFIG", "GET", name)
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else ""


async def _agree_on_layout(topology: Topology, login: Login) -> None:
    """Say how the queues are laid out, or find that it is said so. Raises `CannotStart` if it is otherwise."""
    server = topology.server_of(LAYOUT)
    if server is None:
        raise ConnectionLost("a part of the slots has no server")
    connection = await open_connection(server, login)
    try:
        await connection.call("SET", LAYOUT, _LAYOUT, "NX")
        found = await connection.call("GET", LAYOUT)
    finally:
        connection.close()
    if isinstance(found, ReplyError):
        raise ConnectionLost(str(found))
    if found != _LAYOUT:
        raise CannotStart(
            f"--engine: the queues there are laid out differently ({found!r}), for another version of zapq. Use"
            " that version, or another engine."
        )
