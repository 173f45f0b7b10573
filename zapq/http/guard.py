"""Which requests are let in: decided before anything of one is read, popped or stored.

In this order: is it meant for us, is there such an endpoint, which credential does it have, does its role suffice,
and did a web page of another origin send it. The hot path asks the same guard, and leaves every refusal to it.
"""

from __future__ import annotations

from quart import Request
from werkzeug.exceptions import NotFound

from zapq.access.access import Access, check
from zapq.access.certificate import Identities
from zapq.access.grant import Grant, Role
from zapq.errors import CrossSite, Forbidden, HostNotAllowed, RoleMissing
from zapq.http import wire
from zapq.http.exchange import Exchange
from zapq.http.hosts import Hosts, is_same_origin, named_by
from zapq.http.permissions import PERMISSIONS, Permission
from zapq.limits import DEFAULT_QUEUE
from zapq.settings import Settings

_NOTHING = Permission(None)
_SAFE = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing ..."""
_GET_CHANGES = {("GET", "/dequeue")}
"""... except this one."""


class Guard:
    """Lets requests in by their credentials. Where there are none, only administrators from afar are refused."""

    def __init__(self, settings: Settings, hosts: Hosts, access: Access) -> None:
        self.access = access
        self._hosts = hosts
        self._admin_from_anywhere = settings.admin_from == "any"

    def admits(self, host: bytes, authorization: bytes, identities: Identities, role: Role, queue: str) -> bool:
        """Whether a request that needs `role` for `queue` may be made; `check` says why not."""
        return self._hosts.allow(host) and self.access.permits(authorization, identities, role, queue)

    def check(self, request: Request, exchange: Exchange) -> None:
        """Raise the refusal if the request may not be made; note in `exchange` what its client may do."""
        self._check_host(request)
        _check_route(request)
        self._check_role(request, exchange)
        _check_origin(request)

    def _check_host(self, request: Request) -> None:
        """Refuse a request that is meant for a host we are not."""
        host = _field(request, b"host")
        # HTTP/1.0 does not ask for one, and browsers do not speak it.
        if host is not None and not self._hosts.allow(host):
            name = named_by(host)
            if not name:
                raise HostNotAllowed(
                    "The request's Host field is no host name or address; send the one zapq is called by."
                )
            # No full stop: the flag is there to be copied.
            raise HostNotAllowed(f'zapq does not answer to "{name}"; start it with --allowed-host {name}')

    def _check_role(self, request: Request, exchange: Exchange) -> None:
        """Refuse a request whose credential does not have the role it needs."""
        permission = _permission(request)
        if not self.access.configured:
            if (
                permission.role == "admin"
                and not self._admin_from_anywhere
                and not wire.is_local(request.scope["client"])
            ):
                raise Forbidden(
                    "Without tokens, only requests from a loopback address such as 127.0.0.1 may administer queues"
                    " and snapshots. Send it to 127.0.0.1 on the machine zapq runs on, or start zapq with"
                    " --token-file, or with --admin-from any behind a firewall."
                )
        elif permission.role is not None:
            exchange.grant = grant = self._who(request, exchange)
            check(grant, permission.role, *_queues(request, permission))

    def _who(self, request: Request, exchange: Exchange) -> Grant:
        # Two of them, one for us and one for a proxy, are two answers to one question: together they are none.
        shown = b", ".join(value for name, value in request.scope["headers"] if name == b"authorization")
        return self.access.who(shown, exchange.identities)


def _check_route(request: Request) -> None:
    """Refuse what is no endpoint of ours, or not with this method."""
    if request.scope["path"].startswith("//"):
        raise NotFound  # Werkzeug takes leading slashes for one
    if request.routing_exception is not None:
        raise request.routing_exception


def _permission(request: Request) -> Permission:
    if request.method == "OPTIONS":
        return _NOTHING
    method = "GET" if request.method == "HEAD" else request.method
    try:
        return PERMISSIONS[method, str(request.url_rule)]
    except KeyError:
        raise RoleMissing("No role allows this request.") from None


def _queues(request: Request, permission: Permission) -> tuple[str | None, ...]:
    """Return the queues a request is about, None for all of them together."""
    match permission.scope:
        case "default":
            return (DEFAULT_QUEUE,)
        case "queue":
            return ((request.view_args or {})["name"],)
        case "server":
            return (None,)
        case "listed":
            return ()


def _check_origin(request: Request) -> None:
    """Refuse to change anything for a web page that is not ours; browsers say where it is from, programs do not.

    Nothing ever allows a page to read an answer (no CORS fields), so what changes nothing needs no check.
    """
    if request.method in _SAFE and (request.method, str(request.url_rule)) not in _GET_CHANGES:
        return
    host = (_field(request, b"host") or b"").decode("latin-1")
    foreign = [
        each for each in request.headers.getlist("Origin") if not is_same_origin(each, request.scheme, host)
    ]
    related = set(request.headers.getlist("Sec-Fetch-Site"))
    if foreign or not related <= {"same-origin", "none"}:
        raise CrossSite


def _field(request: Request, name: bytes) -> bytes | None:
    """Return a field as it was sent; Quart makes up a Host where there is none."""
    return next((value for each, value in request.scope["headers"] if each == name), None)
