"""Who counts as this machine."""

from __future__ import annotations

import pytest

from zapq.http.wire import is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.1.2", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_loopback_addresses_are_local(host: str) -> None:
    assert is_local((host, 1))


def test_a_unix_socket_has_no_address_and_is_local() -> None:
    assert is_local(None)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "::ffff:10.0.0.1", "fe80::1%eth0", "2001:db8::1", "0.0.0.0"]
)
def test_other_addresses_are_not(host: str) -> None:
    assert not is_local((host, 1))
