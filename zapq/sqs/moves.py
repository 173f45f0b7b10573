"""The actions that move dead letters back to where they failed, or to another queue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from fnmatch import fnmatchcase

from zapq.errors import QueueNotFound, RoleMissing, ZapqError
from zapq.service.operations import Describe, List
from zapq.service.queue_state import QueueInfo
from zapq.sqs import model
from zapq.sqs.attributes import is_fifo, now_ms
from zapq.sqs.errors import INVALID_PARAMETER_VALUE, RESOURCE_NOT_FOUND, SqsError
from zapq.sqs.names import queue_of_arn
from zapq.sqs.steps import Caller, Steps
from zapq.sqs.tasks import Task, task_of

MAX_RATE = 500
MAX_LISTED = 10


def _no_resource(parameter: str) -> SqsError:
    return SqsError(
        RESOURCE_NOT_FOUND, f"The resource that you specified for the {parameter} parameter doesn't exist."
    )


def _bad_destination(reason: str) -> SqsError:
    return SqsError(INVALID_PARAMETER_VALUE, f"Value for parameter DestinationArn is invalid. Reason: {reason}")


def start_message_move_task(asked: model.StartMessageMoveTask, caller: Caller) -> Steps:
    """Begin to move the dead letters of a queue."""
    source = queue_of_arn(asked.source_arn or "")
    destination = None if asked.destination_arn is None else queue_of_arn(asked.destination_arn)
    rate = asked.max_number_of_messages_per_second
    if rate is not None and not 1 <= rate <= MAX_RATE:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"Value {rate} for parameter MaxNumberOfMessagesPerSecond is invalid. Reason: You must enter a value"
            f" between 1 and {MAX_RATE}.",
        )
    info: QueueInfo
    try:
        info = yield Describe(source)
    except ZapqError as error:
        raise _missing(error, "SourceArn") from None
    infos: Sequence[QueueInfo] = yield List()
    feeders = [each.name for each in infos if each.settings.dead_letter == source]
    if not feeders:
        raise SqsError(INVALID_PARAMETER_VALUE, "Source queue must be configured as a Dead Letter Queue.")
    if destination is None and not all(fnmatchcase(each, caller.queues) for each in feeders):
        # With a destination, the guard has looked at that.
        raise RoleMissing(
            "Messages would go back to queues that this token is not for. Give a DestinationArn, or use a token"
            " for those queues as well.",
            role="admin",
        )
    if destination is not None:
        try:
            yield Describe(destination)
        except ZapqError as error:
            raise _missing(error, "DestinationArn") from None
    if destination == source:
        raise _bad_destination("It is the source queue.")
    if destination is not None and is_fifo(destination) != is_fifo(source):
        raise _bad_destination("It must be of the same type as the source queue.")
    if any(each.running for each in caller.tasks.of(source)):
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            "There is already a task running. Only one active task is allowed for a source queue arn at a given"
            " time.",
        )
    task = Task(str(uuid.uuid4()), source, destination, rate, info.stats.ready, now_ms())
    caller.tasks.add(task)
    return model.StartMessageMoveTaskResult(task_handle=task.handle(caller.place))


def _missing(error: ZapqError, parameter: str) -> SqsError | ZapqError:
    return _no_resource(parameter) if isinstance(error, QueueNotFound) else error


def list_message_move_tasks(asked: model.ListMessageMoveTasks, caller: Caller) -> Steps:
    """Show the last tasks of a queue."""
    source, place = queue_of_arn(asked.source_arn or ""), caller.place
    most = 1 if asked.max_results is None else asked.max_results
    if not 1 <= most <= MAX_LISTED:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"Value {most} for parameter MaxResults is invalid. Reason: Must be between 1 and {MAX_LISTED}.",
        )
    try:
        yield Describe(source)
    except ZapqError as error:
        raise _missing(error, "SourceArn") from None
    return model.ListMessageMoveTasksResult(
        results=[
            model.MoveTask(
                task_handle=each.handle(place) if each.running else None,
                status=each.status,
                source_arn=place.arn_of(source),
                destination_arn=None if each.destination is None else place.arn_of(each.destination),
                max_number_of_messages_per_second=each.rate,
                approximate_number_of_messages_moved=each.moved,
                approximate_number_of_messages_to_move=each.to_move,
                failure_reason=each.failure,
                started_timestamp=each.started,
            )
            for each in caller.tasks.of(source)[:most]
        ]
    )


def cancel_message_move_task(asked: model.CancelMessageMoveTask, caller: Caller) -> Steps:
    """Stop a task; what it has moved stays moved."""
    task = task_of(asked.task_handle or "", caller.tasks)
    yield Describe(task.source)
    if not task.running:
        raise SqsError(INVALID_PARAMETER_VALUE, "Only active tasks can be cancelled.")
    task.status = "CANCELLED"
    return model.CancelMessageMoveTaskResult(approximate_number_of_messages_moved=task.moved)
