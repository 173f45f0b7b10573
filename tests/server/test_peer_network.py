"""Who is one client, as far as an address can tell."""

from __future__ import annotations

import pytest

from zapq.server.peer_network import peer_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (("192.0.2.1", 5000), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5000, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::1", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        (("::1", 5000, 0, 0), "::/64"),
        ("", ""),
        (b"\0abstract", ""),
    ],
)
def test_a_peer_is_an_address_or_a_network_and_a_unix_socket_has_none(address: object, network: str) -> None:
    assert peer_network(address) == network


def test_neighbouring_networks_are_two_peers() -> None:
    assert peer_network(("2001:db8:1:2::1", 1, 0, 0)) != peer_network(("2001:db8:1:3::1", 1, 0, 0))
