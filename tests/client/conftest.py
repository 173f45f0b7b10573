"""What the tests of the client share with those of servers."""

from tests.support.serving import patient_clock

__all__ = ["patient_clock"]
