"""A disk that is full: consumers, a purge and a start empty it, whatever producers and other programs do."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.durable.test_faults import Disk, Server, mounted
from tests.support.process import assert_one_line, server_command
from tests.support.waiting import eventually_sync
from zapq.limits import DISK_RESERVE, MIB
from zapq.store.schema import FILE
from zapq.store.wal import FULL, PAGE, log_of

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

SIZE = 60_000
"""Bytes of a message that takes many pages."""
DISK = "56m"


def fill(server: Server) -> None:
    """Send messages until the disk takes no more, of this size and of a smaller one."""
    for size in (SIZE, 50):
        while server.enqueue(size):
            pass


def take_all(server: Server, how: str) -> None:
    """Empty the queue; nothing may be refused."""
    if how == "purge":
        assert server.ask("POST", "/queues/default/purge").status == 200
        server.default.clear()
    while server.default:
        if how == "dequeue":
            assert server.dequeue()
        else:
            assert server.ask("POST", "/queues/default/receive?visibility=600").status == 200
            assert server.ask("DELETE", f"/queues/default/receipts/{server.receipt}").status == 204
            server.default.pop(0)


def send_batch(server: Server, batch: bytes) -> int:
    """Send messages together, and return the status of the answer."""
    return post(server, "messages/batch", batch)


def post(server: Server, path: str, data: bytes) -> int:
    """Send msgpack, and return the status of the answer."""
    headers = {"Content-Type": "application/msgpack"}
    server.http.request("POST", f"/queues/default/{path}", data, headers)
    answer = server.http.getresponse()
    answer.read()
    return answer.status


def take_the_rest(disk: Disk) -> Path:
    """Take every byte of the disk that is free, as another program may, and return where they are."""
    data = disk.seen_from_outside
    filler = data / f"filler {len(list(data.glob('filler *')))}"
    with open(filler, "wb", buffering=0) as file:
        for size in (MIB, PAGE):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


@pytest.mark.parametrize("how", ["dequeue", "lease", "purge"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_disk_full_of_messages_is_emptied(tmp_path: Path, how: str, restarted: bool) -> None:
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        fill(server)
        assert len(server.default) > 300
        server.audit(tmp_path / "full", disk.seen_from_outside)
        if restarted:
            server.kill()
            server.start()
            assert not server.enqueue(SIZE)
        take_all(server, how)
        server.recover()
        for _ in range(100):
            assert server.enqueue(SIZE)
        server.kill()
        server.audit(tmp_path / "emptied", disk.seen_from_outside)


def test_the_log_says_once_that_the_disk_is_full_and_that_it_has_room(tmp_path: Path) -> None:
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        fill(server)
        refused = server.ask("POST", "/queues/default/messages?durability=memory", bytes(SIZE))
        assert refused.status == 503
        assert b"the disk is full" in refused.body
        # Consumers are to come.
        assert server.ask("GET", "/readyz").status == 200
        assert not server.stores()
        take_all(server, "lease")
        server.recover()
        said = [line["msg"] for line in server.stop()]
    assert said.count("storage full") == 1
    assert said.count("storage has room again") == 1
    assert "storage unavailable" not in said


def test_all_messages_of_a_full_disk_are_leased_at_once(tmp_path: Path) -> None:
    """Each delivery is counted on the disk, which takes room as well."""
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        fill(server)
        receipts = []
        for _ in server.default:
            assert server.ask("POST", "/queues/default/receive?visibility=600").status == 200
            receipts.append(server.receipt)
        for receipt in receipts:
            assert server.ask("DELETE", f"/queues/default/receipts/{receipt}").status == 204
        server.default.clear()
        server.recover()


def test_messages_on_a_full_disk_become_dead_letters(tmp_path: Path) -> None:
    """A dead letter is written anew; so many at once would not fit into the log."""
    settings = msgspec.json.encode({"max_receives": 1, "dead_letter": "dead"})
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        fill(server)
        assert server.ask("PUT", "/queues/default", settings).status == 200
        for _ in range(3):
            assert server.ask("POST", "/queues/default/receive/batch?max=100&visibility=1").status == 200
        eventually_sync(
            lambda: msgspec.json.decode(server.ask("GET", "/queues/dead").body)["ready"] == 300, "dead letters"
        )
        assert server.ask("POST", "/queues/dead/purge").status == 200
        assert server.ask("POST", "/queues/default/purge").status == 200
        server.default.clear()
        server.recover()
        assert "storage unavailable" not in [line["msg"] for line in server.stop()]


def test_batches_fill_the_disk_no_further(tmp_path: Path) -> None:
    batch = msgspec.msgpack.encode([bytes(SIZE)] * 100)
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        sent = 0
        while (answer := send_batch(server, batch)) == 202:
            sent += 100
        assert answer == 503
        # It was refused where it was written, after which the disk is tried.
        eventually_sync(lambda: server.ask("GET", "/readyz").status == 200, "the disk to take changes again")
        assert send_batch(server, batch) == 503
        for _ in range(sent):
            assert server.ask("GET", "/dequeue").status == 200
        server.recover()


def test_small_messages_that_share_rows_are_acknowledged_in_any_order(tmp_path: Path) -> None:
    """Most rows are taken apart on the way, which takes room as well."""
    bodies = [b"%d" % number + bytes(990) for number in range(100)]
    batch, together = msgspec.msgpack.encode(bodies), "/queues/default/receive/batch?max=1000&visibility=600"
    with mounted("32m", tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        while send_batch(server, batch) == 202:
            server.default += [body.rstrip(b".") for body in bodies]
        eventually_sync(lambda: server.ask("GET", "/readyz").status == 200, "the disk to take changes again")
        receipts: list[str] = []
        while (answer := server.ask("POST", together)).status == 200:
            receipts += (each["receipt"] for each in msgspec.json.decode(answer.body))
        assert len(receipts) == len(server.default) > 5000
        Random(7).shuffle(receipts)
        for first in range(0, len(receipts), 500):
            some = [{"receipt": each} for each in receipts[first : first + 500]]
            assert post(server, "settle", msgspec.msgpack.encode(some)) == 200
        server.default.clear()
        server.recover()
        server.kill()
        server.audit(tmp_path / "emptied", disk.seen_from_outside)


def test_another_program_takes_the_last_byte(tmp_path: Path) -> None:
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        for _ in range(100):
            assert server.enqueue(SIZE)
        fillers = [take_the_rest(disk)]
        fill(server)
        assert server.dequeue()
        # Now that the log is emptied, it also takes the rest of what zapq had set aside.
        fillers.append(take_the_rest(disk))
        server.kill()
        server.start()
        assert not server.enqueue(SIZE)
        while server.default:
            assert server.dequeue()
        assert not server.stores()
        for filler in fillers:
            filler.unlink()
        server.recover()


def test_a_full_disk_is_stopped_in_order_and_started_again(tmp_path: Path) -> None:
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        for _ in range(3):
            fill(server)
            server.stop()
            # Before the next start, another program takes what is free.
            filler = take_the_rest(disk)
            server.start()
            assert not server.enqueue(SIZE)
            assert server.dequeue()
            filler.unlink()
        while server.default:
            assert server.dequeue()
        server.recover()


def test_a_start_on_a_disk_without_a_byte_says_what_to_do(tmp_path: Path) -> None:
    with mounted(DISK, tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        assert server.enqueue()
        server.stop()
        (disk.seen_from_outside / f"{FILE}-reserve").unlink()
        filler = take_the_rest(disk)
        refused = disk.run(*server_command(disk.place, "--durable"))
        assert_one_line(refused, 1, f"{FILE} cannot be written: database or disk is full. Free 12 MiB of the disk")
        filler.unlink()
        server.start()
        assert server.dequeue()


def test_a_disk_too_small_for_the_reserve(tmp_path: Path) -> None:
    with mounted("13m", tmp_path / "disk") as disk, Server(disk.place, *disk.inside) as server:
        assert not server.enqueue()
        assert not server.dequeue() or not server.default
        log = log_of(disk.seen_from_outside / FILE)
        assert os.stat(log).st_size == FULL < DISK_RESERVE
