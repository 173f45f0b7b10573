"""SQS in JSON 1.0, as SDKs speak it since November 2023."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from zapq.sqs.actions import ACTIONS, Action
from zapq.sqs.answer import Answer
from zapq.sqs.errors import UNKNOWN_ACTION, SqsError
from zapq.sqs.model import Result

MEDIA_TYPE = "application/x-amz-json-1.0"
TARGET = "AmazonSQS."
encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def find(target: str) -> Action:
    """Return the action that an X-Amz-Target names; raises `SqsError`."""
    action = ACTIONS.get(target.removeprefix(TARGET)) if target.startswith(TARGET) else None
    if action is None:
        raise SqsError(UNKNOWN_ACTION, f"The action {target[:100]} is not valid for this endpoint.")
    return action


def answer(action: Action, result: Result, request_id: str) -> Answer:
    """Return the answer to a request that was done."""
    return Answer(200, MEDIA_TYPE, encode(result))


def refusal(error: SqsError, request_id: str) -> Answer:
    """Return the answer to one that was refused."""
    kind = error.kind
    fields = {"x-amzn-query-error": f"{kind.code};{'Sender' if kind.sender else 'Receiver'}"}
    return Answer(kind.status, MEDIA_TYPE, encode({"__type": kind.shape, "message": error.message}), fields)
