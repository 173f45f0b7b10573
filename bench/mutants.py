"""Would the tests notice?

    scripts/bench mutants

Puts a known fault back into a copy of zapq, one at a time, and runs the tests that should find it; first the same
tests against the copy as it is. Each fault is one that this program, or the libraries it runs on, has had. A fault
whose place is not there any more is an error: then the table below is to be mended. Exit code 1 if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: in which file what becomes what, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = {
    "containment off": Mutant(
        "zapq/server/connection.py",
        "            if ours is not None:\n                self._site.note_failure(ours)\n",
        "            if ours is not None:\n                raise ours\n",
        ("tests/server/test_containment.py",),
    ),
    "send deadline off": Mutant(
        "zapq/server/connection.py",
        "with trio.fail_after(self._site.settings.send_timeout):",
        "with trio.CancelScope():",
        ("tests/server/test_hostile.py", "-k", "reads"),
    ),
    "idle timer off": Mutant(
        "zapq/server/lobby.py",
        "                else:\n                    self._close(guest)\n            self._alarm",
        "                else:\n                    guest.deadline = inf\n            self._alarm",
        ("tests/server/test_lobby.py", "-k", "long or drips"),
    ),
    "HEAD pops": Mutant(
        "zapq/http/app.py",
        '            rule.methods.discard("HEAD")\n',
        "            pass\n",
        ("tests/http/test_contract.py",),
    ),
    "role checked after the pop": Mutant(
        "zapq/http/app.py",
        "    @app.before_request\n    async def let_in() -> Response | None:\n",
        "    @app.after_request\n    async def let_in_late(response: Response) -> Response:\n"
        "        await let_in()\n        return response\n\n    async def let_in() -> Response | None:\n",
        ("tests/http/test_access.py",),
    ),
    "non-constant compare": Mutant(
        "zapq/access/access.py",
        "if compare_digest(each, wanted):\n                found = grant\n",
        "if each == wanted:\n                return grant\n",
        ("tests/access/test_access.py",),
    ),
    "symlink followed": Mutant(
        "zapq/store/directory.py",
        "_READ_FILE = _READ | os.O_NOFOLLOW | os.O_NONBLOCK",
        "_READ_FILE = _READ | os.O_NONBLOCK",
        ("tests/store/test_snapshot.py", "tests/service/test_snapshots.py"),
    ),
    "no fsync before rename": Mutant(
        "zapq/store/directory.py",
        "                checkpoint()\n            os.fsync(descriptor)\n",
        "                checkpoint()\n",
        ("tests/store/test_snapshot.py",),
    ),
    "chunk count unlimited": Mutant(
        "zapq/server/protocols.py",
        "if self._chunks > MAX_CHUNKS:",
        "if self._chunks > 2**62:",
        ("tests/server/test_wire_rows.py", "tests/server/test_hostile.py"),
    ),
    "hand-back removed": Mutant(
        "zapq/service/service.py",
        "            waiter.lender.return_undelivered(waiter.given)\n",
        "            pass\n",
        ("tests/service/test_service.py", "tests/service/test_named_queue.py"),
    ),
    "waiter rule removed": Mutant(
        "zapq/service/service.py",
        "        self.waiting_room.leave(waiter)\n        waiter.gone = True\n",
        "",
        ("tests/service/test_service.py", "tests/service/test_named_queue.py"),
    ),
    "parked client not looked for": Mutant(
        "zapq/server/lobby.py",
        "left = not guest.sock.recv(1, socket.MSG_PEEK)",
        "left = guest.sock.recv(1, socket.MSG_PEEK) is None",
        ("tests/server/test_parked.py",),
    ),
    "parked client not looked for over TLS": Mutant(
        "zapq/server/lobby.py",
        "                    left = not behind\n",
        "",
        ("tests/server/test_tls.py", "-k", "loses"),
    ),
    "TLS records that left are not counted": Mutant(
        "zapq/server/tls.py",
        "counted = min(sent, self._owed - 1)",
        "counted = 0",
        ("tests/server/test_tls.py", "-k", "counted"),
    ),
    "handshakes not given up": Mutant(
        "zapq/server/newcomers.py",
        "if len(self._begun) > MAX_HANDSHAKES else None",
        "if len(self._begun) > 2**62 else None",
        ("tests/server/test_tls.py", "-k", "oldest"),
    ),
    "connection cap off": Mutant(
        "zapq/server/site.py",
        "if self.counts.connections >= self.settings.max_connections:",
        "if self.counts.connections >= 2**62:",
        ("tests/server/test_lobby.py", "-k", "cap"),
    ),
    "a failed commit is not undone": Mutant(
        "zapq/service/journal.py",
        "                self._call(undo, *args)\n",
        "",
        ("tests/service/test_durable.py", "-k", "written or happened or failure"),
    ),
    "a failed commit is undone the first of it first": Mutant(
        "zapq/service/journal.py",
        "        for commit in reversed(commits):\n",
        "        for commit in commits:\n",
        ("tests/service/test_durable_undone.py", "-k", "rest"),
    ),
    "what stays done is not written after a failure": Mutant(
        "zapq/service/journal.py",
        "            self.commit.records += commit.kept\n",
        "",
        ("tests/service/test_durable_memory.py",),
    ),
    "commits behind one that failed are written": Mutant(
        "zapq/store/writer.py",
        "if each is not None and each.generation == self._failures]",
        "if each is not None]",
        ("tests/store/test_writer.py",),
    ),
    "a message is given before its taking is written": Mutant(
        "zapq/service/service.py",
        "return delivery if commit is None else Commit(commit, delivery)",
        "return delivery",
        ("tests/service/test_pending.py",),
    ),
    "a refusal does not wait for what it rests on": Mutant(
        "zapq/service/service.py",
        "            commit = journal.unresolved\n            if commit is None:\n",
        "            commit = None\n            if commit is None:\n",
        ("tests/service/test_durable_leases.py",),
    ),
    "a replay does not wait for the first use of its key": Mutant(
        "zapq/service/queue_state.py",
        "            if id is not None:\n"
        "                # The first use may be on its way to the disk.\n                self._journal.rely()\n",
        "            if id is not None:\n",
        ("tests/service/test_durable_keys.py",),
    ),
    "a purge does not wait for the disk": Mutant(
        "zapq/service/journal.py",
        "class ExclusiveSection(QuiescentSection):\n",
        "class ExclusiveSection(WrittenSection):\n",
        ("tests/service/test_durable_undone.py",),
    ),
    "a purge is not alone until it is written": Mutant(
        "zapq/service/journal.py",
        "        commit = self._leave()\n        try:\n            if commit is not None:\n",
        "        commit = self._leave()\n        try:\n            if commit is None:\n",
        ("tests/service/test_durable_undone.py", "tests/service/test_pending.py"),
    ),
    "a snapshot shows what may be undone": Mutant(
        "zapq/service/journal.py",
        "            await self._journal.at_rest()\n",
        "            pass\n",
        ("tests/service/test_durable_undone.py",),
    ),
    "a step is taken while a task holds the lock": Mutant(
        "zapq/service/service.py",
        "if asked.want is ONE and not self.lock.locked():",
        "if asked.want is ONE:",
        ("tests/service/test_pending.py",),
    ),
    "a purge that is undone is not written again": Mutant(
        "zapq/core/holding.py",
        "        self.epoch, self._unique = held.epoch, held.unique\n        self._keep_again()\n",
        "        self.epoch, self._unique = held.epoch, held.unique\n",
        ("tests/core/test_undo.py",),
    ),
    "an acknowledgement that is undone frees its room": Mutant(
        "zapq/core/undoing.py",
        "        self._counts.acked -= 1\n        self._hold(1, message.size)\n        if lease",
        "        self._counts.acked -= 1\n        if lease",
        ("tests/core/test_undo.py",),
    ),
    "a lease that is undone goes on": Mutant(
        "zapq/core/undoing.py",
        "        self._leases.pop(lease.serial)\n        self._counts.received -= 1\n",
        "        self._counts.received -= 1\n",
        ("tests/core/test_undo.py",),
    ),
    "the space that was set aside is kept": Mutant(
        "zapq/store/database.py",
        "        self._reserve.release()\n        self.no_room = NO_ROOM\n",
        "        self.no_room = NO_ROOM\n",
        ("tests/store/test_reserve.py",),
    ),
    "a full disk takes messages": Mutant(
        "zapq/store/database.py",
        "        self._reserve.release()\n        self.no_room = NO_ROOM\n",
        "        self._reserve.release()\n",
        ("tests/store/test_reserve.py",),
    ),
    "batches are not measured against the disk": Mutant(
        "zapq/store/database.py",
        "        if growth > 0 and reserve.free() < needed:\n",
        "        if growth > 0 and reserve.free() < 0:\n",
        ("tests/store/test_reserve.py",),
    ),
    "the space is taken again without room beside it": Mutant(
        "zapq/store/database.py",
        "self._reserve.take(beside=self._wanted):",
        "self._reserve.take():",
        ("tests/store/test_reserve.py",),
    ),
    "commits on a full disk are written together": Mutant(
        "zapq/store/writer.py",
        "        if self._store.no_room:\n",
        "        if not self._store:\n",
        ("tests/store/test_writer.py",),
    ),
    "the log of a full disk is not emptied": Mutant(
        "zapq/store/database.py",
        "if full or (self.no_room and self._logged):",
        "if full:",
        ("tests/store/test_reserve.py",),
    ),
    "messages come back beside the row they share": Mutant(
        "zapq/store/packs.py",
        "    return found is None or found[0] + found[1] <= pack.row\n",
        "    return True\n",
        ("tests/store/test_packs.py",),
    ),
    "the machine: messages come back beside their row": Mutant(
        "zapq/store/packs.py",
        "    return found is None or found[0] + found[1] <= pack.row\n",
        "    return True\n",
        ("tests/core/test_machine_on_disk.py", "-k", "database"),
    ),
    "files that are gone are not looked for": Mutant(
        "zapq/store/database.py",
        "            self._place.check()\n",
        "            pass\n",
        ("tests/service/test_displaced.py",),
    ),
    "a client of a front end that leaves loses its message": Mutant(
        "zapq/engine/remote.py",
        "        if self.abandoned:\n            give_back(outcome)\n",
        "",
        ("tests/engine/test_front_ends.py",),
    ),
    "a front end does not send a message back": Mutant(
        "zapq/engine/remote.py",
        "            self._engine.tell(Ask.RETURN_MESSAGES, self.name, messages, self.tag)\n",
        "            pass\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "a front end does not send a lease back": Mutant(
        "zapq/engine/host.py",
        "            lender.return_undelivered([wire.unpack_lease(each, (queue, *common)) for each in leases])\n",
        "            pass\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "a long poll outlives its front end": Mutant(
        "zapq/engine/host.py",
        "            each.abandon()\n",
        "            pass\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "messages of a dead front end are not counted": Mutant(
        "zapq/engine/host.py",
        "                    delivery.queue.note_uncertain_delivery(len(delivery.given))\n",
        "                    pass\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "what gathers for a front end that died is lost": Mutant(
        "zapq/engine/host.py",
        "        for delivery in self._given:\n            give_back(delivery)\n",
        "",
        ("tests/engine/test_front_ends.py",),
    ),
    "a message goes back to another queue of its name": Mutant(
        "zapq/engine/host.py",
        "        lender = self._lenders.get(tag)\n",
        "        lender = next((each for each in self._lenders.values() if each.name == queue), None)\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "enqueues of one frame are told each other's ids": Mutant(
        "zapq/engine/host.py",
        "                ids.append(store(body, properties, delay, now).id)\n",
        "                ids.insert(0, store(body, properties, delay, now).id)\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "a front end sends what gathered last first": Mutant(
        "zapq/engine/remote.py",
        "        columns, self._columns, self._last = self._columns, [], ()\n",
        "        columns, self._columns, self._last = self._columns[::-1], [], ()\n",
        ("tests/engine/test_front_ends.py",),
    ),
    "Valkey gives the newest message first": Mutant(
        "zapq/engine/valkey/functions/take.lua",
        "    local popped = redis.call('LPOP', K[L], number)\n",
        "    local popped = redis.call('RPOP', K[L], number)\n",
        ("tests/engine/valkey/test_linearizability.py", "--all", "-k", "hot and not groups"),
    ),
    "Valkey puts what comes back behind the others": Mutant(
        "zapq/engine/valkey/functions/messages.lua",
        "    redis.call('ZADD', u.K[B], id - priority * STEP, id)\n",
        "    redis.call('ZADD', u.K[B], q[NEXT] + u.q[RELEASED] - priority * STEP, id)\n",
        ("tests/engine/valkey/test_linearizability.py", "--all", "-k", "hot and not groups"),
    ),
    "Valkey takes an acknowledgement of a lease that is over": Mutant(
        "zapq/engine/valkey/functions/take.lua",
        "      if lapsed ~= receipt then\n",
        "      if false then\n",
        ("tests/engine/valkey/test_linearizability.py", "--all", "-k", "hot and not groups"),
    ),
    "Valkey wakes the front end first that came last": Mutant(
        "zapq/engine/valkey/functions/step.lua",
        "    local first = redis.call('ZPOPMIN', u.K[W])\n",
        "    local first = redis.call('ZPOPMAX', u.K[W])\n",
        ("tests/engine/valkey/test_library.py", "-k", "wakes"),
    ),
    "Valkey gives one receipt to all consumers of a queue without visibility": Mutant(
        "zapq/engine/valkey/functions/take.lua",
        "    local is_over_at_once = is_lease and visibility == 0\n",
        "    local is_over_at_once = false\n",
        ("tests/engine/valkey/test_engine.py", "-k", "no_time"),
    ),
    "a large batch is decoded while another has its fingerprint made": Mutant(
        "zapq/server/hotpath.py",
        "        return slow.working\n",
        "        return False\n",
        ("tests/server/test_large_keyed.py", "-k", "lobby"),
    ),
    "large offers with a key are not counted while they wait": Mutant(
        "zapq/service/large_puts.py",
        "        if not reserved.cover(size):\n            return None\n",
        "",
        ("tests/service/test_large_puts.py",),
    ),
    "what a large offer is counted with stays": Mutant(
        "zapq/service/large_puts.py",
        "            reserved.release()\n",
        "            pass\n",
        ("tests/service/test_large_puts.py",),
    ),
    "all that are ready go on in one pass": Mutant(
        "zapq/service/section.py",
        "        self._left -= 1\n",
        "",
        ("tests/service/test_section.py",),
    ),
}


def copy(directory: Path) -> None:
    """Copy what git knows of this tree, as it is now."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)


def passes(directory: Path, tests: tuple[str, ...], seconds: float) -> bool:
    """Whether these tests pass in a copy; one that hangs does not."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-n0",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        # A fault may make a test hang, and the whole of it has to be waited for then.
        "--timeout=120",
        "--all",
    ]
    environ = os.environ | {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            [*command, *tests],
            cwd=directory,
            capture_output=True,
            text=True,
            env=environ,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if ended.returncode not in {0, 1}:
        raise click.ClickException(f"{' '.join(tests)} did not run:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.returncode == 0


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--seconds", default=300.0, show_default=True, help="Patience with the tests of one fault.")
def main(names: tuple[str, ...], seconds: float) -> None:
    """Try the faults named, or all of them."""
    unknown = set(names) - MUTANTS.keys()
    if unknown:
        raise click.UsageError(f"{', '.join(sorted(unknown))}: there are {', '.join(MUTANTS)}.")
    caught = 0
    passed: set[tuple[str, ...]] = set()
    """Tests that have been run without a fault."""
    chosen = {name: mutant for name, mutant in MUTANTS.items() if not names or name in names}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        copy(directory)
        for each, mutant in chosen.items():
            path = directory / mutant.file
            sound = path.read_text()
            if sound.count(mutant.old) != 1:
                raise click.ClickException(
                    f"{each}: its place is in {mutant.file} {sound.count(mutant.old)} times"
                )
            if mutant.tests not in passed:
                if not passes(directory, mutant.tests, seconds):
                    raise click.ClickException(f"{each}: {' '.join(mutant.tests)} fail without it")
                passed.add(mutant.tests)
            path.write_text(sound.replace(mutant.old, mutant.new))
            begun = time.perf_counter()
            found = not passes(directory, mutant.tests, seconds)
            path.write_text(sound)
            caught += found
            print(
                f"{each:28} {'caught' if found else 'SURVIVED'} in {time.perf_counter() - begun:.1f} s", flush=True
            )
    print(f"{caught} of {len(chosen)} caught")
    sys.exit(0 if caught == len(chosen) else 1)


if __name__ == "__main__":
    main()
