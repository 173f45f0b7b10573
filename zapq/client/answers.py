"""The server's answers, read: refusals become the exceptions they were, and fields become values."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from zapq.client.wire import Answer
from zapq.core.headers import EVENT, FIELD, TRACING, header_in
from zapq.core.placed import How
from zapq.errors import BY_PROBLEM, ServerError, ZapqError

T = TypeVar("T")

MSGPACK = "application/msgpack"
_PROBLEM = "application/problem+json"
_STANDARD = {"type", "title", "status", "detail", "instance"}
"""Members every problem document has (RFC 9457)."""
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def error_of(answer: Answer) -> ZapqError:
    """Return the refusal an answer tells of, with its `detail`, `members` and `retry_after`.

    An answer that is no refusal of zapq's is a `ServerError` with the answer's status.
    """
    document = _problem(answer)
    name, detail = str(document.get("type", "")).removeprefix("/problems/"), document.get("detail")
    known = BY_PROBLEM.get(name)
    if known is None:
        reason = f": {detail}" if detail else "."
        error: ZapqError = ServerError(
            f"The server answered {answer.status} {answer.reason}{reason}", status=answer.status
        )
    else:
        error = known(str(detail) if detail else None)
    error.members = {member: value for member, value in document.items() if member not in _STANDARD}
    seconds = answer.fields.get("retry-after", "")
    # The other form, a date, needs clocks that agree.
    if _SECONDS.fullmatch(seconds):
        error.retry_after = int(seconds)
    if trace_id := answer.fields.get("x-trace-id"):
        error.add_note(f"The server's trace id is {trace_id}.")
    return error


def result_of(problem: str, queue: str, receipt: str) -> ZapqError | None:
    """Return why one settlement of many was refused; None if it was not."""
    if problem == "ok":
        return None
    known = BY_PROBLEM.get(problem)
    if known is None:
        return ServerError(f"The server answered {problem}.")
    return known(queue=queue, receipt=receipt)


def field(answer: Answer, name: str) -> str:
    """Return a header field; raises `ServerError` if it is not there, for then the answer is not zapq's."""
    text = answer.fields.get(name.lower())
    if text is None:
        raise ServerError(
            f"The answer has no {name} header. Check that the URL is that of a zapq server.", status=answer.status
        )
    return text


def headers_in(answer: Answer) -> dict[str, str]:
    """Return the headers of the message that an answer gives."""
    headers = {}
    for name, value in answer.fields.items():
        if name.startswith((FIELD, EVENT)) or name in TRACING:
            header = header_in(name)
            assert header is not None, "it was seen to be one"
            headers[header] = value
    return headers


def number(answer: Answer, name: str) -> int:
    """Return a header field that is a whole number; raises `ServerError` as `field` does."""
    text = field(answer, name)
    if not _NUMBER.fullmatch(text):
        raise ServerError(
            f"The answer's {name} header is not a number. Check that the URL is that of a zapq server.",
            status=answer.status,
        )
    return int(text)


def how(text: str | None) -> How:
    """Return what became of a message with a unique key, as an answer says it."""
    match text:
        case "kept":
            return "kept"
        case "replaced":
            return "replaced"
    return ""


def decoded(answer: Answer, kind: type[T]) -> T:
    """Return what an answer's JSON or msgpack says; raises `ServerError` if it is not a `kind`."""
    try:
        if answer.fields.get("content-type") == MSGPACK:
            return msgspec.msgpack.decode(answer.body, type=kind)
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(f"The answer did not come from zapq: {error}.", status=answer.status) from None


def _problem(answer: Answer) -> dict[str, object]:
    if answer.fields.get("content-type") != _PROBLEM:
        return {}
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
