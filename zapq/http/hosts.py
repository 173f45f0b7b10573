"""Which names the server answers to: which Host is ours, and which Origin is the same as ours.

A web page can make the browser that shows it send requests to all that the browser reaches: zapq on the same
machine, say. The browser adds where the page is from (Origin, Sec-Fetch-Site). But if the page's name is made to
mean zapq's address (DNS rebinding), it takes zapq for the page's own server; then only that name, in Host,
tells. The author of such a page needs a name whose address they decide. Most have only public DNS for that, so a
name that public DNS does not have is answered. That is no proof: a few top-level domains have an address
(`http://ai/`), and on a shared network any peer can answer mDNS for `x.local`. Credentials protect against both:
see SECURITY.md.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from zapq.addresses import HOST_NAME, parse_hosts
from zapq.settings import Settings

_HOST = re.compile(rf"(?:\[([0-9a-f:.]*:[0-9a-f:.]*)\]|({HOST_NAME})\.?)(?::[0-9]*)?")
_PRIVATE = (".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa", ".test")
"""What names end in that public DNS does not have: reserved (RFC 6761, 6762, 8375, ICANN for `.internal`), or, as
`.svc` and `.lan`, never delegated. `.cluster.local` is one of them."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label for which a browser takes the whole for an IPv4 address (WHATWG URL, "ends in a number")."""
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


class Hosts:
    """The hosts a server answers for: this machine, what is bound, private names, and what `--allowed-host` names.

    `bound` is the IP address of the listening socket, None if it has none (a unix socket): no browser gets there,
    so any host is fine.
    """

    def __init__(self, settings: Settings, bound: str | None) -> None:
        given = parse_hosts(settings.allowed_host)
        self._any = bound is None or "*" in given
        self._suffixes = tuple(each[1:] for each in given if each.startswith("*."))
        known = {"localhost", settings.address.host.lower().removesuffix("."), bound or "", *given} - {""}
        addresses = {each: _address(each) for each in known}
        self._names = {name for name, address in addresses.items() if address is None}
        self._addresses = {address for address in addresses.values() if address is not None}
        # Rebinding needs a name, which its owner can make mean another address: a Host that is an address is no
        # danger. Which of them are ours cannot be known here: there may be a port forwarded to us.
        self._any_address = any(address.is_unspecified for address in self._addresses)

    def allow(self, host: bytes) -> bool:
        """Whether a request with this Host field (in HTTP/2, :authority) is answered; its port does not matter."""
        if self._any:
            return True
        name = _name(host)
        address = _address(name)
        if address is not None:
            return self._any_address or address.is_loopback or address in self._addresses
        return name in self._names or name.endswith(self._suffixes) or _is_private(name)


def named_by(host: bytes) -> str:
    """Return what `--allowed-host` would have to say for this Host field, or nothing if that is no host's."""
    return _name(host)


def is_same_origin(origin: str, scheme: str, host: str) -> bool:
    """Whether an Origin field names the server the request was sent to; `null` names none."""
    port = _DEFAULT_PORT[scheme]
    return origin.lower().removesuffix(port) == f"{scheme}://{host}".lower().removesuffix(port)


def _name(host: bytes) -> str:
    """Return the name or address in a Host field, in lower case, or nothing if it is not one."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    return str(match[1] or match[2]) if match else ""


def _is_private(name: str) -> bool:
    """Whether public DNS does not have this name: a single label (few have an address), or below such a domain."""
    if not name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return False
    return "." not in name or name.endswith(_PRIVATE)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address `text` is, without its zone, or None; one of IPv4 is the same when IPv6 wraps it."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
