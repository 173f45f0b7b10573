"""What SQS calls each thing that can go wrong, and in which words: clients compare both.

An error has three names. Its shape chooses the class of exception in an SDK; its code is from before JSON was
spoken, and most programs compare that one, so it travels in a header of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from zapq.errors import (
    BatchTooLarge,
    ClientGone,
    CrossSite,
    Forbidden,
    HostNotAllowed,
    InvalidParameter,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
    RequestTimedOut,
    RoleMissing,
    TooManyDeduplicationIds,
    TooManyQueues,
    TooManyWaiters,
    Unauthenticated,
    ZapqError,
)

_SQS = "com.amazonaws.sqs#"
_CORAL = "com.amazon.coral.service#"
_OLD = "AWS.SimpleQueueService."


class Kind(NamedTuple):
    """One kind of error."""

    shape: str
    """Its name in JSON."""
    code: str
    """Its name in the query protocol."""
    status: int = 400

    @property
    def sender(self) -> bool:
        """Whether the client has to change something."""
        return self.status < 500


QUEUE_DOES_NOT_EXIST = Kind(f"{_SQS}QueueDoesNotExist", f"{_OLD}NonExistentQueue")
QUEUE_NAME_EXISTS = Kind(f"{_SQS}QueueNameExists", "QueueAlreadyExists")
BATCH_ENTRY_IDS_NOT_DISTINCT = Kind(f"{_SQS}BatchEntryIdsNotDistinct", f"{_OLD}BatchEntryIdsNotDistinct")
BATCH_REQUEST_TOO_LONG = Kind(f"{_SQS}BatchRequestTooLong", f"{_OLD}BatchRequestTooLong")
EMPTY_BATCH_REQUEST = Kind(f"{_SQS}EmptyBatchRequest", f"{_OLD}EmptyBatchRequest")
INVALID_BATCH_ENTRY_ID = Kind(f"{_SQS}InvalidBatchEntryId", f"{_OLD}InvalidBatchEntryId")
TOO_MANY_ENTRIES = Kind(f"{_SQS}TooManyEntriesInBatchRequest", f"{_OLD}TooManyEntriesInBatchRequest")
MESSAGE_NOT_INFLIGHT = Kind(f"{_SQS}MessageNotInflight", f"{_OLD}MessageNotInflight")
UNSUPPORTED_OPERATION = Kind(f"{_SQS}UnsupportedOperation", f"{_OLD}UnsupportedOperation")
INVALID_ATTRIBUTE_NAME = Kind(f"{_SQS}InvalidAttributeName", "InvalidAttributeName")
INVALID_ATTRIBUTE_VALUE = Kind(f"{_SQS}InvalidAttributeValue", "InvalidAttributeValue")
RECEIPT_HANDLE_IS_INVALID = Kind(f"{_SQS}ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid")
INVALID_MESSAGE_CONTENTS = Kind(f"{_SQS}InvalidMessageContents", "InvalidMessageContents")
OVER_LIMIT = Kind(f"{_SQS}OverLimit", "OverLimit", 403)
REQUEST_THROTTLED = Kind(f"{_SQS}RequestThrottled", "RequestThrottled", 429)
RESOURCE_NOT_FOUND = Kind(f"{_SQS}ResourceNotFoundException", "ResourceNotFoundException", 404)
INVALID_PARAMETER_VALUE = Kind(f"{_CORAL}InvalidParameterValueException", "InvalidParameterValue")
MISSING_PARAMETER = Kind(f"{_CORAL}MissingRequiredParameterException", "MissingParameter")
ACCESS_DENIED = Kind(f"{_CORAL}AccessDeniedException", "AccessDenied", 403)
UNKNOWN_CREDENTIAL = Kind(f"{_CORAL}UnrecognizedClientException", "InvalidClientTokenId", 403)
NO_CREDENTIAL = Kind(f"{_CORAL}MissingAuthenticationTokenException", "MissingAuthenticationToken", 403)
UNKNOWN_ACTION = Kind(f"{_CORAL}UnknownOperationException", "InvalidAction")
NOT_SERIALIZED = Kind(f"{_CORAL}SerializationException", "MalformedInput")
UNAVAILABLE = Kind(f"{_CORAL}ServiceUnavailableException", "ServiceUnavailable", 503)
INTERNAL = Kind(f"{_CORAL}InternalFailure", "InternalFailure", 500)
_GENERAL = Kind(f"{_SQS}InvalidAddress", "InvalidAddress")


_LONGEST = 1000
"""Characters of a refusal's text: enough for every one of Amazon's with a receipt handle in it."""


class SqsError(Exception):
    """A request is refused, in the words of SQS."""

    def __init__(self, kind: Kind, message: str, *, retry_after: int | None = None) -> None:
        # It may repeat what the client has sent.
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
        super().__init__(self.message)
        self.kind = kind
        self.retry_after = retry_after


def missing(parameter: str) -> SqsError:
    """Return the refusal of a request without a parameter that it must have."""
    return SqsError(MISSING_PARAMETER, f"The request must contain the parameter {parameter}.")


def bad_value(value: object, parameter: str, reason: str) -> SqsError:
    """Return the refusal of a parameter's value, in the form most of them have."""
    return SqsError(
        INVALID_PARAMETER_VALUE, f"Value {value} for parameter {parameter} is invalid. Reason: {reason}"
    )


def no_such_queue() -> SqsError:
    """Return the refusal of a queue that is not there."""
    return SqsError(QUEUE_DOES_NOT_EXIST, "The specified queue does not exist.")


def too_long(limit: int, *, in_batch: bool = False) -> SqsError:
    """Return the refusal of a message that is longer than `limit` bytes."""
    how = "cannot be validated" if in_batch else "are invalid"
    return SqsError(
        INVALID_PARAMETER_VALUE,
        f"One or more parameters {how}. Reason: Message must be shorter than {limit} bytes.",
    )


def bad_receipt(handle: str) -> SqsError:
    """Return the refusal of what is no receipt handle of this queue."""
    shown = handle[:200]
    return SqsError(
        RECEIPT_HANDLE_IS_INVALID, f'The input receipt handle "{shown}" is not a valid receipt handle.'
    )


def unsupported(message: str) -> SqsError:
    """Return the refusal of what this server cannot do."""
    return SqsError(UNSUPPORTED_OPERATION, message)


def as_sqs(error: ZapqError) -> SqsError:
    """Return a refusal of zapq's in the words of SQS."""
    match error:
        case QueueNotFound():
            return no_such_queue()
        case InvalidParameter() if error.members.get("parameter") == "queue":
            return no_such_queue()  # none can be called so
        case TooManyQueues():
            kind = OVER_LIMIT
        case QueueFull() | TooManyWaiters() | TooManyDeduplicationIds():
            kind = REQUEST_THROTTLED
        case BatchTooLarge():
            kind = BATCH_REQUEST_TOO_LONG
        case MessageTooLarge():
            limit = error.members.get("max_bytes")
            return too_long(limit) if isinstance(limit, int) else SqsError(INVALID_PARAMETER_VALUE, error.detail)
        case Unauthenticated():
            if error.challenge == Unauthenticated.challenge:
                return SqsError(NO_CREDENTIAL, _SHOW_TOKEN)
            return SqsError(UNKNOWN_CREDENTIAL, f"The security token included in the request is invalid. {_SHOW}")
        case RoleMissing() | Forbidden() | CrossSite():
            kind = ACCESS_DENIED
        case HostNotAllowed():
            kind = _GENERAL._replace(status=error.status)
        case InvalidParameter() | ReceiptExpired() | RequestTimedOut() | ClientGone():
            kind = INVALID_PARAMETER_VALUE
        case _ if error.status in {503, 504}:
            kind = UNAVAILABLE
        case _ if error.status >= 500:
            kind = INTERNAL
        case _:
            kind = INVALID_PARAMETER_VALUE
    return SqsError(kind, error.detail, retry_after=error.retry_after)


_SHOW = "Give a zapq token as the access key id."
_SHOW_TOKEN = f"Request is missing Authentication Token. {_SHOW}"


def problem_of(error: Exception) -> str:
    """Return under which name a refusal is counted: that of the problem, or the code that only SQS has."""
    if isinstance(error, ZapqError):
        return error.problem
    return error.kind.code if isinstance(error, SqsError) else INTERNAL.code
