"""Everything zapq refuses to do: one class for each thing a caller can do differently.

A class's docstring is its sentence for people. `status` is a hint for the layer that speaks HTTP (nothing
here knows HTTP), `problem` the stable name of the refusal, and `members` the facts that help to act on it.
"""

from __future__ import annotations

from typing import ClassVar


class ZapqError(Exception):
    """zapq refused."""

    problem: ClassVar[str] = "internal-error"
    status: int = 500
    retry_after: int | None = None
    """Seconds after which trying again makes sense; None where it does not."""
    challenge: str | None = None
    """What to show to be let in, as the field WWW-Authenticate says it; None where that is not the question."""

    def __init__(self, detail: str | None = None, **members: object) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.members = members
        super().__init__(self.detail)


class InvalidSetting(ZapqError):
    """A setting has a value zapq cannot use."""

    problem = "invalid-setting"


class CannotStart(ZapqError):
    """The server could not start."""

    problem = "cannot-start"


class InvalidParameter(ZapqError):
    """A query parameter has a value zapq cannot use."""

    problem = "invalid-parameter"
    status = 400


class QueueNotFound(ZapqError):
    """There is no such queue. The first message sent to it makes it, or PUT /queues/NAME."""

    problem = "queue-not-found"
    status = 404


class MessageNotFound(ZapqError):
    """The queue does not hold this message; it may have been delivered."""

    problem = "message-not-found"
    status = 404


class QueueInUse(ZapqError):
    """The queue cannot be removed."""

    problem = "queue-in-use"
    status = 409


class ReceiptExpired(ZapqError):
    """The lease is over: the message was released, or is somebody else's by now. Nothing was changed."""

    problem = "receipt-expired"
    status = 409


class KeyReused(ZapqError):
    """The Idempotency-Key was used for something else. Use a new key for each message or batch."""

    problem = "idempotency-key-reused"
    status = 422


class UnsupportedType(ZapqError):
    """The Content-Type is none this endpoint takes."""

    problem = "unsupported-media-type"
    status = 415


class NotAcceptable(ZapqError):
    """The Accept field allows none of the types this endpoint gives."""

    problem = "not-acceptable"
    status = 406


class Forbidden(ZapqError):
    """This request is not allowed from where it came."""

    problem = "admin-loopback-only"
    status = 403


class HostNotAllowed(ZapqError):
    """This server does not answer for that host. Start zapq with --allowed-host NAME if it is one of its names."""

    problem = "host-not-allowed"
    status = 421


class CrossSite(ZapqError):
    """A web page of another origin made a browser send this. Nothing was changed."""

    problem = "cross-site"
    status = 403


class Unauthenticated(ZapqError):
    """This server wants to know who asks: send Authorization: Bearer and a token."""

    problem = "unauthenticated"
    status = 401
    challenge = 'Bearer realm="zapq"'

    def __init__(
        self, detail: str | None = None, *, wrong: bool = False, token: str | None = None, **members: object
    ) -> None:
        """`wrong` says that a credential was shown; `token` is its name, for the log, if it has one."""
        super().__init__(detail, **members)
        self.token = token
        if wrong:
            self.challenge = f'{self.challenge}, error="invalid_token"'


class RoleMissing(ZapqError):
    """Whoever asks may not do this."""

    problem = "role-missing"
    status = 403

    def __init__(
        self, detail: str | None = None, *, role: str = "", token: str | None = None, **members: object
    ) -> None:
        """`role` is the one it takes; `token` is the name, for the log, of the credential that lacks it."""
        super().__init__(detail, role=role, **members)
        self.token = token
        self.challenge = f'Bearer realm="zapq", error="insufficient_scope", scope="{role}"'


class RequestTimedOut(ZapqError):
    """The request body did not arrive in time. Send it again, faster."""

    problem = "request-timeout"
    status = 408


class ClientGone(ZapqError):
    """The client left before its request was complete; nothing was changed."""

    problem = "client-gone"
    status = 400


class MessageTooLarge(ZapqError):
    """The message is larger than this server takes. Split it, or raise --max-message-bytes."""

    problem = "message-too-large"
    status = 413


class BatchTooLarge(MessageTooLarge):
    """The batch is larger than zapq takes. Send it in parts."""

    problem = "batch-too-large"


class QueueFull(ZapqError):
    """The queue is at its cap. Nothing was stored; send the message again after Retry-After seconds."""

    problem = "queue-full"
    status = 429
    retry_after = 1


class ReceivingTooMuch(ZapqError):
    """The server is receiving as much as it can of what is no message. Come back after Retry-After seconds."""

    problem = "receiving-too-much"
    status = 503
    retry_after = 1


class TooManyQueues(ZapqError):
    """There are as many queues as --max-queues allows. Remove one, or raise it."""

    problem = "too-many-queues"
    status = 429
    retry_after = 60


class TooManyWaiters(ZapqError):
    """Too many requests are waiting for messages. Come back after Retry-After seconds."""

    problem = "too-many-waiters"
    status = 429
    retry_after = 1


class Draining(ZapqError):
    """The server is draining or shutting down. Nothing was changed; use another server or come back later."""

    problem = "draining"
    status = 503
    retry_after = 1


class StorageUnavailable(ZapqError):
    """The disk takes no changes at the moment. Nothing was changed; send it again after Retry-After seconds."""

    problem = "storage-unavailable"
    status = 503
    retry_after = 1


class NotDurable(ZapqError):
    """This server keeps messages in memory. Start it with --durable, or do not ask for durability=committed."""

    problem = "not-durable"
    status = 400


class SnapshotFailed(ZapqError):
    """The snapshot could not be written or read; the queue is as it was."""

    problem = "snapshot-failed"
    status = 500


class Unreachable(ZapqError):
    """The server could not be reached, so nothing was changed. Is it running, and is the URL right?"""

    problem = "unreachable"
    status = 503


class NoAnswer(ZapqError):
    """The answer did not arrive: the server may have acted on the request, or not."""

    problem = "no-answer"
    status = 504


class ServerError(ZapqError):
    """The server, or something on the way to it, gave an answer that is none of zapq's."""

    problem = "server-error"

    def __init__(self, detail: str | None = None, *, status: int = 500, **members: object) -> None:
        super().__init__(detail, **members)
        self.status = status


BY_PROBLEM = {each.problem: each for each in ZapqError.__subclasses__()}
"""The classes by the names their problem documents have."""
