"""The names a client's certificate gives its holder, and how people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

Identities = frozenset[str]
NOBODY: Identities = frozenset()
_KINDS = {"DNS": "DNS", "URI": "URI", "email": "email"}
"""The kinds of alternative names that identify a client, as Python calls them and as people write them."""


def parse_identity(text: str) -> str:
    """Return the identity meant by `CN=...`, `DNS=...`, `URI=...` or `email=...`; ValueError otherwise.

    A colon in it is written %3A, as in `URI=spiffe%3A//prod/billing`.
    """
    match = re.fullmatch(r"(CN|DNS|URI|email)=([\x21-\x7e]{1,255})", text, re.ASCII)
    if match is None:
        raise ValueError(
            "after @, give CN=, DNS=, URI= or email= and the name in the certificate; write a colon in it as %3A"
        )
    return f"{match[1]}={unquote(match[2])}"


def identities(certificate: Mapping[str, Any] | None) -> Identities:
    """Return everything `certificate` says its holder is, as `ssl.SSLSocket.getpeercert` describes it.

    It has been checked by then: signed by an authority we trust, and not over.
    """
    if not certificate:
        return NOBODY
    return frozenset(_identities(certificate))


def _identities(certificate: Mapping[str, Any]) -> Iterable[str]:
    for names in certificate.get("subject", ()):
        for kind, value in names:
            if kind == "commonName":
                yield f"CN={value}"
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in _KINDS:
            yield f"{_KINDS[kind]}={value}"
