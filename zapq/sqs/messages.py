"""The actions on messages: send, receive, delete, and how long they stay invisible."""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import msgspec

from zapq.core.message import Lease
from zapq.core.queue_settings import QueueSettings
from zapq.errors import (
    InvalidParameter,
    MessageNotFound,
    MessageTooLarge,
    QueueNotFound,
    ReceiptExpired,
    ZapqError,
)
from zapq.service.operations import (
    Accepted,
    Enqueue,
    Find,
    Hide,
    Look,
    Nothing,
    Put,
    Recall,
    Remember,
    Remove,
    Settle,
    Settlement,
    SettleOne,
    Take,
    Terms,
)
from zapq.service.waiting import Want
from zapq.sqs import digest, model
from zapq.sqs.attributes import now_ms, unknown
from zapq.sqs.envelope import NONE, Facts, open_, seal, sent_at
from zapq.sqs.errors import (
    BATCH_ENTRY_IDS_NOT_DISTINCT,
    BATCH_REQUEST_TOO_LONG,
    EMPTY_BATCH_REQUEST,
    INVALID_BATCH_ENTRY_ID,
    INVALID_MESSAGE_CONTENTS,
    INVALID_PARAMETER_VALUE,
    TOO_MANY_ENTRIES,
    SqsError,
    as_sqs,
    bad_receipt,
    bad_value,
    missing,
    too_long,
    unsupported,
)
from zapq.sqs.model import Attribute, Attributes
from zapq.sqs.names import queue_of_url
from zapq.sqs.noted import MAX_SIZE
from zapq.sqs.queue_terms import Handle, QueueTerms, terms_of
from zapq.sqs.steps import Caller, Steps

MAX_ENTRIES = 10
MAX_ATTRIBUTES = 10
MAX_VISIBILITY = 43_200
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_NAME = re.compile(r"(?!(?:aws|amazon)\.|\.)(?:[A-Za-z0-9_-]|\.(?!\.|\Z)){1,256}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_CONTROLS = bytes({*range(0x20)} - {0x09, 0x0A, 0x0D})
_NOT_CHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
ENCODING = "zapq.encoding"
"""The attribute of a message whose bytes are no text SQS allows: its body is in base64."""
_SYSTEM = frozenset({
    "All",
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
})
_NO_NAMES: frozenset[str] = frozenset()
_GONE = "Message does not exist or is not available for visibility timeout change."


class Entry(Protocol):
    """One of a batch."""

    @property
    def id(self) -> str | None:
        """What the client calls it."""


E = TypeVar("E", bound=Entry)


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """What stores a message, and what its answer says besides its id."""

    operation: Enqueue | Put
    body_digest: str
    attributes_digest: str | None = None
    system_digest: str | None = None


def send_message(asked: model.SendMessage, caller: Caller) -> Steps:
    """Store one message."""
    queue = queue_of_url(asked.queue_url)
    terms = terms_of(queue, (yield Look(queue)).settings)
    prepared = _prepared(asked, queue, terms, caller)
    try:
        accepted = yield prepared.operation
    except MessageTooLarge:
        raise too_long(terms.limit(caller.max_message_bytes)) from None
    return model.SendMessageResult(
        md5_of_message_body=prepared.body_digest,
        md5_of_message_attributes=prepared.attributes_digest,
        md5_of_message_system_attributes=prepared.system_digest,
        message_id=terms.message_id(accepted.id),
        sequence_number=terms.sequence_of(accepted.id),
    )


def send_message_batch(asked: model.SendMessageBatch, caller: Caller) -> Steps:
    """Store up to ten messages, each by itself."""
    queue = queue_of_url(asked.queue_url)
    entries = _checked_entries(asked.entries, "SendMessageBatchRequestEntry")
    terms = terms_of(queue, (yield Look(queue)).settings)
    total = sum(_size((each.message_body or "").encode(), each.message_attributes or {}) for _, each in entries)
    if total > MAX_SIZE:
        raise SqsError(
            BATCH_REQUEST_TOO_LONG,
            f"Batch requests cannot be longer than {MAX_SIZE} bytes. You have sent {total} bytes.",
        )
    ready: list[tuple[str, Prepared]] = []
    failed: list[model.Failure] = []
    for id, each in entries:
        try:
            ready.append((id, _prepared(each, queue, terms, caller, in_batch=True)))
        except SqsError as error:
            failed.append(_failure(id, error))
    outcomes: Sequence[Accepted | ZapqError] = (yield [each.operation for _, each in ready]) if ready else ()
    successful: list[model.SendMessageBatchResultEntry] = []
    for (id, prepared), outcome in zip(ready, outcomes, strict=True):
        if isinstance(outcome, QueueNotFound):
            raise outcome
        if isinstance(outcome, MessageTooLarge):
            refusal = too_long(terms.limit(caller.max_message_bytes), in_batch=True)
            failed.append(_failure(id, refusal))
        elif isinstance(outcome, ZapqError):
            failed.append(_failure(id, as_sqs(outcome)))
        else:
            successful.append(
                model.SendMessageBatchResultEntry(
                    id=id,
                    message_id=terms.message_id(outcome.id),
                    sequence_number=terms.sequence_of(outcome.id),
                    md5_of_message_body=prepared.body_digest,
                    md5_of_message_attributes=prepared.attributes_digest,
                    md5_of_message_system_attributes=prepared.system_digest,
                )
            )
    return model.SendMessageBatchResult(successful=successful, failed=failed)


def _prepared(
    asked: model.Sending, queue: str, terms: QueueTerms, caller: Caller, *, in_batch: bool = False
) -> Prepared:
    """Return what is to be done for a message; raises `SqsError`."""
    if not asked.message_body:
        refusal = missing("MessageBody")
        raise SqsError(INVALID_PARAMETER_VALUE, refusal.message) if in_batch else refusal
    body = asked.message_body.encode()
    if not _is_allowed(body):
        raise SqsError(
            INVALID_MESSAGE_CONTENTS,
            "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF |"
            " #xE000 to #xFFFD | #x10000 to #x10FFFF",
        )
    if asked.delay_seconds is not None and not 0 <= asked.delay_seconds <= 900:
        raise bad_value(asked.delay_seconds, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
    delay = terms.delay if asked.delay_seconds is None else float(asked.delay_seconds)
    given, system = asked.message_attributes, asked.message_system_attributes
    facts, size = NONE, len(body)
    if given or system or asked.message_group_id is not None or asked.message_deduplication_id is not None:
        facts = _facts(asked, given or {}, system or {})
        size = _size(body, facts.attributes)
    limit = terms.limit(caller.max_message_bytes)
    if size > limit:
        raise too_long(limit, in_batch=in_batch)
    operation: Enqueue | Put
    if terms.fifo:
        operation = _ordered(asked, body, facts, queue, terms, in_batch=in_batch)
    else:
        sealed = seal(body, facts, now_ms())
        operation = Enqueue(queue, sealed.body, sealed.properties, delay)
    if facts is NONE:
        return Prepared(operation, digest.of_body(body))
    return Prepared(
        operation,
        digest.of_body(body),
        digest.of_attributes(facts.attributes),
        digest.of_attributes(facts.system),
    )


def _ordered(
    asked: model.Sending, body: bytes, facts: Facts, queue: str, terms: QueueTerms, *, in_batch: bool
) -> Put:
    """Return what stores a message of a FIFO queue, once for each deduplication id; raises `SqsError`."""
    if not facts.group:
        refusal = missing("MessageGroupId")
        raise SqsError(INVALID_PARAMETER_VALUE, refusal.message) if in_batch else refusal
    if asked.delay_seconds:
        raise bad_value(
            asked.delay_seconds,
            "DelaySeconds",
            "The request include parameter that is not valid for this queue type.",
        )
    deduplication = facts.deduplication or (sha256(body).hexdigest() if terms.by_content else "")
    if not deduplication:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided"
            " explicitly",
        )
    kept = msgspec.structs.replace(facts, group="", deduplication=deduplication)
    sealed = seal(body, kept, now_ms(), facts.group)
    key = terms.key_of(facts.group, deduplication)
    return Put(sealed.body, Terms(sealed.properties, terms.delay), key, queue=queue, any_content=True)


def _facts(asked: model.Sending, given: Attributes, system: Attributes) -> Facts:
    group = _checked_id("MessageGroupId", asked.message_group_id)
    deduplication = _checked_id("MessageDeduplicationId", asked.message_deduplication_id)
    if len(given) > MAX_ATTRIBUTES:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"Number of message attributes [{len(given)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].",
        )
    for name, attribute in given.items():
        _check_attribute(name, attribute)
    for name, attribute in system.items():
        if name != "AWSTraceHeader":
            raise SqsError(INVALID_PARAMETER_VALUE, f"Message system attribute name '{name[:200]}' is invalid.")
        if attribute.data_type != "String" or not attribute.string_value:
            raise SqsError(
                INVALID_PARAMETER_VALUE, f"Message system attribute '{name}' must be a non-empty String."
            )
    return Facts(given, system, group, deduplication)


def _checked_id(parameter: str, id: str | None) -> str:
    """Return the id, empty if there is none; raises `SqsError`."""
    if id is not None and not _ID.fullmatch(id):
        raise bad_value(
            id[:200],
            parameter,
            f"{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        )
    return id or ""


def _check_attribute(name: str, attribute: Attribute) -> None:
    kind, shown = attribute.data_type, name[:300]
    if not _NAME.fullmatch(name):
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"The message attribute name '{shown}' is invalid. Attribute name can contain A-Z, a-z, 0-9,"
            " underscore (_), hyphen (-), and period (.) characters.",
        )
    if attribute.string_list_values or attribute.binary_list_values:
        raise unsupported(
            f"Message (user) attribute '{shown}': string lists and binary lists are not implemented by SQS."
        )
    base = kind.partition(".")[0]
    if not kind:
        raise SqsError(INVALID_PARAMETER_VALUE, f"The message attribute '{shown}' must contain a non-empty type.")
    if base not in {"String", "Number", "Binary"} or len(kind) > 256:
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"The message attribute '{shown}' has an invalid message attribute type, the set of supported type"
            " prefixes is Binary, Number, and String.",
        )
    value = attribute.binary_value if base == "Binary" else attribute.string_value
    if not value:
        needed = "Binary" if base == "Binary" else "String"
        raise SqsError(
            INVALID_PARAMETER_VALUE,
            f"Message (user) attribute '{shown}' must contain a non-empty value of type '{needed}'.",
        )
    if base == "Number" and not _NUMBER.fullmatch(attribute.string_value or ""):
        raise SqsError(
            INVALID_PARAMETER_VALUE, f"Can't cast the value of message (user) attribute '{shown}' to a number."
        )
    if base != "Binary" and not _is_allowed((attribute.string_value or "").encode()):
        raise SqsError(INVALID_MESSAGE_CONTENTS, f"Message (user) attribute '{shown}' has invalid characters.")


def _is_allowed(text: bytes) -> bool:
    """Whether SQS allows each character of a text, which is UTF-8."""
    if len(text.translate(None, _CONTROLS)) != len(text):
        return False
    return text.isascii() or not any(each in text for each in _NOT_CHARACTERS)


def _size(body: bytes, given: Mapping[str, Attribute]) -> int:
    """Return the bytes of a message as SQS counts them: with the names, types and values of its attributes."""
    size = len(body)
    for name, attribute in given.items():
        value = attribute.binary_value or (attribute.string_value or "").encode()
        size += len(name.encode()) + len(attribute.data_type.encode()) + len(value)
    return size


def receive_message(asked: model.ReceiveMessage, caller: Caller) -> Steps:
    """Lease up to ten messages, after waiting for the first one if there are none."""
    queue = queue_of_url(asked.queue_url)
    limit = 1 if asked.max_number_of_messages is None else asked.max_number_of_messages
    if not 1 <= limit <= 10:
        raise bad_value(limit, "MaxNumberOfMessages", "Must be between 1 and 10, if provided.")
    visibility, wait = asked.visibility_timeout, asked.wait_time_seconds
    if visibility is not None and not 0 <= visibility <= MAX_VISIBILITY:
        raise bad_value(visibility, "VisibilityTimeout", f"Must be >= 0 and <= {MAX_VISIBILITY}, if provided.")
    if wait is not None and not 0 <= wait <= 20:
        raise bad_value(wait, "WaitTimeSeconds", "Must be >= 0 and <= 20, if provided.")
    attempt = _checked_id("ReceiveRequestAttemptId", asked.receive_request_attempt_id)
    system = _system(asked.attribute_names, asked.message_system_attribute_names)
    terms = terms_of(queue, (yield Look(queue)).settings)
    want = _want(limit, visibility)
    leases: Sequence[Lease] = ()
    if attempt and terms.fifo:
        leases = yield Recall(queue, attempt, want.visibility)
    if not leases:
        outcome = yield Take(queue, want, terms.wait if wait is None else float(wait))
        if isinstance(outcome, Nothing):
            return model.ReceiveMessageResult()
        leases = outcome.given
        if attempt and terms.fifo:
            yield Remember(queue, attempt, [(each.id, each.receipt) for each in leases])
    names = asked.message_attribute_names or ()
    origins: dict[str, QueueTerms] = {}
    messages: list[model.Message] = []
    for lease in leases:
        origin = lease.message.properties.origin
        if origin is not None and origin.queue not in origins:
            origins[origin.queue] = terms if origin.queue == queue else (yield from _terms_in(origin.queue))
        messages.append(_shown(lease, terms, origins, system, names, caller))
    return model.ReceiveMessageResult(messages=messages)


@lru_cache(maxsize=256)
def _want(limit: int, visibility: int | None) -> Want:
    """Return what a consumer asks for: most ask for the same."""
    return Want(limit, True, None if visibility is None else float(visibility))


def _terms_in(queue: str) -> Generator[Look, Any, QueueTerms]:
    """Return the terms of a queue that messages came from: it may be gone, and they are leased already."""
    try:
        return terms_of(queue, (yield Look(queue)).settings)
    except ZapqError:
        return terms_of(queue, QueueSettings())


def _system(names: Sequence[str] | None, newer: Sequence[str] | None) -> frozenset[str]:
    """Return which system attributes are asked for, by the older or the newer member; raises `SqsError`."""
    return _checked_system((*(names or ()), *(newer or ()))) if names or newer else _NO_NAMES


@lru_cache(maxsize=256)
def _checked_system(names: tuple[str, ...]) -> frozenset[str]:
    """Return which system attributes are asked for; raises `SqsError` for one there is not."""
    for name in names:
        if name not in _SYSTEM:
            raise unknown(name[:200])
    return frozenset(names)


def _shown(
    lease: Lease,
    terms: QueueTerms,
    origins: Mapping[str, QueueTerms],
    system: frozenset[str],
    names: Sequence[str],
    caller: Caller,
) -> model.Message:
    """Return a delivery as SQS shows it; a message that has changed queues is called what it was first."""
    message = lease.message
    opened = open_(message)
    raw, facts = opened.body, opened.facts
    given = _chosen(facts.attributes, names) if facts is not NONE else {}
    body = _text(raw)
    if body is None:
        # A producer of the native dialect may send any bytes.
        raw = base64.b64encode(raw)
        body = raw.decode()
        given = {**given, ENCODING: Attribute(data_type="String", string_value="base64")}
    values: dict[str, str] = {}
    if system:
        values = _system_values(lease, facts, terms, caller)
        if "All" not in system:
            values = {name: value for name, value in values.items() if name in system}
    origin = message.properties.origin
    return model.Message(
        message_id=terms.message_id(message.id) if origin is None else origins[origin.queue].message_id(origin.id),
        receipt_handle=terms.handle(message.id, lease.receipt),
        md5_of_body=digest.of_body(raw),
        body=body,
        attributes=values,
        md5_of_message_attributes=digest.of_attributes(given) if given else None,
        message_attributes=given,
    )


def _text(body: bytes) -> str | None:
    """Return a body as text, or None if it is none that SQS allows."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if body and _is_allowed(body) else None


def _system_values(lease: Lease, facts: Facts, terms: QueueTerms, caller: Caller) -> dict[str, str]:
    now = str(now_ms())
    properties = lease.message.properties
    values = {
        "SenderId": caller.place.account,
        # A message of the native dialect does not say when it was sent.
        "SentTimestamp": sent_at(lease.message) or now,
        "ApproximateReceiveCount": str(lease.receive_count),
        "ApproximateFirstReceiveTimestamp": now,
    }
    for name, attribute in facts.system.items():
        values[name] = attribute.string_value or ""
    if group := facts.group or properties.group:
        values["MessageGroupId"] = group
    if facts.deduplication:
        values["MessageDeduplicationId"] = facts.deduplication
    first = properties.origin or lease.message
    if (sequence := terms.sequence_of(first.id)) is not None:
        values["SequenceNumber"] = sequence
    if properties.failed_in:
        values["DeadLetterQueueSourceArn"] = caller.place.arn_of(properties.failed_in)
    return values


def _chosen(given: Attributes, names: Sequence[str]) -> Attributes:
    """Return the attributes that are asked for: by name, by `prefix.*`, or all of them."""
    if not given or not names:
        return {}
    if not {"All", ".*", "*"}.isdisjoint(names):
        return given
    prefixes = tuple(each[:-2] for each in names if each.endswith(".*"))
    return {
        name: value for name, value in given.items() if name in names or (prefixes and name.startswith(prefixes))
    }


def delete_message(asked: model.DeleteMessage, caller: Caller) -> Steps:
    """Acknowledge a message; deleting it again is fine."""
    queue = queue_of_url(asked.queue_url)
    terms = terms_of(queue, (yield Look(queue)).settings)
    text = asked.receipt_handle or ""
    parsed = terms.parse_handle(text)
    if terms.fifo:
        [seen] = yield [Find(queue, parsed.id)]
        if isinstance(seen, MessageNotFound):
            return model.NOTHING  # it was deleted before
        if isinstance(seen, ZapqError):
            raise seen
        if seen.state != "leased":
            raise _expired(text)
    try:
        yield SettleOne(queue, Settlement(receipt=parsed.receipt))
    except InvalidParameter:
        raise bad_receipt(text) from None
    except ReceiptExpired:
        if terms.fifo:
            raise _expired(text) from None
        # In standard queues an old receipt still deletes.
        yield Remove(queue, parsed.id)
    return model.NOTHING


def _expired(handle: str) -> SqsError:
    return bad_value(handle, "ReceiptHandle", "The receipt handle has expired.")


def delete_message_batch(asked: model.DeleteMessageBatch, caller: Caller) -> Steps:
    """Acknowledge up to ten messages, each by itself."""
    queue = queue_of_url(asked.queue_url)
    entries = _checked_entries(asked.entries, "DeleteMessageBatchRequestEntry")
    handles = {id: each.receipt_handle or "" for id, each in entries}
    terms = terms_of(queue, (yield Look(queue)).settings)
    parsed, failed = _parsed([(id, each.receipt_handle) for id, each in entries], terms)
    done: list[model.Done] = []
    if terms.fifo and parsed:
        seen = yield [Find(queue, each.id) for _, each in parsed]
        found = list(zip(parsed, seen, strict=True))
        done += [model.Done(id=id) for (id, _), view in found if isinstance(view, MessageNotFound)]
        here = [(each, view) for each, view in found if not isinstance(view, ZapqError)]
        failed += [_failure(id, _expired(handles[id])) for (id, _), view in here if view.state != "leased"]
        parsed = [each for each, view in here if view.state == "leased"]
    if parsed:
        outcomes = yield Settle(queue, [Settlement(receipt=each.receipt) for _, each in parsed])
        late: list[Handle] = []
        for (id, each), outcome in zip(parsed, outcomes, strict=True):
            if isinstance(outcome, ReceiptExpired) and terms.fifo:
                failed.append(_failure(id, _expired(handles[id])))
                continue
            if isinstance(outcome, ReceiptExpired):
                late.append(each)
            elif outcome is not None:
                failed.append(_failure(id, bad_receipt(each.receipt)))
                continue
            done.append(model.Done(id=id))
        if late:
            yield [Remove(queue, each.id) for each in late]
    return model.BatchResult(successful=done, failed=failed)


def change_message_visibility(asked: model.ChangeMessageVisibility, caller: Caller) -> Steps:
    """Let a lease end so many seconds from now; 0 gives the message back at once."""
    queue = queue_of_url(asked.queue_url)
    visibility = _visibility(asked.visibility_timeout)
    terms = terms_of(queue, (yield Look(queue)).settings)
    text = asked.receipt_handle or ""
    parsed = terms.parse_handle(text)
    try:
        yield SettleOne(queue, Settlement(receipt=parsed.receipt, action="extend", visibility=visibility))
    except InvalidParameter:
        raise bad_receipt(text) from None
    except ReceiptExpired:
        # In standard queues, an old receipt is good for this as well.
        if terms.fifo or not (yield Hide(queue, parsed.id, visibility)):
            raise bad_value(text, "ReceiptHandle", _GONE) from None
    return model.NOTHING


def change_message_visibility_batch(asked: model.ChangeMessageVisibilityBatch, caller: Caller) -> Steps:
    """Do that to up to ten messages, each by itself."""
    queue = queue_of_url(asked.queue_url)
    entries = _checked_entries(asked.entries, "ChangeMessageVisibilityBatchRequestEntry")
    terms = terms_of(queue, (yield Look(queue)).settings)
    parsed, failed = _parsed([(id, each.receipt_handle) for id, each in entries], terms)
    asked_for, ids = dict(entries), {id: each.id for id, each in parsed}
    settlements: list[tuple[str, Settlement]] = []
    for id, each in parsed:
        try:
            visibility = _visibility(asked_for[id].visibility_timeout)
        except SqsError as error:
            failed.append(_failure(id, error))
        else:
            settlement = Settlement(receipt=each.receipt, action="extend", visibility=visibility)
            settlements.append((id, settlement))
    done: list[model.Done] = []
    if settlements:
        outcomes = yield Settle(queue, [each for _, each in settlements])
        for (id, settlement), outcome in zip(settlements, outcomes, strict=True):
            hidden = False
            if isinstance(outcome, ReceiptExpired) and not terms.fifo:
                hidden = yield Hide(queue, ids[id], settlement.visibility or 0.0)
            if outcome is None or hidden:
                done.append(model.Done(id=id))
            elif isinstance(outcome, ReceiptExpired):
                failed.append(_failure(id, bad_value(asked_for[id].receipt_handle, "ReceiptHandle", _GONE)))
            else:
                failed.append(_failure(id, bad_receipt(asked_for[id].receipt_handle or "")))
    return model.BatchResult(successful=done, failed=failed)


def _visibility(seconds: int | None) -> float:
    if seconds is None:
        raise missing("VisibilityTimeout")
    if not 0 <= seconds <= MAX_VISIBILITY:
        raise bad_value(
            seconds, "VisibilityTimeout", f"VisibilityTimeout must be an integer between 0 and {MAX_VISIBILITY}"
        )
    return float(seconds)


def _parsed(
    handles: Sequence[tuple[str, str | None]], terms: QueueTerms
) -> tuple[list[tuple[str, Handle]], list[model.Failure]]:
    """Return the handles that are good, by the ids of their entries, and the failures of the others."""
    parsed: list[tuple[str, Handle]] = []
    failed: list[model.Failure] = []
    for id, text in handles:
        try:
            if not text:
                raise SqsError(INVALID_PARAMETER_VALUE, missing("ReceiptHandle").message)
            parsed.append((id, terms.parse_handle(text)))
        except SqsError as error:
            failed.append(_failure(id, error))
    return parsed, failed


def _checked_entries(entries: Sequence[E] | None, shape: str) -> list[tuple[str, E]]:
    """Return the entries of a batch by their ids; raises what refuses the batch as a whole."""
    if not entries:
        raise SqsError(EMPTY_BATCH_REQUEST, f"There should be at least one {shape} in the request.")
    if len(entries) > MAX_ENTRIES:
        raise SqsError(
            TOO_MANY_ENTRIES,
            f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}.",
        )
    checked = list(_ids(entries))
    seen: set[str] = set()
    for id, _ in checked:
        if id in seen:
            raise SqsError(BATCH_ENTRY_IDS_NOT_DISTINCT, f"Id {id} repeated.")
        seen.add(id)
    return checked


def _ids(entries: Sequence[E]) -> Iterator[tuple[str, E]]:
    for each in entries:
        if each.id is None or not _ENTRY_ID.fullmatch(each.id):
            raise SqsError(
                INVALID_BATCH_ENTRY_ID,
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at"
                " most 80 letters long.",
            )
        yield each.id, each


def _failure(id: str, error: SqsError) -> model.Failure:
    return model.Failure(id=id, sender_fault=error.kind.sender, code=error.kind.code, message=error.message)
