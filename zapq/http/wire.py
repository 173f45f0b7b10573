"""What requests may say: query parameters and who sends them, turned into values or refused."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from quart import Request

from zapq.errors import InvalidParameter, MessageTooLarge
from zapq.settings import parse_seconds


def parameters(request: Request, *known: str) -> dict[str, str]:
    """Return the query parameters; unknown and repeated ones are `InvalidParameter`, for they are typos."""
    for name, values in request.args.lists():
        if name not in known:
            meant = f"this endpoint knows {', '.join(known)}" if known else "this endpoint takes none"
            raise InvalidParameter(f"Unknown query parameter; {meant}.", parameter=name[:100])
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given {len(values)} times; give it once.", parameter=name)
    return request.args.to_dict()


def seconds(values: dict[str, str], name: str, default: float) -> float:
    """Return the parameter `name` as decimal seconds."""
    text = values.get(name)
    if text is None:
        return default
    try:
        return parse_seconds(text)
    except ValueError:
        raise InvalidParameter(
            f"{name} must be seconds as a decimal number, such as 20 or 0.5.", parameter=name
        ) from None


def check_declared_length(request: Request, limit: int) -> None:
    """Raise `MessageTooLarge` for a body announced larger than `limit`, before any of it is read."""
    declared = request.content_length
    if declared is not None and declared > limit:
        raise MessageTooLarge(max_message_bytes=limit, current=declared)


def is_local(client: tuple[str, int] | None) -> bool:
    """Whether the peer is on this machine: a loopback address, or a unix socket (which has no address)."""
    if client is None:
        return True
    address = ip_address(client[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
