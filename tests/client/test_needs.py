"""What a client needs, as docs/how-to/client.md names it: with nothing else to import, each of the three works."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON
from zapq.testing import ZapqServer

ROOT = Path(__file__).parents[2]
NEEDS = {"threads": {"msgspec"}, "asyncio": {"msgspec", "anyio"}, "trio": {"msgspec", "anyio", "trio"}}
OF_OTHERS = {
    # msgspec takes it if it is there.
    "msgspec": {"typing_extensions"},
    "anyio": {"idna", "sniffio", "typing_extensions"},
    "trio": {"attr", "attrs", "idna", "outcome", "sniffio", "sortedcontainers"},
}
"""What they need themselves."""

HOOK = """
import sys

class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if top == "zapq" and room in ("", "client", "core", "errors", "limits", "version"):
            return None
        if top != "zapq" and (top in sys.stdlib_module_names or top in ALLOWED):
            return None
        raise ModuleNotFoundError("no " + name + " here", name=name)

sys.meta_path.insert(0, Refusing)
import zapq.client, zapq.client.sync
"""
THREADS = """
with zapq.client.sync.open_client(URL) as client:
    client.put("q", b"one")
    client.ack(client.receive("q"))
    with client.producer("q") as producer:
        producer.send(b"two")
    with client.consume("q") as leases:
        for lease in leases:
            with lease:
                break
    print(client.stats("q")["acked"])
"""
TASKS = """
async def main():
    async with zapq.client.open_client(URL) as client:
        await client.put("q", b"one")
        await client.ack(await client.receive("q"))
        async with client.producer("q") as producer:
            await producer.send(b"two")
        async with client.consume("q") as leases:
            async for lease in leases:
                async with lease:
                    break
        print((await client.stats("q"))["acked"])

import {shell}
{shell}.run(main{called})
"""
PROGRAMS = {
    "threads": THREADS,
    "asyncio": TASKS.format(shell="asyncio", called="()"),
    "trio": TASKS.format(shell="trio", called=""),
}


@pytest.mark.parametrize("shell", PROGRAMS)
async def test_it_works_with_nothing_else(shell: str, zapq_server: ZapqServer) -> None:
    allowed = NEEDS[shell].union(*(OF_OTHERS[each] for each in NEEDS[shell]))
    code = f"ALLOWED, URL = {allowed!r}, {zapq_server.url!r}\n{HOOK}{PROGRAMS[shell]}"
    run = partial(
        trio.run_process, [sys.executable, "-c", code], capture_stdout=True, capture_stderr=True, check=False
    )
    done: subprocess.CompletedProcess[bytes] = await run(env=ENVIRON)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n", b"")


def test_the_documentation_names_it() -> None:
    page = (ROOT / "docs/how-to/client.md").read_text()
    named = re.findall(r"^pip install ([a-z0-9 ]+?) +# (threads|asyncio|Trio)$", page, re.MULTILINE)
    assert {shell.lower(): set(names.split()) - {"h11"} for names, shell in named} == NEEDS
    assert all("h11" in names for names, _ in named)
