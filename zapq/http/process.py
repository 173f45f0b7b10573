"""What Prometheus knows of every process, under the names all its clients use. Only Linux tells."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from zapq.http.families import Family, Value
from zapq.http.metrics import open_descriptors

_CPU = Family("process_cpu_seconds", "counter", "CPU time of the process, user and system together.")
_RESIDENT = Family("process_resident_memory_bytes", "gauge", "Memory of the process in RAM.")
_VIRTUAL = Family("process_virtual_memory_bytes", "gauge", "Address space of the process.")
_STARTED = Family("process_start_time_seconds", "gauge", "When the process was started, in Unix time.")
_OPEN = Family("process_open_fds", "gauge", "Open file descriptors.")
_MOST = Family("process_max_fds", "gauge", "Most file descriptors the process may open.")


def figures() -> dict[Family, Value]:
    """Return what the kernel says of this process."""
    figures: dict[Family, Value] = {
        _CPU: time.process_time(),
        _OPEN: open_descriptors(),
        _MOST: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    with suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        figures |= {_VIRTUAL: int(pages[0]) * size, _RESIDENT: int(pages[1]) * size}
        # The name before the last bracket may have spaces in it.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        figures[_STARTED] = round(time.time() - age, 2)
    return figures
