"""An answer as far as SQS decides it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Answer(NamedTuple):
    """Status, body and the fields that differ."""

    status: int
    content_type: str
    body: bytes
    fields: Mapping[str, str] = MappingProxyType({})
