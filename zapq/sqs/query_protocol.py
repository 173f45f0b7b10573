"""SQS as a form that is answered in XML, as SDKs spoke it until November 2023, and `curl` can."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints
from xml.sax.saxutils import escape

import msgspec

from zapq.sqs import model
from zapq.sqs.actions import ACTIONS, Action
from zapq.sqs.answer import Answer
from zapq.sqs.errors import NOT_SERIALIZED, QUEUE_DOES_NOT_EXIST, UNKNOWN_ACTION, SqsError

MEDIA_TYPE = "text/xml"
_NAMESPACE = "http://queue.amazonaws.com/doc/2012-11-05/"
_ENTRY = {
    "AttributeNames": "AttributeName",
    "MessageSystemAttributeNames": "MessageSystemAttributeName",
    "MessageAttributeNames": "MessageAttributeName",
    "TagKeys": "TagKey",
    "AWSAccountIds": "AWSAccountId",
    "Actions": "ActionName",
    "Attributes": "Attribute",
    "Tags": "Tag",
    "tags": "Tag",
    "MessageAttributes": "MessageAttribute",
    "MessageSystemAttributes": "MessageSystemAttribute",
    "StringListValues": "StringListValue",
    "BinaryListValues": "BinaryListValue",
}
"""What the entries of a list or map are called."""
_KEYS = {"Tag": ("Key", "Value")}
"""What key and value of a map's entries are called, where that is not Name and Value."""
_MOST = 1000
"""Entries of a list that are read: more than any action takes."""


def find(parameters: Mapping[str, str]) -> Action:
    """Return the action that is asked for; raises `SqsError`."""
    name = parameters.get("Action", "")
    action = ACTIONS.get(name)
    if action is None:
        raise SqsError(UNKNOWN_ACTION, f"The action {name[:100]} is not valid for this endpoint.")
    return action


def read(action: Action, parameters: Mapping[str, str]) -> model.Request:
    """Return the request that a form means; raises `SqsError`."""
    try:
        asked = msgspec.convert(_shape(action.request, parameters, "", action.name), action.request, strict=False)
    except msgspec.ValidationError as error:
        raise SqsError(NOT_SERIALIZED, f"The request is not valid: {str(error)[:300]}.") from None
    return action.check(asked)


def _shape(shape: type[Any], given: Mapping[str, str], start: str, action: str) -> dict[str, Any]:
    """Return the members of a struct whose parameters begin with `start`."""
    found: dict[str, Any] = {}
    hints = get_type_hints(shape)
    for field, name in zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True):
        value = _value(_bare(hints[field]), given, start, name, action)
        if value is not None:
            found[name] = value
    return found


def _value(kind: Any, given: Mapping[str, str], start: str, name: str, action: str) -> Any:
    origin = get_origin(kind)
    if origin not in {list, dict}:
        return given.get(start + name)
    entry = _ENTRY.get(name) or f"{action}RequestEntry"
    inner = get_args(kind)[-1]
    nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
    if origin is dict:
        key, value = _KEYS.get(entry, ("Name", "Value"))
        return {
            given[f"{at}.{key}"]: _shape(inner, given, f"{at}.{value}.", action)
            if nested
            else given.get(f"{at}.{value}", "")
            for at in _numbered(given, f"{start}{entry}", f".{key}")
        } or None
    if nested:
        places = _numbered(given, f"{start}{entry}", "")
        return [_shape(inner, given, f"{at}.", action) for at in places] or None
    places = _numbered(given, f"{start}{entry}", "")
    # A single one may come without a number.
    return [given[at] for at in places] or ([given[start + entry]] if start + entry in given else None)


def _numbered(given: Mapping[str, str], start: str, end: str) -> Iterator[str]:
    """Yield `start.1`, `start.2` and so on, as long as there are parameters that begin so."""
    pattern = re.compile(rf"{re.escape(start)}\.([0-9]{{1,4}})(?:\.|\Z)", re.ASCII)
    numbers = sorted({int(match[1]) for each in given if (match := pattern.match(each))})
    for number in numbers[:_MOST]:
        at = f"{start}.{number}"
        if not end or at + end in given:
            yield at


def _bare(kind: Any) -> Any:
    """Return a type without `None`."""
    if get_origin(kind) in {Union, types.UnionType}:
        return next(each for each in get_args(kind) if each is not type(None))
    return kind


def answer(action: Action, result: model.Result, request_id: str) -> Answer:
    """Return the answer to a request that was done."""
    members = msgspec.to_builtins(result)
    inside = f"<{action.name}Result>{_xml(members, action.name)}</{action.name}Result>" if members else ""
    body = (
        f'<?xml version="1.0"?><{action.name}Response xmlns="{_NAMESPACE}">{inside}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action.name}Response>"
    )
    return Answer(200, MEDIA_TYPE, body.encode())


_LISTS = {
    "QueueUrls": "QueueUrl",
    "queueUrls": "QueueUrl",
    "Messages": "Message",
    "Failed": "BatchResultErrorEntry",
    "Results": "ListMessageMoveTasksResultEntry",
}
_MAPS = {"Attributes": "Attribute", "MessageAttributes": "MessageAttribute", "Tags": "Tag"}


def _xml(members: Mapping[str, Any], action: str) -> str:
    return "".join(_member(name, value, action) for name, value in members.items())


def _member(name: str, value: Any, action: str) -> str:
    if isinstance(value, list):
        tag = _LISTS.get(name) or f"{action}ResultEntry"
        return "".join(f"<{tag}>{_inner(each, action)}</{tag}>" for each in value)
    if isinstance(value, dict) and name in _MAPS:
        tag = _MAPS[name]
        key, content = _KEYS.get(tag, ("Name", "Value"))
        return "".join(
            f"<{tag}><{key}>{_text(each)}</{key}><{content}>{_inner(inner, action)}</{content}></{tag}>"
            for each, inner in value.items()
        )
    return f"<{name}>{_inner(value, action)}</{name}>"


def _inner(value: Any, action: str) -> str:
    if isinstance(value, dict):
        return _xml(value, action)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(str(value))


def _text(text: str) -> str:
    # A carriage return as such would become a line feed for the client's parser.
    return escape(text, {"\r": "&#13;"})


def refusal(error: SqsError, request_id: str) -> Answer:
    """Return the answer to a request that was refused."""
    kind, message = error.kind, error.message
    if kind is QUEUE_DOES_NOT_EXIST:
        message = "The specified queue does not exist for this wsdl version."
    body = (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{_NAMESPACE}"><Error>'
        f"<Type>{'Sender' if kind.sender else 'Receiver'}</Type><Code>{kind.code}</Code>"
        f"<Message>{_printable(message)}</Message><Detail/></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return Answer(kind.status, MEDIA_TYPE, body.encode("utf-8", "replace"))


def _printable(text: str) -> str:
    """Return a text that may hold what a client has sent: without what XML cannot say."""
    return _text(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))
