"""Where something is, as operators write it: sockets to listen on, servers of an engine, names of hosts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import unquote

HOST_NAME = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,31}"
"""A host's name, as a regular expression; underscores, because docker compose has them."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a TCP host and port, a unix socket path, or an inherited descriptor."""

    host: str = ""
    """Empty: all interfaces."""
    port: int = 0
    path: str = ""
    descriptor: int = -1


def parse_address(text: str) -> Address:
    """Return the address meant by `:8080`, `host:port`, `[::1]:0`, `unix:/path` or `fd://3`; else ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or len(os.fsencode(path)) > 107:
            raise ValueError("give unix: and a path of 1 to 107 bytes, the most a socket address holds")
        return Address(path=path)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"[0-9]{1,6}", number, re.ASCII):
            raise ValueError("give fd:// and the number of an open descriptor, such as fd://3")
        return Address(descriptor=int(number))
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]\s]*)):([0-9]{1,5})", text, re.ASCII)
    # Unprintable, a name makes the resolver fail in ways of its own.
    if match is None or not text.isprintable():
        raise ValueError("give :8080, host:port, [::1]:port, unix:/path or fd://3")
    if int(match[3]) > 65535:
        raise ValueError("give a port of 0 to 65535, such as :8080")
    return Address(host=match[1] or match[2], port=int(match[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAddress:
    """Where the queues are that are not in this process: servers of Valkey or Redis, and the login."""

    servers: tuple[Address, ...]
    """Any of them knows the others of its cluster."""
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)


_ENGINE = "give valkey://host:port[,host:port...], valkeys://host:port with TLS, or valkey+unix:/path"


def parse_engine(text: str) -> EngineAddress | None:
    """Return what `valkey://[user[:password]@]host:port[,...]` means, None for no text; ValueError otherwise."""
    if not text:
        return None
    scheme, _, rest = text.partition(":")
    if scheme == "valkey+unix":
        return EngineAddress(servers=(parse_address(f"unix:{rest}"),))
    login, _, hosts = rest.removeprefix("//").rpartition("@")
    if scheme not in {"valkey", "valkeys", "redis", "rediss"} or not rest.startswith("//") or not hosts:
        raise ValueError(_ENGINE)
    user, _, password = login.partition(":")
    try:
        servers = tuple(
            parse_address(each if re.search(r":[0-9]+\Z", each) else f"{each}:6379")
            for each in hosts.removesuffix("/").split(",")
        )
    except ValueError:
        raise ValueError(_ENGINE) from None
    if not all(each.host and each.port for each in servers):
        raise ValueError(_ENGINE)
    return EngineAddress(
        servers=servers, tls=scheme in {"valkeys", "rediss"}, user=unquote(user), password=unquote(password)
    )


def without_password(engine: str) -> str:
    """Return `engine`, a text for `parse_engine`, as a message may show it."""
    return re.sub("//.*@", "//...@", engine)


def parse_hosts(text: str) -> tuple[str, ...]:
    """Return the hosts meant by `queue.example, *.internal, 10.0.0.5` or `*`, in lower case; else ValueError."""
    return tuple(_parse_host(each.strip().lower()) for each in text.split(",")) if text else ()


def _parse_host(text: str) -> str:
    if text == "*" or re.fullmatch(rf"(?:\*\.)?{HOST_NAME}\.?", text, re.ASCII):
        return text.removesuffix(".")
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        IPv6Address(address)
    except ValueError:
        raise ValueError(
            "give host names or addresses, without ports, separated by commas; *.example.com allows every name"
            " below example.com, * every name"
        ) from None
    return address
