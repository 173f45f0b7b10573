"""Client certificates, as each of the three shows them."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.client.shells import SHELLS, with_client
from tests.support.certificates import authority, trusting
from tests.support.serving import serving, with_tls
from zapq import errors
from zapq.settings import Settings


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_client_certificate_is_shown_and_one_without_is_turned_away(
    shell: str, zapq_settings: Settings, tmp_path: Path
) -> None:
    settings, _ = with_tls(zapq_settings, tmp_path)
    clients = tmp_path / "clients.pem"
    authority().cert_pem.write_to_path(str(clients))
    settings = replace(settings, tls_client_ca=str(clients))
    shown = trusting()
    authority().issue_cert("shop").configure_cert(shown)

    async def put(client: Any) -> None:
        assert await client.enqueue("q", b"hello") == 1

    async def fail(client: Any) -> None:
        with pytest.raises((errors.NoAnswer, errors.Unreachable)):
            await client.enqueue("q", b"hello")

    async with serving(settings) as url:
        await with_client(shell, url, put, verify=shown)
        await with_client(shell, url, fail, verify=trusting(), attempts=1)
        await with_client(shell, url, fail, verify=ssl.create_default_context(), attempts=1)
