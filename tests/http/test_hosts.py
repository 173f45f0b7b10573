"""Which Host is ours, and which Origin is the same as ours: tables, and nothing else."""

from __future__ import annotations

import pytest

from zapq.http.hosts import Hosts, is_same_origin, named_by
from zapq.settings import Settings

MALFORMED = [
    "",
    " ",
    ":80",
    "a b",
    "a/b",
    "u@localhost",
    "localhost:x",
    "localhost:-1",
    "localhost,x",
    "[::1",
    "::1",
]
MALFORMED += [
    "[127.0.0.1]",
    "[localhost]",
    "[zz::]",
    "a..localhost",
    ".localhost",
    "localhost..",
    "localhost\0",
    "\xfc",
]
LOOPBACK = [
    "localhost",
    "LocalHost:8080",
    "localhost.",
    "localhost.:80",
    "localhost:",
    "a.localhost",
    "a.b.Localhost.",
]
LOOPBACK += ["127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]", "[::1]:8080", "[0:0::1]", "[::ffff:127.0.0.1]"]
NAMES = [
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "attacker.home.arpa.example",
]
NAMES += [
    "evil.com.local.attacker.net",
    "evil.local.com",
    "evillocal.com",
    "home.arpa.",
    "notinternal.net",
    "x.arpa",
]
# A browser takes a name whose last label is a number for an IPv4 address, and writes it as four numbers.
NAMES += [
    "127.1",
    "0x7f.0.0.1",
    "127.0.0.01",
    "2130706433",
    "0",
    "017700000001",
    "0x7f000001",
    "0X7F.1",
    "0x",
    "1.",
]
NAMES += ["a.local.1", "x.0x7f", "127.0.0.1.local.0x1"]
PRIVATE = ["zapq", "zapq:8080", "ZAPQ.", "zapq_1", "notlocalhost", "printer.local", "a.b.Local.:80", "x.internal"]
PRIVATE += [
    "queue.prod.svc",
    "queue.prod.svc.cluster.local:8080",
    "nas.lan",
    "nas.home.arpa",
    "zapq.test",
    "4u",
    "0xg",
]
PRIVATE += ["1.local", "evil.com.local", "local"]
"""Names that public DNS cannot have, so that no attacker can make one mean our address."""
ADDRESSES = ["10.0.0.5", "10.0.0.5:80", "[2001:db8::5]:80", "0.0.0.0", "[::]"]

# What is bound (--addr, and the address that made of it), and what is allowed beside loopback.
BOUND: list[tuple[str, str | None, list[str]]] = [
    (":8080", "::", ADDRESSES),
    (":8080", "0.0.0.0", ADDRESSES),
    ("0.0.0.0:8080", "0.0.0.0", ADDRESSES),
    ("[::]:8080", "::", ADDRESSES),
    ("127.0.0.1:8080", "127.0.0.1", []),
    ("localhost:8080", "127.0.0.1", []),
    ("10.0.0.5:8080", "10.0.0.5", ["10.0.0.5", "10.0.0.5:80"]),
    ("[2001:db8::5]:8080", "2001:db8::5", ["[2001:db8::5]:80"]),
    ("Queue.Example.:8080", "10.0.0.5", ["queue.example", "QUEUE.example.:80", "10.0.0.5", "10.0.0.5:80"]),
    ("fd://3", "10.0.0.5", ["10.0.0.5", "10.0.0.5:80"]),
    ("fd://3", "0.0.0.0", ADDRESSES),
    ("fd://3", "::ffff:10.0.0.5", ["10.0.0.5", "10.0.0.5:80", "[::ffff:10.0.0.5]"]),
    ("fd://3", "fe80::5%eth0", ["[fe80::5]"]),
]


@pytest.mark.parametrize(("addr", "bound", "allowed"), BOUND)
def test_this_machine_and_what_is_bound_are_allowed_and_nothing_else(
    addr: str, bound: str, allowed: list[str]
) -> None:
    hosts = Hosts(Settings(addr=addr), bound)
    ours = {*LOOPBACK, *PRIVATE, *allowed}
    for host in {*ours, *NAMES, *ADDRESSES, *MALFORMED}:
        assert hosts.allow(host.encode("latin-1")) == (host in ours), host


@pytest.mark.parametrize(("addr", "bound"), [("unix:/run/zapq", None), ("fd://3", None)])
def test_on_a_unix_socket_any_host_is_fine(addr: str, bound: None) -> None:
    hosts = Hosts(Settings(addr=addr), bound)
    assert all(hosts.allow(host.encode("latin-1")) for host in NAMES + ADDRESSES + MALFORMED)


@pytest.mark.parametrize(
    ("setting", "allowed", "refused"),
    [
        (
            "queue.example",
            ["queue.example", "Queue.Example.:80"],
            ["a.queue.example", "queue.example.org"],
        ),
        (
            "*.Example",
            ["a.example", "a.b.example.:1"],
            [".example", "a.aexample.org", "a.example.org"],
        ),
        ("a.example, *.b.example ,c_1.example", ["a.example", "x.b.example", "c_1.example:1"], ["b.example"]),
        ("10.0.0.6,[2001:db8::6]", ["10.0.0.6:1", "[2001:db8::6]"], ["10.0.0.7", "[2001:db8::7]"]),
        ("2001:DB8::6", ["[2001:db8:0::6]:80"], ["2001", "[2001:db8::7]"]),
        ("0.0.0.0", ["10.0.0.5"], ["attacker.example"]),
        ("*", [*NAMES, *ADDRESSES, *MALFORMED], []),
        ("a,*", [*NAMES, *ADDRESSES, *MALFORMED], []),
    ],
)
def test_the_names_the_operator_gives_are_allowed_too(
    setting: str, allowed: list[str], refused: list[str]
) -> None:
    hosts = Hosts(Settings(addr="127.0.0.1:0", allowed_host=setting), "127.0.0.1")
    for host in allowed + refused + LOOPBACK + PRIVATE:
        assert hosts.allow(host.encode("latin-1")) == (host not in refused), host


@pytest.mark.parametrize(
    ("host", "shown"),
    [("Attacker.Example.:80", "attacker.example"), ("10.0.0.5:1", "10.0.0.5"), ("[::5]:1", "::5")]
    + [(host, "") for host in MALFORMED if host != "[zz::]"],
)
def test_a_refusal_names_the_host_only_if_it_can_be_one(host: str, shown: str) -> None:
    assert named_by(host.encode("latin-1")) == shown


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "same"),
    [
        ("http://localhost:8080", "http", "localhost:8080", True),
        ("HTTP://LocalHost:8080", "http", "LOCALHOST:8080", True),
        ("http://localhost", "http", "localhost:80", True),
        ("https://localhost:443", "https", "localhost", True),
        ("http://[::1]:8080", "http", "[::1]:8080", True),
        ("http://localhost:8081", "http", "localhost:8080", False),
        ("http://localhost", "http", "localhost:8080", False),
        ("http://localhost:80", "https", "localhost", False),
        ("https://localhost:8080", "http", "localhost:8080", False),
        ("http://127.0.0.1:8080", "http", "localhost:8080", False),
        ("http://localhost:8080.attacker.example", "http", "localhost:8080", False),
        ("http://localhost:8080, http://attacker.example", "http", "localhost:8080", False),
        ("http://localhost:8080/", "http", "localhost:8080", False),
        ("null", "http", "localhost:8080", False),
        ("", "http", "localhost:8080", False),
        ("http://", "http", "localhost:8080", False),
    ],
)
def test_an_origin_is_ours_only_if_scheme_host_and_port_are(
    origin: str, scheme: str, host: str, same: bool
) -> None:
    assert is_same_origin(origin, scheme, host) == same
