"""Everything zapq refuses to do: one class for each thing a caller can do differently.

A class's docstring is its sentence for people. `status` is a hint for the layer that speaks HTTP (nothing
here knows HTTP), `problem` the stable name of the refusal, and `members` the facts that help to act on it.
"""

from __future__ import annotations

from typing import ClassVar


class ZapqError(Exception):
    """zapq refused."""

    problem: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    retry_after: ClassVar[int | None] = None
    """Seconds after which trying again makes sense; None where it does not."""

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


class Forbidden(ZapqError):
    """This request is not allowed from where it came."""

    problem = "admin-loopback-only"
    status = 403


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


class QueueFull(ZapqError):
    """The queue is at its cap. Nothing was stored; send the message again after Retry-After seconds."""

    problem = "queue-full"
    status = 429
    retry_after = 1


class TooManyWaiters(ZapqError):
    """Too many requests are waiting for messages. Come back after Retry-After seconds."""

    problem = "too-many-waiters"
    status = 429
    retry_after = 1


class Draining(ZapqError):
    """The server is shutting down. Nothing was changed; use another server or come back later."""

    problem = "draining"
    status = 503
    retry_after = 1


class SnapshotFailed(ZapqError):
    """The snapshot could not be written or read; the queue is as it was."""

    problem = "snapshot-failed"
    status = 500
