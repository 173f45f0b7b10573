"""SQS as a form that is answered in XML, as SDKs spoke it until November 2023, and `curl` can."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from functools import cache
from operator import itemgetter
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
_DEEPEST = 8
"""Parts of a name that mean something: those of StringListValue.1 in a batch, and one more."""
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)


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
        members = _shape(action.request, _tree(parameters), action.name)
        asked = msgspec.convert(members, action.request, strict=False)
    except msgspec.ValidationError as error:
        raise SqsError(NOT_SERIALIZED, f"The request is not valid: {str(error)[:300]}.") from None
    return action.check(asked)


class _Node:
    """A parameter, and those whose names begin with its own and a full stop."""

    __slots__ = ("below", "text")

    def __init__(self) -> None:
        self.text: str | None = None
        self.below: dict[str, _Node] = {}

    def numbered(self, name: str) -> list[_Node]:
        """Return those below `name.1`, `name.2` and so on, in the order of their numbers."""
        entry = self.below.get(name)
        if entry is None:
            return []
        found = [(int(each), node) for each, node in entry.below.items() if _NUMBER.fullmatch(each)]
        return [node for _, node in sorted(found, key=itemgetter(0))[:_MOST]]


def _tree(parameters: Mapping[str, str]) -> _Node:
    """Return the parameters by the parts of their names, each looked at once: there may be thousands."""
    root = _Node()
    for name, text in parameters.items():
        node = root
        for part in name.split(".", _DEEPEST):
            node = node.below.setdefault(part, _Node())
        node.text = text
    return root


@cache
def _fields(shape: Any) -> list[tuple[str, Any]]:
    """Return the members of a struct by their names on the wire, each with its type."""
    hints = get_type_hints(shape)
    names = zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True)
    return [(name, _bare(hints[field])) for field, name in names]


def _shape(shape: Any, node: _Node, action: str) -> dict[str, Any]:
    """Return the members of a struct whose parameters are below `node`."""
    found = ((name, _value(kind, node, name, action)) for name, kind in _fields(shape))
    return {name: value for name, value in found if value is not None}


def _value(kind: Any, node: _Node, name: str, action: str) -> Any:
    origin = get_origin(kind)
    if origin not in {list, dict}:
        return node.below.get(name, _NOTHING).text
    entry = _ENTRY.get(name) or f"{action}RequestEntry"
    inner = get_args(kind)[-1]
    nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
    places = node.numbered(entry)
    if origin is dict:
        key, value = _KEYS.get(entry, ("Name", "Value"))
        entries = [(each.below.get(key, _NOTHING).text, each.below.get(value, _NOTHING)) for each in places]
        return {
            said: _shape(inner, content, action) if nested else content.text or ""
            for said, content in entries
            if said is not None
        } or None
    if nested:
        return [_shape(inner, each, action) for each in places] or None
    texts = [each.text for each in places if each.text is not None]
    if texts:
        return texts
    # A single one may come without a number.
    single = node.below.get(entry, _NOTHING).text
    return None if single is None else [single]


_NOTHING = _Node()


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


_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot say. A client may have sent it, and it is told again: in a refusal, or as a tag."""


def _text(text: str) -> str:
    # A carriage return as such would become a line feed for the client's parser.
    return escape(_UNPRINTABLE.sub("\ufffd", text), {"\r": "&#13;"})


def refusal(error: SqsError, request_id: str) -> Answer:
    """Return the answer to a request that was refused."""
    kind, message = error.kind, error.message
    if kind is QUEUE_DOES_NOT_EXIST:
        message = "The specified queue does not exist for this wsdl version."
    body = (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{_NAMESPACE}"><Error>'
        f"<Type>{'Sender' if kind.sender else 'Receiver'}</Type><Code>{kind.code}</Code>"
        f"<Message>{_text(message)}</Message><Detail/></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return Answer(kind.status, MEDIA_TYPE, body.encode("utf-8", "replace"))
