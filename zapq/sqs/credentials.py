"""The client that asks: its signed request has a token of zapq's as the credential, and names a region.

The access key id travels in clear, so it can be a token, as can the session token. Signatures are not checked: a
signature proves that the sender has the secret key, and the server would have to keep that in clear.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CREDENTIAL = re.compile(rb"Credential=([\x21-\x2b\x2d-\x7e]+)")
_REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
REGION = "us-east-1"
"""That of requests which do not say."""


class Shown(NamedTuple):
    """What a request shows."""

    authorizations: tuple[bytes, ...]
    """Tokens as an Authorization field has them, the one that counts most first; empty if none was shown."""
    region: str = REGION


def shown(authorization: bytes, session_token: bytes, credential: bytes = b"", key: bytes = b"") -> Shown:
    """Return what a request shows in its fields, or in its query: `credential` with a scope, or only a `key`."""
    if authorization[:7].lower() == b"bearer ":
        return Shown((authorization,))
    match = _CREDENTIAL.search(authorization)
    scoped = credential if match is None else match[1]
    region = REGION
    if scoped:
        # From the right: a token of one's own may have a slash.
        parts = scoped.rsplit(b"/", 4)
        key = parts[0]
        if len(parts) == 5 and _REGION.fullmatch(parts[2].decode("latin-1")):
            region = parts[2].decode()
    tokens = [each for each in (session_token, key) if each]
    if not tokens and authorization:
        return Shown((authorization,), region)
    return Shown(tuple(b"Bearer " + each for each in tokens), region)
