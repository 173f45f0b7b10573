"""What the tests of services share."""

from __future__ import annotations

from tests.support.disk import disk

__all__ = ["disk"]
