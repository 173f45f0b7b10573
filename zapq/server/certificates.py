"""The certificate to show and the authorities to trust, as an SSL context that can be made anew."""

from __future__ import annotations

import ssl
from pathlib import Path

from zapq.errors import InvalidSetting
from zapq.settings import Settings


class Certificates:
    """The files `settings` names, read. Raises `InvalidSetting` for those that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.context = self.read()
        """For connections that begin now; those there are keep what they began with."""

    def read(self) -> ssl.SSLContext:
        """Return what the files say now, for `use`; from any thread. Raises `InvalidSetting`."""
        settings = self._settings
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        # HTTP/1.1 is named even where it is the only one, so that no client guesses.
        context.set_alpn_protocols(["h2", "http/1.1"] if settings.http2 else ["http/1.1"])
        _load_own(context, settings.tls_cert, settings.tls_key)
        if settings.tls_client_ca:
            _load_authorities(context, settings.tls_client_ca)
        return context

    def use(self, context: ssl.SSLContext) -> None:
        """Let connections begin with `context` from now on."""
        self.context = context


def _load_own(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _check_readable("--tls-cert", certificate)
    _check_readable("--tls-key", key)
    try:
        # An empty password: an encrypted key is refused here instead of asking on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidSetting(_why_not(certificate, key, error)) from None


def _why_not(certificate: str, key: str, error: Exception) -> str:
    """Return which of the two files is not what it should be, and what to do; OpenSSL says neither."""
    shown, secret = Path(certificate).read_bytes(), Path(key).read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in shown:
        swapped = " It has a private key: give that to --tls-key." if b"PRIVATE KEY-----" in shown else ""
        return f"--tls-cert {certificate!r} has no certificate in PEM.{swapped}"
    if b"PRIVATE KEY-----" not in secret:
        return f"--tls-key {key!r} has no private key in PEM."
    if b"ENCRYPTED" in secret:
        return f"--tls-key {key!r} is encrypted. Give one that is not: openssl pkey -in {key} -out NEW makes it."
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"--tls-key {key!r} does not belong to --tls-cert {certificate!r}. Give the key it was made with."
    return f"--tls-cert {certificate!r} with --tls-key {key!r}: OpenSSL cannot use them ({_reason(error)})."


def _load_authorities(context: ssl.SSLContext, authorities: str) -> None:
    _check_readable("--tls-client-ca", authorities)
    try:
        context.load_verify_locations(cafile=authorities)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidSetting(
            f"--tls-client-ca {authorities!r}: no usable PEM certificates of authorities ({_reason(error)})."
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED


def _check_readable(flag: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InvalidSetting(f"{flag} {path!r}: {error.strerror}.") from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
