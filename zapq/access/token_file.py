"""The token file: a line for each credential, with its roles.

    # name:credential:roles[:queues[:expires]]
    billing:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8:producer:invoices
    mailer:@DNS=mailer.internal:consumer:emails*:2027-01-31

A credential is the SHA-256 of a token, in hex, or `@` and what a client's certificate must say (`zapq/access/
certificate.py`). Nothing in the file is secret, but a user who can write it can add credentials.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from zapq.access.certificate import parse_identity
from zapq.access.grant import ALL_QUEUES, Grant, check_name, check_pattern, parse_expiry, parse_roles
from zapq.errors import InvalidSetting
from zapq.limits import MAX_GRANTS, MAX_TOKEN_FILE_BYTES

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential, as it is kept, and what it is good for."""

    grant: Grant
    digest: bytes = b""
    """Of a token; empty for a certificate."""
    identity: str = ""
    """What a certificate says; empty for a token."""


def read(path: str) -> list[Credential]:
    """Return what the file at `path` says; `InvalidSetting` tells what is wrong with it, and in which line."""
    try:
        return list(_parse(_contents(path)))
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    raise InvalidSetting(f"--token-file {path!r}: {reason}.", setting="token_file")


def parse_line(text: str) -> Credential:
    """Return what one line says; ValueError says what is wrong, and never shows the line."""
    fields = text.split(":", 4)
    if len(fields) < 3:
        raise ValueError("give name:credential:roles, which :queues and :expires may follow")
    name, credential, roles, *rest = (field.strip() for field in fields)
    grant = Grant(
        check_name(name),
        parse_roles(roles),
        check_pattern(rest[0]) if rest else ALL_QUEUES,
        parse_expiry(rest[1]) if rest[1:] else inf,
    )
    if credential.startswith("@"):
        return Credential(grant, identity=parse_identity(credential[1:]))
    if not _DIGEST.fullmatch(credential):
        raise ValueError(
            "the credential must be the SHA-256 of a token in lower-case hex, or @ and the name in a certificate;"
            " zapq token new makes a line"
        )
    return Credential(grant, digest=bytes.fromhex(credential))


def _contents(path: str) -> str:
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a plain file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("other users than its owner may write it; remove that permission with chmod go-w")
        data = file.read(MAX_TOKEN_FILE_BYTES + 1)
    if len(data) > MAX_TOKEN_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_TOKEN_FILE_BYTES} bytes")
    return data.decode()  # UnicodeDecodeError is a ValueError, and shows one byte at the most


def _parse(text: str) -> Iterator[Credential]:
    names: dict[str, int] = {}
    credentials: dict[bytes | str, int] = {}
    for number, each in enumerate(text.splitlines(), 1):
        if not each.strip() or each.lstrip().startswith("#"):
            continue
        try:
            line = parse_line(each)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        for first in (names.get(line.grant.name), credentials.get(line.digest or line.identity)):
            if first is not None:
                raise ValueError(
                    f"line {number} has the same name or credential as line {first}; give each only once"
                )
        names[line.grant.name] = credentials[line.digest or line.identity] = number
        if len(names) > MAX_GRANTS:
            raise ValueError(f"it has over {MAX_GRANTS} credentials")
        yield line
    if not names:
        raise ValueError(
            "it has no credentials, so the server would refuse every request; zapq token new makes a line"
        )
