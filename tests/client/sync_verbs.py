"""Makes what is for threads from what is for asyncio and Trio: `scripts/sync-verbs` writes it."""

from __future__ import annotations

from pathlib import Path

import zapq

HERE = Path(zapq.__file__).parent / "client"
_TALK = "from zapq.client.talk import Talk\n"
_EVERYWHERE = {"async def": "def", "await self.": "self."}
_CHANGES = {
    "verbs.py": {
        "for asyncio and Trio. Those for threads, `sync_verbs.py`, are made from this file.": (
            "for threads. Made from `verbs.py` by `scripts/sync-verbs`: change it there."
        ),
        _TALK: f"{_TALK}from zapq.client.threads import run\n",
        "await self._talk.do(call)": "run(self._talk.do(call))",
        "AsyncIterator": "Iterator",
        "for info in page:\n                yield info": "yield from page",
    },
    "producer.py": {
        "for asyncio and Trio. The one for threads, `sync_producer.py`, is made from this file.": (
            "for threads. Made from `producer.py` by `scripts/sync-verbs`: change it there."
        ),
        "zapq.client.lines_of_tasks": "zapq.client.lines_of_threads",
        "AsyncGenerator[Producer, None]": "Generator[Producer, None, None]",
        "AsyncGenerator": "Generator",
        "asynccontextmanager": "contextmanager",
        "async with": "with",
    },
}


def made() -> dict[Path, str]:
    """Return what the files for threads have to be."""
    return {HERE / f"sync_{name}": _made(name) for name in _CHANGES}


def _made(name: str) -> str:
    lines = []
    for line in (HERE / name).read_text().splitlines():
        before, awaits, after = line.partition("await self._talk.do(self._calls.")
        lines.append(f"{before}run(self._talk.do(self._calls.{after})" if awaits else line)
    text = "\n".join(lines) + "\n"
    for old, new in (_CHANGES[name] | _EVERYWHERE).items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def write() -> None:
    """Write them."""
    for path, text in made().items():
        path.write_text(text)
