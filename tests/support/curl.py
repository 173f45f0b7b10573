"""The lines of curl a document shows, and what it shows below them."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass

_CURL = ArgumentParser()
_CURL.add_argument("url")
for flag in ("-i", "-s"):
    _CURL.add_argument(flag, action="store_true")
for flag in ("-o", "-w"):
    _CURL.add_argument(flag)
_CURL.add_argument("-X", dest="method")
_CURL.add_argument("-H", dest="fields", action="append", default=[])
_CURL.add_argument("-d", "--data-binary", dest="body")


@dataclass(frozen=True)
class Line:
    """One request as a line of curl, and what is shown below it."""

    text: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    shown: str


def lines(document: str) -> Iterator[Line]:
    """Yield every line of curl in the console blocks of `document`."""
    for block in re.findall(r"```console\n(.*?)```", document, re.DOTALL):
        for part in block.removeprefix("$ ").split("\n$ "):
            text, _, shown = part.replace("\\\n", "").partition("\n")
            piped, _, curl = text.rpartition("| ")
            if not curl.startswith("curl "):
                continue
            options = _CURL.parse_args(shlex.split(curl, comments=True)[1:])
            # printf is the only thing that is piped into anything.
            body = shlex.split(piped)[1].replace("\\n", "\n") if piped else options.body or ""
            headers = dict(field.split(": ") for field in options.fields)
            if body:
                headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            method = options.method or ("POST" if body else "GET")
            yield Line(text, method, options.url.removeprefix("localhost:8080"), headers, body.encode(), shown)
