"""One authority for the servers of all tests, and what clients speak that trust it. Making keys takes a while."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import trustme


@cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@cache
def _issued() -> tuple[bytes, bytes]:
    made = authority().issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
    return b"".join(each.bytes() for each in made.cert_chain_pems), made.private_key_pem.bytes()


def write_certificate(directory: Path) -> tuple[str, str]:
    """Write a server's certificate and its key, and return where."""
    paths = directory / "cert.pem", directory / "key.pem"
    for path, content in zip(paths, _issued(), strict=True):
        path.write_bytes(content)
    return str(paths[0]), str(paths[1])


def trusting() -> ssl.SSLContext:
    """Return what a client speaks that trusts the authority, and no other: reading those of the system is slow."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context
