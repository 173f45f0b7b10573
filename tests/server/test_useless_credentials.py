"""Lines of the token file that let no client in are said in the log, and not only to the clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from zapq.access.access import Access
from zapq.server.front import _warn_of_useless
from zapq.settings import Settings

OVER, TO_COME = "2020-01-31", "9999-01-31"


def said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *lines: str, ca: str = ""
) -> dict[str, dict[str, object]]:
    path = tmp_path / "tokens"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    tls = {"tls_cert": "cert.pem", "tls_key": "key.pem", "tls_client_ca": ca} if ca else {}
    caplog.clear()
    _warn_of_useless(Access(Settings(token_file=str(path), **tls)))  # type: ignore[arg-type]
    return {each.getMessage(): each.fields for each in caplog.records}  # type: ignore[attr-defined]


def test_credentials_that_have_expired_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"shop-{number}:{number:064x}:producer:*:{OVER}" for number in range(12)]
    told = said(tmp_path, caplog, f"ops:{'f' * 64}:admin:*:{TO_COME}", *lines)
    assert list(told) == ["credentials have expired"]
    assert told["credentials have expired"]["number"] == 12
    assert (
        told["credentials have expired"]["names"] == ", ".join(f"shop-{number}" for number in range(10)) + " ..."
    )


def test_certificates_are_named_where_no_client_shows_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = "mailer:@DNS=mailer.internal:consumer"
    message = "certificates count for nothing without --tls-client-ca"
    assert said(tmp_path, caplog, line)[message] == {
        "number": 1,
        "names": "mailer",
        "remedy": "--tls-client-ca FILE",
    }
    assert said(tmp_path, caplog, line, ca="ca.pem") == {}


def test_credentials_that_are_in_force_are_not_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert said(tmp_path, caplog, f"ops:{'f' * 64}:admin") == {}
