"""The actions on queues: make, find, list, set, show, empty and remove them; their tags."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from zapq.core.queue_settings import QueueSettings, changed
from zapq.errors import InvalidParameter, QueueInUse, QueueNotFound
from zapq.limits import DEFAULT_QUEUE
from zapq.service.operations import ChangeSettings, Configure, Delete, Describe, List, Purge
from zapq.service.queue_state import QueueInfo
from zapq.sqs import attributes, model
from zapq.sqs.attributes import MODIFIED, PURGED, Changes, now_ms
from zapq.sqs.errors import (
    INVALID_PARAMETER_VALUE,
    QUEUE_NAME_EXISTS,
    SqsError,
    bad_value,
    missing,
)
from zapq.sqs.names import CREATED, check_new_name, queue_of_url
from zapq.sqs.noted import SCOPE, TAG
from zapq.sqs.steps import Caller, Steps

PAGE = 1000
"""Queues in one answer at most."""


def create_queue(asked: model.CreateQueue, caller: Caller) -> Steps:
    """Make a queue. If there is one, its attributes must be those that are given."""
    name, given, tags = asked.queue_name or "", asked.attributes or {}, asked.tags or {}
    check_new_name(name)
    changes = attributes.changes_by(name, given, create=True)
    attributes.check_tags(name, tags)
    result = model.QueueUrlResult(queue_url=caller.place.url_of(name))
    try:
        info: QueueInfo | None = yield Describe(name)
    except QueueNotFound:
        info = None
    except InvalidParameter as error:
        raise bad_value(name, "QueueName", error.detail) from None
    if info is not None and not _is_as_made(info):
        different = attributes.differing(changes, info.settings)
        if different is not None:
            raise SqsError(
                QUEUE_NAME_EXISTS,
                f"A queue already exists with the same name and a different value for attribute {different}",
            )
        return result
    yield from _check_target(name, given)
    if scope := given.get("DeduplicationScope"):
        changes = {**changes, "notes": {**_notes(changes), SCOPE: scope}}
    now = str(now_ms())
    notes = {
        **_notes(changes),
        **{f"{TAG}{key}": value for key, value in tags.items()},
        CREATED: now,
        MODIFIED: now,
    }
    yield Configure(name, changed(QueueSettings(), {**changes, "notes": notes}))
    return result


def _is_as_made(info: QueueInfo) -> bool:
    """Whether it is the default queue, which is always there, and no client has used it."""
    stats = info.stats
    untouched = info.settings == QueueSettings() and not info.paused
    return info.name == DEFAULT_QUEUE and untouched and not stats.messages and not stats.enqueued


def _notes(changes: Changes) -> dict[str, str | None]:
    notes = changes.get("notes")
    return notes if isinstance(notes, dict) else {}


def _check_target(name: str, given: Mapping[str, str]) -> Steps:
    """Raise `SqsError` unless dead letters can go where they are to."""
    target = attributes.target_of(given)
    if target is not None:
        try:
            settings: QueueSettings | None = (yield Describe(target)).settings
        except (QueueNotFound, InvalidParameter):
            settings = None
        attributes.check_target(given["RedrivePolicy"], name, target, settings)
    return model.NOTHING


def get_queue_url(asked: model.GetQueueUrl, caller: Caller) -> Steps:
    """Find a queue by its name."""
    name = asked.queue_name or ""
    yield Describe(name)
    return model.QueueUrlResult(queue_url=caller.place.url_of(name))


def list_queues(asked: model.ListQueues, caller: Caller) -> Steps:
    """List the queues the client may know of, in the order of their names."""
    infos: Sequence[QueueInfo] = yield List(caller.queues)
    prefix = asked.queue_name_prefix or ""
    names = [each.name for each in infos if each.name.startswith(prefix) and not _is_as_made(each)]
    page, token = _page(names, asked.max_results, asked.next_token)
    return model.ListQueuesResult(queue_urls=[caller.place.url_of(each) for each in page], next_token=token)


def list_dead_letter_source_queues(asked: model.ListDeadLetterSourceQueues, caller: Caller) -> Steps:
    """List the queues whose dead letters go to this one."""
    queue = queue_of_url(asked.queue_url)
    yield Describe(queue)
    infos: Sequence[QueueInfo] = yield List(caller.queues)
    names = [each.name for each in infos if each.settings.dead_letter == queue]
    page, token = _page(names, asked.max_results, asked.next_token)
    return model.ListDeadLetterSourceQueuesResult(
        queue_urls=[caller.place.url_of(each) for each in page], next_token=token
    )


def _page(names: Sequence[str], most: int | None, token: str | None) -> tuple[Sequence[str], str | None]:
    """Return the names of one page, and where the next one begins: if a size was asked for, and there is more."""
    if most is not None and not 1 <= most <= PAGE:
        raise bad_value(most, "MaxResults", f"MaxResults must be an integer between 1 and {PAGE}.")
    if token is not None:
        try:
            after = base64.b64decode(token, validate=True).decode()
        except (binascii.Error, ValueError):
            raise SqsError(INVALID_PARAMETER_VALUE, "Invalid or expired next token.") from None
        names = [each for each in names if each > after]
    page = names[: most or PAGE]
    if most is None or len(names) <= most:
        return page, None
    return page, base64.b64encode(page[-1].encode()).decode()


def delete_queue(asked: model.DeleteQueue, caller: Caller) -> Steps:
    """Remove a queue with all it holds. Queues whose dead letters went there have no dead-letter queue then."""
    queue = queue_of_url(asked.queue_url)
    yield Describe(queue)
    if queue == DEFAULT_QUEUE:
        # It cannot go; emptied and as made, it is not listed.
        yield Purge(queue)
        yield Configure(queue, QueueSettings())
        return model.NOTHING
    try:
        yield Delete(queue)
    except QueueInUse:
        infos: Sequence[QueueInfo] = yield List()
        for each in infos:
            if each.settings.dead_letter == queue:
                yield ChangeSettings(each.name, {"dead_letter": None, "max_receives": None})
        yield Delete(queue)
    return model.NOTHING


def purge_queue(asked: model.PurgeQueue, caller: Caller) -> Steps:
    """Drop every message."""
    queue = queue_of_url(asked.queue_url)
    yield Purge(queue)
    if attributes.is_fifo(queue):
        yield ChangeSettings(queue, {"notes": {PURGED: str(now_ms())}})
    return model.NOTHING


def get_queue_attributes(asked: model.GetQueueAttributes, caller: Caller) -> Steps:
    """Show those attributes that are asked for."""
    names = asked.attribute_names or ()
    attributes.check_names(names)
    info: QueueInfo = yield Describe(queue_of_url(asked.queue_url))
    values = attributes.shown(info, caller.place, caller.max_message_bytes)
    return model.GetQueueAttributesResult(attributes=attributes.selected(values, names))


def set_queue_attributes(asked: model.SetQueueAttributes, caller: Caller) -> Steps:
    """Change those attributes that are given."""
    queue, given = queue_of_url(asked.queue_url), asked.attributes or {}
    changes = attributes.changes_by(queue, given)
    yield Describe(queue)
    yield from _check_target(queue, given)
    notes = {**_notes(changes), MODIFIED: str(now_ms())}
    yield ChangeSettings(queue, {**changes, "notes": notes})
    return model.NOTHING


def list_queue_tags(asked: model.ListQueueTags, caller: Caller) -> Steps:
    """Show the tags of a queue."""
    info: QueueInfo = yield Describe(queue_of_url(asked.queue_url))
    return model.ListQueueTagsResult(tags=attributes.tags(info.settings))


def tag_queue(asked: model.TagQueue, caller: Caller) -> Steps:
    """Add tags, or replace those of the same keys."""
    queue, tags = queue_of_url(asked.queue_url), asked.tags or {}
    if not tags:
        raise missing("Tags")
    info: QueueInfo = yield Describe(queue)
    attributes.check_tags(queue, tags, attributes.tags(info.settings))
    yield ChangeSettings(queue, {"notes": {f"{TAG}{key}": value for key, value in tags.items()}})
    return model.NOTHING


def untag_queue(asked: model.UntagQueue, caller: Caller) -> Steps:
    """Remove tags; those that are not there do not matter."""
    keys = asked.tag_keys or []
    if not keys:
        raise SqsError(INVALID_PARAMETER_VALUE, "Tag keys must be between 1 and 128 characters in length.")
    yield ChangeSettings(queue_of_url(asked.queue_url), {"notes": {f"{TAG}{key}": None for key in keys}})
    return model.NOTHING
