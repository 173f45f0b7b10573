"""Which requests are let in: decided before anything of one is read, popped or stored.

In this order: is it meant for us, is there such an endpoint, which credential does it have, does its role suffice,
and did a web page of another origin send it. The fast road asks the same guard whether it lets a request in, and
leaves each of these refusals to the other road.
"""

from __future__ import annotations

from collections.abc import Sequence

from zapq.access.access import Access, check
from zapq.access.certificate import Identities
from zapq.access.grant import ROLES, Grant
from zapq.errors import CrossSite, Forbidden, HostNotAllowed
from zapq.http import wire
from zapq.http.endpoints import Endpoint
from zapq.http.hosts import Hosts, is_same_origin, named_by
from zapq.limits import DEFAULT_QUEUE
from zapq.settings import Settings


class Guard:
    """Lets requests in by their credentials. Where there are none, only administrators from afar are refused."""

    def __init__(self, settings: Settings, hosts: Hosts, access: Access) -> None:
        self.access = access
        self._hosts = hosts
        self._admin_from_anywhere = settings.admin_from == "any"

    def admits(
        self, host: bytes, authorization: bytes, identities: Identities, endpoint: Endpoint, queue: str
    ) -> str | None:
        """Return the pattern of the queues a client may know of, or None: then the other road says why not.

        Requests that only an administrator may make are not for this.
        """
        if not self._hosts.allow(host):
            return None
        if not self.access.configured or endpoint.role is None:
            return "*"
        grant = self.access.find(authorization, identities)
        if grant is None or endpoint.role == "any" or not grant.allows(endpoint.role, *_queues(endpoint, queue)):
            return None
        return grant.queues

    def check_host(self, host: bytes | None) -> None:
        """Refuse a request that is meant for a host we are not."""
        # HTTP/1.0 does not ask for one, and browsers do not speak it.
        if host is not None and not self._hosts.allow(host):
            name = named_by(host)
            if not name:
                raise HostNotAllowed(
                    "The request's Host field is no host name or address; send the one zapq is called by."
                )
            # No full stop: the flag is there to be copied.
            raise HostNotAllowed(f'zapq does not answer to "{name}"; start it with --allowed-host {name}')

    def answers_for(self, host: bytes) -> bool:
        """Whether a request with this Host field is meant for this server."""
        return self._hosts.allow(host)

    def may_administer(self, client: tuple[str, int] | None) -> bool:
        """Whether a client at this address may administer where there are no tokens."""
        return self._admin_from_anywhere or wire.is_local(client)

    def identify(self, authorizations: Sequence[bytes], identities: Identities) -> Grant | None:
        """Return what the first of these credentials that is known allows; None where none is needed.

        Raises `Unauthenticated` if there is none, or none is known.
        """
        if not self.access.configured:
            return None
        for each in authorizations[:-1]:
            grant = self.access.find(each, identities)
            if grant is not None:
                return grant
        return self.access.who(authorizations[-1] if authorizations else b"", identities)

    def check_role(
        self,
        endpoint: Endpoint,
        queue: str,
        client: tuple[str, int] | None,
        authorization: bytes,
        identities: Identities,
    ) -> Grant | None:
        """Refuse a request whose credential does not have the role it needs; else return what it may do."""
        if not self.access.configured:
            if endpoint.role == "any":
                roles = ROLES if self.may_administer(client) else [each for each in ROLES if each != "admin"]
                return Grant("", frozenset(roles))
            if endpoint.role == "admin" and not self.may_administer(client):
                raise Forbidden
            return None
        if endpoint.role is None:
            return None
        grant = self.access.who(authorization, identities)
        if endpoint.role == "any":
            return grant
        check(grant, endpoint.role, *_queues(endpoint, queue))
        return grant


def check_origin(
    endpoint: Endpoint, scheme: str, host: bytes, origins: Sequence[str], related: Sequence[str]
) -> None:
    """Refuse to change anything for a web page that is not ours; browsers say where it is from, programs do not.

    Nothing ever allows a page to read an answer (no CORS fields), so what changes nothing needs no check.
    """
    if not endpoint.changes:
        return
    named = host.decode("latin-1")
    foreign = [each for each in origins if not is_same_origin(each, scheme, named)]
    if foreign or not set(related) <= {"same-origin", "none"}:
        raise CrossSite


def _queues(endpoint: Endpoint, queue: str) -> tuple[str | None, ...]:
    """Return the queues a request is about, None for all of them together."""
    match endpoint.scope:
        case "default":
            return (DEFAULT_QUEUE,)
        case "queue":
            return (queue,)
        case "server":
            return (None,)
        case "listed":
            return ()
