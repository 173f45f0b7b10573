"""Everything zapq refuses to do: one class for each thing a caller can do differently.

A class's docstring is what people read: what is wrong, then what to do. `status` is a hint for the layer that
speaks HTTP (nothing here knows HTTP), `problem` the stable name of the refusal, and `members` the facts that help
to act on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import ClassVar, Self


class ZapqError(Exception):
    """zapq refused the request."""

    problem: ClassVar[str] = "internal-error"
    status: int = 500
    retry_after: int | None = None
    """Seconds after which trying again makes sense; None where it does not."""
    challenge: str | None = None
    """The value of WWW-Authenticate; None where credentials are not the problem."""

    def __init__(self, detail: str | None = None, **members: object) -> None:
        self.detail = detail or self._with_figures(members) or " ".join((type(self).__doc__ or "").split())
        self.members = members
        super().__init__(self.detail)

    @classmethod
    def _with_figures(cls, members: Mapping[str, object]) -> str | None:
        """Return the detail that names the figures in `members`; None where there are none to name."""
        return None

    def anew(self) -> Self:
        """Return the same refusal, never raised: one that was raised holds the frames it passed."""
        again = type(self)(self.detail, **self.members)
        again.retry_after = self.retry_after
        again.challenge = self.challenge
        return again


class InvalidSetting(ZapqError):
    """A setting has a value that zapq cannot use. `zapq --help` lists the settings and what they take."""

    problem = "invalid-setting"


class CannotStart(ZapqError):
    """The server could not start. Correct the cause that the message names, and start it again."""

    problem = "cannot-start"


class InvalidParameter(ZapqError):
    """The request has a value that zapq cannot use. Correct the one that `parameter` names, and send it again."""

    problem = "invalid-parameter"
    status = 400


class QueueNotFound(ZapqError):
    """There is no queue of this name. Send it a message to make it, or make it with PUT /queues/NAME."""

    problem = "queue-not-found"
    status = 404


class MessageNotFound(ZapqError):
    """The queue holds no message with this id. GET /queues/NAME/messages lists the messages it holds."""

    problem = "message-not-found"
    status = 404


class MessageLeased(ZapqError):
    """A consumer holds the message. Nothing was changed. Try again when its lease is over, or purge the queue."""

    problem = "message-leased"
    status = 409


def moved_on(queue: str, id: int, now_in: str, now_id: int) -> MessageNotFound:
    """Return what to say of a message that failed: where it is now, and its id there."""
    return MessageNotFound(
        f"The message failed, and is message {now_id} of {now_in} now. Look for it there.",
        queue=queue,
        message_id=id,
        now_in=now_in,
        now_id=now_id,
    )


def leased_for(seconds: float, id: int) -> MessageLeased:
    """Return the refusal of what cannot be done to a message because a consumer has it, for so many seconds."""
    until = f" The lease lasts for another {seconds:.1f} s." if seconds < inf else ""
    return MessageLeased(f"A consumer holds the message. Nothing was changed.{until}", message_id=id)


def no_letter() -> InvalidParameter:
    """Return the refusal to send a message back that did not fail anywhere."""
    return InvalidParameter(
        "The message is not a dead letter that is ready, so there is no queue to send it back to. GET it: state"
        " and failed_in say what it is.",
        parameter="id",
    )


def no_queue_to_go_to(queue: str) -> QueueNotFound:
    """Return the refusal to send a message back that failed in a queue which is no more."""
    return QueueNotFound(
        f"The message failed in {queue}, and there is no such queue any more. Make it with PUT /queues/{queue}.",
        queue=queue,
    )


class QueueInUse(ZapqError):
    """The queue cannot be deleted, because it is in use. Purge it to remove its messages only."""

    problem = "queue-in-use"
    status = 409


class ReceiptExpired(ZapqError):
    """The lease is over: it expired, or its message was settled.

    Nothing was changed; receive the message again.
    """

    problem = "receipt-expired"
    status = 409


class KeyReused(ZapqError):
    """This Idempotency-Key was used for another message or batch. Nothing was stored. Use a new key for each."""

    problem = "idempotency-key-reused"
    status = 422


class UnsupportedType(ZapqError):
    """This endpoint does not take this Content-Type. Send a body of one of the types it takes."""

    problem = "unsupported-media-type"
    status = 415


class NotAcceptable(ZapqError):
    """The Accept header allows none of the types this endpoint can answer with. Allow one, or leave Accept out."""

    problem = "not-acceptable"
    status = 406


class Forbidden(ZapqError):
    """Without tokens, only requests from a loopback address may administer queues and snapshots.

    Send it to a loopback address such as 127.0.0.1 on the machine, or in the container, that zapq runs in. Or
    start zapq with --token-file, or with --admin-from any behind a firewall.
    """

    problem = "admin-loopback-only"
    status = 403


class HostNotAllowed(ZapqError):
    """This server does not answer for that host. Start zapq with --allowed-host NAME if it is one of its names."""

    problem = "host-not-allowed"
    status = 421


class CrossSite(ZapqError):
    """A web page of another origin sent this request. Nothing was changed.

    Send it from a program, not from a page.
    """

    problem = "cross-site"
    status = 403


class Unauthenticated(ZapqError):
    """This server needs a credential. Send a token as `Authorization: Bearer TOKEN`."""

    problem = "unauthenticated"
    status = 401
    challenge = 'Bearer realm="zapq"'

    def __init__(
        self, detail: str | None = None, *, wrong: bool = False, token: str | None = None, **members: object
    ) -> None:
        """`wrong` says that the client sent a credential; `token` is its name, for the log, if it has one."""
        super().__init__(detail, **members)
        self.token = token
        if wrong:
            self.challenge = f'{self.challenge}, error="invalid_token"'


class RoleMissing(ZapqError):
    """The credential does not have the role that this request needs. Use a credential that has it."""

    problem = "role-missing"
    status = 403

    def __init__(
        self, detail: str | None = None, *, role: str = "", token: str | None = None, **members: object
    ) -> None:
        """`role` is the one the request needs; `token` is the name, for the log, of the credential without it."""
        super().__init__(detail, role=role, **members)
        self.token = token
        self.challenge = f'Bearer realm="zapq", error="insufficient_scope", scope="{role}"'


class RequestTimedOut(ZapqError):
    """The request body did not arrive in time. Nothing was changed. Send it again, or raise --body-timeout."""

    problem = "request-timeout"
    status = 408


class ClientGone(ZapqError):
    """The client closed the connection before its request was complete. Nothing was changed. Send it again."""

    problem = "client-gone"
    status = 400


class MessageTooLarge(ZapqError):
    """The message is larger than the server accepts. Split it, or raise --max-message-bytes."""

    problem = "message-too-large"
    status = 413

    @classmethod
    def _with_figures(cls, members: Mapping[str, object]) -> str | None:
        match members:
            case {"max_bytes": most, "current": size}:
                how = f"has {size} bytes, and the server accepts {most}"
            case {"max_bytes": most}:
                how = f"is larger than the {most} bytes that the server accepts"
            case _:
                return None
        return f"The message {how}. Split it, or raise --max-message-bytes."


class BatchTooLarge(MessageTooLarge):
    """The batch is larger than the server accepts. Send it as several smaller batches."""

    problem = "batch-too-large"

    @classmethod
    def _with_figures(cls, members: Mapping[str, object]) -> str | None:
        if "max_bytes" not in members:
            return None
        return (
            f"The batch is larger than the {members['max_bytes']} bytes that the server accepts. Send it as"
            " several smaller batches."
        )


class QueueFull(ZapqError):
    """There is no room: the queue or the server is full.

    This request stored nothing. Send it again after Retry-After seconds.
    """

    problem = "queue-full"
    status = 429
    retry_after = 1

    @classmethod
    def _with_figures(cls, members: Mapping[str, object]) -> str | None:
        match members:
            case {"limit": "max_msgs", "current": current, "max_messages": most}:
                held = f"the server holds {current} of {most} messages (--max-msgs)"
            case {"limit": "max_messages", "current": current, "max_messages": most}:
                held = f"the queue holds {current} of {most} messages (max_messages)"
            case {"limit": "max_bytes", "current": current, "max_bytes": most}:
                # The cap of a queue and that of the server have one name.
                held = f"the queue or the server holds {current} of {most} bytes (max_bytes or --max-bytes)"
                if current == 0:
                    # Waiting does not help.
                    return (
                        f"There is no room: {held}, and this is larger. Nothing was stored. Send less at once, or"
                        " raise the limit."
                    )
            case _:
                return None
        return f"There is no room: {held}. This request stored nothing. Send it again after Retry-After seconds."


class ReceivingTooMuch(ZapqError):
    """The server has no memory left for more request bodies. Send the request again after Retry-After seconds."""

    problem = "receiving-too-much"
    status = 503
    retry_after = 1


class TooManyQueues(ZapqError):
    """The server has as many queues as --max-queues allows. Delete a queue, or raise --max-queues."""

    problem = "too-many-queues"
    status = 429
    retry_after = 60

    @classmethod
    def _with_figures(cls, members: Mapping[str, object]) -> str | None:
        match members:
            case {"max_queues": most}:
                return (
                    f"The server has as many queues as --max-queues allows: {most}. Delete a queue, or raise"
                    " --max-queues."
                )
        return None


class TooManyWaiters(ZapqError):
    """As many requests wait, for messages or for room, as --max-waiters allows.

    Send this one again after Retry-After seconds.
    """

    problem = "too-many-waiters"
    status = 429
    retry_after = 1


class TooManyDeduplicationIds(ZapqError):
    """The server knows as many deduplication ids as --max-deduplication-ids allows, each for five minutes.

    Nothing was stored. Send the message again after Retry-After seconds, or raise --max-deduplication-ids.
    """

    problem = "too-many-deduplication-ids"
    status = 429
    retry_after = 1


class Draining(ZapqError):
    """The server is draining or shutting down. Nothing was changed. Use another server, or send it again later."""

    problem = "draining"
    status = 503
    retry_after = 1


class StorageUnavailable(ZapqError):
    """The server cannot write to its disk. Nothing was changed.

    Send the request again after Retry-After seconds.
    """

    problem = "storage-unavailable"
    status = 503
    retry_after = 1

    def __init__(self, detail: str | None = None, *, reason: str = "", **members: object) -> None:
        """`reason` says in a few words why, such as what the system says of the disk."""
        if reason:
            detail = (
                f"The server cannot write to its disk: {reason}. Nothing was changed. Send the request again after"
                " Retry-After seconds."
            )
        super().__init__(detail, **members)


class OutcomeUnknown(ZapqError):
    """The engine that has the queues did not say whether it has done this. It may or may not have taken effect.

    Send the request again with the same Idempotency-Key, or without one only if doing it twice is harmless.
    """

    problem = "outcome-unknown"
    status = 503
    retry_after = 1


class NotWithEngine(ZapqError):
    """The queues of this server are in an engine elsewhere, which cannot do this.

    For snapshots, use .msgpack files, which hold all queues.
    """

    problem = "not-with-engine"
    status = 400


class NoTestClock(ZapqError):
    """The time of this server's queues cannot be moved on. Start a server for tests, with --test-clock."""

    problem = "no-test-clock"
    status = 403


class NotDurable(ZapqError):
    """This server keeps messages in memory only. Leave durability=committed out, or start it with --durable."""

    problem = "not-durable"
    status = 400


class SnapshotFailed(ZapqError):
    """The snapshot could not be written or read. The queues are as they were. Correct the cause, and try again."""

    problem = "snapshot-failed"
    status = 500


class SnapshotNotFound(SnapshotFailed):
    """There is no snapshot of that name in the data directory. GET /snapshots lists those there are."""

    problem = "snapshot-not-found"
    status = 404


class ProblemNotFound(ZapqError):
    """There is no problem of that name. GET /problems lists all of them."""

    problem = "problem-not-found"
    status = 404


class FileNotFound(ZapqError):
    """The page for browsers has no file of that name. Open /ui/ in a browser."""

    problem = "file-not-found"
    status = 404


class Unreachable(ZapqError):
    """The server could not be reached. Nothing was changed. Check that it runs, and that the URL is right."""

    problem = "unreachable"
    status = 503


class NoAnswer(ZapqError):
    """No answer arrived, so the request may or may not have taken effect.

    Send it again only if that is harmless.
    """

    problem = "no-answer"
    status = 504


class ServerError(ZapqError):
    """The answer did not come from zapq. Check that the URL is right, and what a proxy on the way does."""

    problem = "server-error"

    def __init__(self, detail: str | None = None, *, status: int = 500, **members: object) -> None:
        super().__init__(detail, **members)
        self.status = status


def _below(kind: type[ZapqError]) -> Iterator[type[ZapqError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


BY_PROBLEM = {each.problem: each for each in _below(ZapqError)}
"""The classes by the names their problem documents have."""
