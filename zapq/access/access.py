"""The credentials in force, replaced as a whole when they are read again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hmac import compare_digest
from math import inf

from zapq.access import token_file
from zapq.access.certificate import NOBODY, Identities
from zapq.access.grant import Grant, Role
from zapq.access.token import digest, parse_bearer
from zapq.access.token_file import Credential
from zapq.errors import RoleMissing, Unauthenticated
from zapq.limits import CREDENTIALS_REMEMBERED
from zapq.settings import Settings

ENVIRONMENT = Grant("ZAPQ_TOKEN", frozenset({"admin"}))
"""The one token of a server that is not told of any others."""


class Access:
    """The credentials of one server. Without any, `configured` is False, and every client may do everything.

    Raises `InvalidSetting` for a token file that cannot be used.
    """

    def __init__(self, settings: Settings, *, wall: Callable[[], float] = time.time) -> None:
        self._path = settings.token_file
        self._token = digest(settings.token.encode()) if settings.token else b""
        self._wall = wall
        self._asks_for_certificates = bool(settings.tls_client_ca)
        self.on_change: list[Callable[[], object]] = []
        """Called when what is remembered of earlier answers is to be forgotten."""
        # What a client sends it sends with each request. Only its hash is looked up, and a comparison in constant
        # time has found it first.
        self._find = lru_cache(maxsize=CREDENTIALS_REMEMBERED)(self._search)
        self.configured = bool(self._path or self._token)
        self.until = inf
        """When the next credential ends, in seconds since the epoch: then an answer of `permits` may change."""
        self.use(self.read())

    @property
    def number(self) -> int:
        """How many credentials are in force."""
        return len(self._tokens) + len(self._certificates)

    def useless(self) -> Iterator[tuple[str, list[str], str]]:
        """Yield why credentials let no client in, the names of those, and the remedy."""
        now = self._wall()
        certificates = list(self._certificates.values())
        grants = [grant for _, grant in self._tokens] + certificates
        if names := [grant.name for grant in grants if grant.expires <= now]:
            yield "credentials have expired", names, "zapq token new makes a new line"
        if certificates and not self._asks_for_certificates:
            names = [grant.name for grant in certificates]
            yield "certificates count for nothing without --tls-client-ca", names, "--tls-client-ca FILE"

    def read(self) -> list[Credential]:
        """Return what the token file says now, for `use`; from any thread. Raises `InvalidSetting`."""
        return token_file.read(self._path) if self._path else []

    def use(self, credentials: Sequence[Credential]) -> None:
        """Let these credentials be in force, and no others but that of the environment, from now on."""
        tokens = [(each.digest, each.grant) for each in credentials if each.digest]
        if self._token:
            tokens.append((self._token, ENVIRONMENT))
        self._tokens = tokens
        self._certificates = {each.identity: each.grant for each in credentials if each.identity}
        self._forget()

    def who(self, authorization: bytes, identities: Identities = NOBODY) -> Grant:
        """Return what the holder of these credentials may do; a token says more than a certificate.

        `authorization` is the field's value, empty if there is none. Raises `Unauthenticated`.
        """
        grant = self._find(authorization, identities)
        if grant is None:
            if not authorization:
                raise Unauthenticated
            if parse_bearer(authorization) is None:
                raise Unauthenticated(
                    "The Authorization header is not valid. Send one, as `Authorization: Bearer TOKEN`.",
                    wrong=True,
                )
            raise Unauthenticated("The server does not know this token. Check it, or get a new one.", wrong=True)
        if grant.expires <= self._wall():
            raise expired(grant)
        return grant

    def find(self, authorization: bytes, identities: Identities) -> Grant | None:
        """Return what `who` returns, and None where that refuses."""
        grant = self._find(authorization, identities)
        return None if grant is None or grant.expires <= self._wall() else grant

    def expire(self, wall: float) -> None:
        """Have what is remembered forgotten if a credential has ended by `wall`."""
        if wall >= self.until:
            self._forget()

    def _forget(self) -> None:
        now = self._wall()
        grants = [grant for _, grant in self._tokens] + list(self._certificates.values())
        self.until = min((grant.expires for grant in grants if grant.expires > now), default=inf)
        self._find.cache_clear()
        for forget in self.on_change:
            forget()

    def _search(self, authorization: bytes, identities: Identities) -> Grant | None:
        if not authorization:
            # The first line of the file that is about one of them.
            return next((grant for each, grant in self._certificates.items() if each in identities), None)
        token = parse_bearer(authorization)
        if token is None:
            return None
        wanted, found = digest(token), None
        # All of them, and each in constant time: how long it takes tells nothing.
        for each, grant in self._tokens:
            if compare_digest(each, wanted):
                found = grant
        return found


def expired(grant: Grant) -> Unauthenticated:
    """Return the refusal of a credential that was good once."""
    return Unauthenticated("The credential has expired. Get a new one.", token=grant.name, wrong=True)


def check(grant: Grant, role: Role, *queues: str | None) -> None:
    """Raise `RoleMissing` unless `grant` has `role` for each of `queues`; None is all there are together."""
    if not grant.has_role(role):
        detail = f"This request needs the role {role}. Use a credential that has it."
        raise RoleMissing(detail, role=role, token=grant.name)
    for queue in queues:
        if not grant.covers(queue):
            which = "all queues" if queue is None else "this queue"
            detail = f"This request needs the role {role} for {which}. Use a credential that has it."
            raise RoleMissing(detail, role=role, token=grant.name)
