"""Every action in one table: what its request looks like, what does it, and who may ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from zapq.access.access import check
from zapq.access.grant import Grant, Role
from zapq.errors import Forbidden, RoleMissing
from zapq.sqs import messages, model, moves, permissions, queues
from zapq.sqs.attributes import target_of
from zapq.sqs.errors import NOT_SERIALIZED, SqsError, missing
from zapq.sqs.names import queue_of_arn, queue_of_url
from zapq.sqs.steps import Caller, Steps
from zapq.sqs.tasks import source_of

Need = Role | Literal["user", "any"]
"""What a token must be good for. `user`: producer or consumer. `any`: a token of any role will do."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action."""

    name: str
    request: type[model.Request]
    run: Callable[[Any, Caller], Steps]
    need: Need
    decode: Callable[[bytes], model.Request]
    required: tuple[tuple[str, str], ...]
    """What a request must have: each in the struct, and on the wire."""

    def read(self, body: bytes) -> model.Request:
        """Return the request that is written in JSON; raises `SqsError`."""
        try:
            return self.check(self.decode(body or b"{}"))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            # Also a ValidationError, which says where.
            raise SqsError(NOT_SERIALIZED, f"The request is not valid: {str(error)[:300]}.") from None

    def check(self, asked: model.Request) -> model.Request:
        """Return `asked` if it has what it must have; raises `SqsError`."""
        for field, name in self.required:
            if getattr(asked, field) is None:
                raise missing(name)
        return asked

    def admit(self, asked: model.Request, grant: Grant | None, *, may_administer: bool) -> None:
        """Raise `RoleMissing` or `Forbidden` unless the client may ask for this; no tokens, no grant."""
        if grant is None:
            if self.need == "admin" and not may_administer:
                raise Forbidden
            return
        names = queues_of(asked)
        if self.need == "any":
            if not all(map(grant.covers, names)):
                raise RoleMissing("This request needs a token for this queue.", role="metrics", token=grant.name)
        elif self.need == "user":
            check(grant, "consumer" if grant.has_role("consumer") else "producer", *names)
        else:
            check(grant, self.need, *names)


def queues_of(asked: model.Request) -> list[str]:
    """Return the queues a request is about; raises `SqsError` if it does not say."""
    match asked:
        case model.CreateQueue():
            return [asked.queue_name or "", *_target(asked.attributes)]
        case model.SetQueueAttributes():
            return [queue_of_url(asked.queue_url), *_target(asked.attributes)]
        case model.OfQueue() | model.SendMessage():
            return [queue_of_url(asked.queue_url)]
        case model.GetQueueUrl():
            return [asked.queue_name or ""]
        case model.StartMessageMoveTask():
            return [queue_of_arn(each) for each in (asked.source_arn, asked.destination_arn) if each]
        case model.ListMessageMoveTasks():
            return [queue_of_arn(asked.source_arn or "")]
        case model.CancelMessageMoveTask():
            return [source_of(asked.task_handle or "")]
        case _:
            return []


def _target(given: Mapping[str, str] | None) -> list[str]:
    """Return the queue dead letters are to go to: a client must be allowed to use that one as well."""
    target = target_of(given or {})
    return [] if target is None else [target]


def _action(request: type[model.Request], run: Callable[[Any, Caller], Steps], need: Need) -> Action:
    names = dict(zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True))
    required = tuple((field, names[field]) for field in request.required)
    return Action(request.__name__, request, run, need, msgspec.json.Decoder(request).decode, required)


ACTIONS = {
    each.name: each
    for each in (
        _action(model.SendMessage, messages.send_message, "producer"),
        _action(model.SendMessageBatch, messages.send_message_batch, "producer"),
        _action(model.ReceiveMessage, messages.receive_message, "consumer"),
        _action(model.DeleteMessage, messages.delete_message, "consumer"),
        _action(model.DeleteMessageBatch, messages.delete_message_batch, "consumer"),
        _action(model.ChangeMessageVisibility, messages.change_message_visibility, "consumer"),
        _action(model.ChangeMessageVisibilityBatch, messages.change_message_visibility_batch, "consumer"),
        _action(model.CreateQueue, queues.create_queue, "user"),
        _action(model.GetQueueUrl, queues.get_queue_url, "any"),
        _action(model.ListQueues, queues.list_queues, "any"),
        _action(model.ListDeadLetterSourceQueues, queues.list_dead_letter_source_queues, "any"),
        _action(model.GetQueueAttributes, queues.get_queue_attributes, "any"),
        _action(model.ListQueueTags, queues.list_queue_tags, "any"),
        _action(model.SetQueueAttributes, queues.set_queue_attributes, "admin"),
        _action(model.TagQueue, queues.tag_queue, "admin"),
        _action(model.UntagQueue, queues.untag_queue, "admin"),
        _action(model.PurgeQueue, queues.purge_queue, "admin"),
        _action(model.DeleteQueue, queues.delete_queue, "admin"),
        _action(model.AddPermission, permissions.add_permission, "admin"),
        _action(model.RemovePermission, permissions.remove_permission, "admin"),
        _action(model.StartMessageMoveTask, moves.start_message_move_task, "admin"),
        _action(model.ListMessageMoveTasks, moves.list_message_move_tasks, "any"),
        _action(model.CancelMessageMoveTask, moves.cancel_message_move_task, "admin"),
    )
}
