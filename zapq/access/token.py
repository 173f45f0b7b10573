"""Tokens: random secrets that their holders send, of which the server keeps only the SHA-256."""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

from zapq.limits import TOKEN_BYTES

PREFIX = "zapq_"
"""So that a person who finds one knows what it is; scanners for leaked secrets look for such words."""
_BEARER = re.compile(rb"bearer +([\x21-\x7e]+)", re.IGNORECASE)


def new_token() -> str:
    """Make a token that cannot be guessed."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: bytes) -> bytes:
    """Return what is kept of a token: its SHA-256. The token is random, so trying all of them is impossible."""
    return sha256(token).digest()


def parse_bearer(authorization: bytes) -> bytes | None:
    """Return the token in an Authorization field (RFC 6750), or None if there is none of that kind."""
    match = _BEARER.fullmatch(authorization)
    return None if match is None else match[1]
