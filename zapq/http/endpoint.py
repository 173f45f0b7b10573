"""What an endpoint is: one way to ask for one operation. The endpoints there are, are in `endpoints.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from zapq.access.grant import Role
from zapq.errors import BatchTooLarge, MessageTooLarge
from zapq.http.plan import Asked, Frame, Plan
from zapq.limits import MAX_BATCH_BYTES, MAX_SQS_BYTES
from zapq.service.operations import Operation

if TYPE_CHECKING:
    from zapq.service.reservation import Reservation

Scope = Literal["default", "queue", "server", "listed"]
"""Which queue a credential must be good for: the default one, the one in the path, all, or those it then lists."""


class Body(Enum):
    """What the body of a request is."""

    NONE = "refused, unless it is empty"
    IGNORED = "read and ignored, as the original does"
    MESSAGE = "a message"
    BATCH = "a batch of messages"
    SETTLEMENTS = "settlements"
    SETTINGS = "a queue's settings"
    SQS = "a request of SQS"

    @property
    def stored(self) -> bool:
        """Whether it becomes messages, so that room for it is reserved among them."""
        return self in {Body.MESSAGE, Body.BATCH}

    def limit(self, max_message_bytes: int) -> tuple[int, type[MessageTooLarge]]:
        """Return how long it may be, and how a longer one is refused."""
        if self is Body.SQS:
            return MAX_SQS_BYTES, MessageTooLarge
        if self in {Body.BATCH, Body.SETTLEMENTS}:
            return MAX_BATCH_BYTES, BatchTooLarge
        return max_message_bytes, MessageTooLarge


class Fill(Protocol):
    """Makes the operation."""

    def __call__(
        self,
        plan: Plan,
        body: bytes,
        argument: str,
        key: str,
        *,
        exempt_from_drain: bool = False,
        reserved: Reservation | None = None,
    ) -> Operation:
        """`argument` is the receipt, message id, group or key that was asked for, `key` the Idempotency-Key.

        `Offer` has the rest.
        """


Audit = Callable[[Any, Any], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask for one operation."""

    action: str
    """What it does, in a word or two; its name in the log."""
    method: str
    path: str
    """With `{queue}`, `{receipt}`, `{id}`, `{problem}`, `{file}` for what varies."""
    plan: Callable[[Asked], Plan]
    render: Callable[[Plan, Any, Any, Frame], bytes]
    """Gets the plan, the operation, its outcome and the frame."""
    fill: Fill | None = None
    """Adds what differs from request to request; None if the plan is the operation already."""
    role: Role | Literal["any"] | None = None
    """`any`: one must be shown where there are credentials, with any role. None: a probe has no credentials,
    and what the documentation says is no secret."""
    scope: Scope = "queue"
    takes: tuple[str, ...] = ()
    """Query parameters."""
    body: Body = Body.NONE
    keyed: bool = False
    """Whether an Idempotency-Key makes it safe to repeat."""
    changes: bool = True
    """Whether it changes something: then web pages of others must not send it."""
    fast: bool = True
    """Whether the fast road may answer it."""
    large: bool = False
    """Whether its answer may take milliseconds to make."""
    audit: Audit | None = None
    """What the log says of it, if an administrator's action is what it is."""
