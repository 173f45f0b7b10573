"""The server's answers, read: refusals become the exceptions they were, and fields become values."""

from __future__ import annotations

import re

import httpx2
import msgspec

from zapq.core.headers import Headers, header_in
from zapq.errors import BY_PROBLEM, ServerError, ZapqError

_PROBLEM = "application/problem+json"
_STANDARD = {"type", "title", "status", "detail", "instance"}
"""Members every problem document has (RFC 9457)."""


def error_of(answer: httpx2.Response) -> ZapqError:
    """Return the refusal an answer tells of, with its `detail`, `members` and `retry_after`.

    An answer that is no refusal of zapq's is a `ServerError` with the answer's status.
    """
    document = _problem(answer)
    name, detail = str(document.get("type", "")).removeprefix("/problems/"), document.get("detail")
    known = BY_PROBLEM.get(name)
    if known is None:
        reason = f": {detail}" if detail else "."
        error: ZapqError = ServerError(
            f"The server answered {answer.status_code} {answer.reason_phrase}{reason}", status=answer.status_code
        )
    else:
        error = known(str(detail) if detail else None)
    error.members = {member: value for member, value in document.items() if member not in _STANDARD}
    seconds = answer.headers.get("Retry-After", "")
    # The other form, a date, needs clocks that agree.
    if re.fullmatch(r"[0-9]{1,9}", seconds, re.ASCII):
        error.retry_after = int(seconds)
    if trace_id := answer.headers.get("X-Trace-Id"):
        error.add_note(f"The server's trace id is {trace_id}.")
    return error


def field(answer: httpx2.Response, name: str) -> str:
    """Return a header field; raises `ServerError` if it is not there, for then the answer is not zapq's."""
    text = answer.headers.get(name)
    if text is None:
        raise ServerError(
            f"The answer has no {name} header. Check that {answer.url} is a zapq server.",
            status=answer.status_code,
        )
    return str(text)


def headers_in(answer: httpx2.Response) -> Headers:
    """Return the headers of the message that an answer gives."""
    named = ((header_in(name.lower()), value) for name, value in answer.headers.items())
    return tuple((name, value) for name, value in named if name is not None)


def number(answer: httpx2.Response, name: str) -> int:
    """Return a header field that is a whole number; raises `ServerError` as `field` does."""
    text = field(answer, name)
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise ServerError(
            f"The answer's {name} header is not a number. Check that {answer.url} is a zapq server.",
            status=answer.status_code,
        )
    return int(text)


def _problem(answer: httpx2.Response) -> dict[str, object]:
    if answer.headers.get("Content-Type") != _PROBLEM:
        return {}
    try:
        return msgspec.json.decode(answer.content, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
