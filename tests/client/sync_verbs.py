"""Makes the verbs for threads from those for asyncio and Trio: `scripts/sync-verbs` writes them."""

from __future__ import annotations

from pathlib import Path

import zapq

SOURCE = Path(zapq.__file__).parent / "client/verbs.py"
TARGET = SOURCE.with_name("sync_verbs.py")
_TALK = "from zapq.client.talk import Talk\n"
_CHANGES = {
    "for asyncio and Trio. Those for threads, `sync_verbs.py`, are made from this file.": (
        "for threads. Made from `verbs.py` by `scripts/sync-verbs`: change it there."
    ),
    _TALK: f"{_TALK}from zapq.client.threads import run\n",
    "await self._talk.do(call)": "run(self._talk.do(call))",
    "async def": "def",
    "await self.": "self.",
}


def made() -> str:
    """Return what `sync_verbs.py` has to be."""
    lines = []
    for line in SOURCE.read_text().splitlines():
        before, awaits, after = line.partition("await self._talk.do(self._calls.")
        lines.append(f"{before}run(self._talk.do(self._calls.{after})" if awaits else line)
    text = "\n".join(lines) + "\n"
    for old, new in _CHANGES.items():
        assert old in text, old
        text = text.replace(old, new)
    return text
