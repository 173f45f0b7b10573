"""The access log: a line for each request, or for a share of them, if the operator asks for it (`--access-log`).

Without it nothing is asked and nothing costs: Quart's road looks for it once a request, and the fast road is made
without (`zapq/server/hot_log.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import log
from urllib.parse import quote, unquote

from zapq import logs
from zapq.http.endpoints import ENDPOINTS
from zapq.limits import DEFAULT_QUEUE, MAX_LOGGED_PATH, MAX_LOGGED_PATHS

_QUEUE = re.compile(r"/queues/([^/]+)")
_RECEIPT = re.compile(r"(?<=/receipts/)[^/]+")
_PLAIN = "/:@!$&'()*+,;=~-._\\"
"""What may stand in a path as it is; a backslash is of ours."""
_DEFAULT = frozenset(each.path for each in ENDPOINTS if each.scope == "default")


class AccessLog:
    """Writes lines about a `share` of all requests, which are chosen at random: 1 is all of them."""

    def __init__(self, share: float, draw: Callable[[], float] = random.random) -> None:
        self._share = share
        self._draw = draw
        self._skipped = self._gap()
        """How many requests come before the next that is chosen."""

    def choose(self, count: int) -> Sequence[int]:
        """Return which of the next `count` requests are logged; most often it is none, and known at once."""
        if self._skipped >= count:
            self._skipped -= count
            return ()
        if self._share >= 1:
            return range(count)
        chosen, at = [], self._skipped
        while at < count:
            chosen.append(at)
            at += 1 + self._gap()
        self._skipped = at - count
        return chosen

    def _gap(self) -> int:
        # How long it takes to throw a six, asked once instead of with each throw.
        return 0 if self._share >= 1 else int(log(1 - self._draw()) / log(1 - self._share))

    def note(
        self,
        trace_id: str,
        method: str,
        path: str,
        status: int,
        size: int,
        seconds: float,
        more: dict[str, str],
    ) -> None:
        """Write the line about a request; `size` is that of the answer's body, `more` what else is known of it."""
        shown, queue = told(path)
        fields: dict[str, object] = {
            "trace_id": trace_id,
            "method": method,
            "path": shown,
            "status": status,
            "bytes": size,
            "duration": round(seconds, 6),
        }
        if queue:
            fields["queue"] = queue
        logs.say_request(fields | more)


@lru_cache(maxsize=MAX_LOGGED_PATHS)
def told(path: str) -> tuple[str, str]:
    """Return a path as the log shows it, and the queue it names, if any.

    A receipt is left out: a client that has it can acknowledge the message. So is what a query says.
    """
    path = path.partition("?")[0]
    if "%" in path:
        path = quote(unquote(path), safe=_PLAIN)  # a receipt is told by what stands before it
    path = path[:MAX_LOGGED_PATH]
    match = _QUEUE.match(path)
    queue = match[1] if match is not None else DEFAULT_QUEUE if path in _DEFAULT else ""
    return _RECEIPT.sub("-", path), queue
