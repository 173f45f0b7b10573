"""Containers that Python's garbage collector does not walk through.

It looks for cycles of references, and for that walks through everything a container holds: 25 ms for 300,000
leases, several times in their life, and no client is answered meanwhile. Messages and leases are part of no cycle
(`gc=False`), so a container that holds nothing else need not be walked through.
"""

from __future__ import annotations

import ctypes
from typing import TypeVar

# Of CPython, for which msgspec is made.
_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_untrack.argtypes, _untrack.restype = [ctypes.py_object], None

C = TypeVar("C")


def unwalked(container: C) -> C:
    """Return `container`, which the garbage collector leaves out from now on.

    Only for one that holds nothing that leads back to it: such a cycle would never be freed. A dictionary is
    walked through again as soon as it is given something that the collector tracks, such as a new tuple.
    """
    _untrack(container)
    return container
