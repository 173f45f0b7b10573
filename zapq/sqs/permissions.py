"""The actions that edit a queue's policy. It is kept and shown, and decides nothing: tokens do."""

from __future__ import annotations

import re

import msgspec

from zapq.service.operations import ChangeSettings, Describe
from zapq.service.queue_state import QueueInfo
from zapq.sqs import model
from zapq.sqs.attributes import MODIFIED, now_ms, text_of
from zapq.sqs.errors import INVALID_PARAMETER_VALUE, OVER_LIMIT, SqsError, bad_value, missing
from zapq.sqs.names import queue_of_url
from zapq.sqs.steps import Caller, Steps

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_ACTIONS = frozenset({
    "*",
    "ChangeMessageVisibility",
    "DeleteMessage",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListDeadLetterSourceQueues",
    "PurgeQueue",
    "ReceiveMessage",
    "SendMessage",
})
_POLICY = "sqs:Policy"


class _Policy(msgspec.Struct, omit_defaults=False):
    version: str = msgspec.field(name="Version", default="2008-10-17")
    id: str = msgspec.field(name="Id", default="")
    statements: list[dict[str, object]] = msgspec.field(name="Statement", default_factory=list)


def add_permission(asked: model.AddPermission, caller: Caller) -> Steps:
    """Add a statement to the policy."""
    queue, label = queue_of_url(asked.queue_url), asked.label or ""
    accounts, actions = asked.aws_account_ids or [], asked.actions or []
    if not _LABEL.fullmatch(label):
        raise bad_value(label[:200], "Label", "Must be 1 to 80 letters, digits, hyphens and underscores.")
    for action in actions:
        if action not in _ACTIONS:
            raise bad_value(
                f"SQS:{action[:200]}",
                "ActionName",
                "Only the queue owner is allowed to invoke this action.",
            )
    if not actions:
        raise missing("Actions")
    if not accounts:
        raise bad_value("[]", "PrincipalId", "Unable to verify.")
    if len(actions) > 7:
        raise SqsError(OVER_LIMIT, f"{len(actions)} Actions were found, maximum allowed is 7.")
    info: QueueInfo = yield Describe(queue)
    policy = _read(info, caller)
    if any(each.get("Sid") == label for each in policy.statements):
        raise bad_value(label, "Label", "Already exists.")
    principals = [f"arn:aws:iam::{account}:root" for account in accounts]
    names = [f"SQS:{action}" for action in actions]
    policy.statements.append({
        "Sid": label,
        "Effect": "Allow",
        "Principal": {"AWS": principals[0] if len(principals) == 1 else principals},
        "Action": names[0] if len(names) == 1 else names,
        "Resource": caller.place.arn_of(queue),
    })
    yield _set(queue, policy)
    return model.NOTHING


def remove_permission(asked: model.RemovePermission, caller: Caller) -> Steps:
    """Remove the statement with this label."""
    queue, label = queue_of_url(asked.queue_url), asked.label or ""
    info: QueueInfo = yield Describe(queue)
    policy = _read(info, caller)
    left = [each for each in policy.statements if each.get("Sid") != label]
    if len(left) == len(policy.statements):
        raise bad_value(label[:200], "Label", "can't find label.")
    policy.statements = left
    yield _set(queue, policy)
    return model.NOTHING


def _read(info: QueueInfo, caller: Caller) -> _Policy:
    text = text_of(info.settings, "Policy")
    if not text:
        return _Policy(id=f"{caller.place.arn_of(info.name)}/SQSDefaultPolicy")
    try:
        return msgspec.json.decode(text, type=_Policy)
    except msgspec.DecodeError:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            "The queue's Policy is not one that permissions can be added to or removed from.",
        ) from None


def _set(queue: str, policy: _Policy) -> ChangeSettings:
    text = msgspec.json.encode(policy).decode() if policy.statements else None
    return ChangeSettings(queue, {"notes": {_POLICY: text, MODIFIED: str(now_ms())}})
