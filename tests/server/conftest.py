"""What the tests of servers share."""

from __future__ import annotations

from tests.support.disk import disk
from tests.support.serving import patient_clock

__all__ = ["disk", "patient_clock"]
