"""Run by systemd: both protocols for real, a socket to be notified on and sockets to listen on, and the units."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from click.core import ParameterSource

from tests.support.process import ENVIRON, messages
from tests.support.waiting import PATIENCE
from zapq.command.exit import EXIT_SIGNAL, EXIT_USAGE
from zapq.command.serve import serve_command
from zapq.errors import CannotStart
from zapq.limits import BACKLOG
from zapq.settings import Settings
from zapq.sources import load, unknown_variables
from zapq.systemd import FIRST_DESCRIPTOR, Handover, open_notifier, take

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

LAUNCHER = """
import os, sys
for place, descriptor in enumerate(map(int, filter(None, sys.argv[1].split(","))), start=3):
    os.dup2(descriptor, place)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "zapq", *sys.argv[2:]])
"""
"""What systemd does between fork and exec: sockets to their places, and for whom all this is meant."""
NEEDS_ABSTRACT = pytest.mark.skipif(sys.platform != "linux", reason="names without a file are Linux's")
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def launched(
    tmp_path: Path, *arguments: str, sockets: tuple[socket.socket, ...] = (), **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """Start the command as systemd would, with `sockets` as descriptors 3 and up."""
    with ExitStack() as stack:
        copies = [_copy(each, stack) for each in sockets]
        if sockets:
            environ["LISTEN_FDS"] = str(len(sockets))
        command = [sys.executable, "-c", LAUNCHER, ",".join(map(str, copies)), *arguments]
        process = stack.enter_context(
            subprocess.Popen(
                [*command, "--data-dir", str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRON | environ,
                pass_fds=copies,
            )
        )
        try:
            yield process
        finally:
            process.kill()


def _copy(sock: socket.socket, stack: ExitStack) -> int:
    # Far from the places they have to go to, so that none is overwritten before it was moved.
    descriptor = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
    stack.callback(os.close, descriptor)
    return descriptor


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Ask the process to stop, and return its exit code and what it complained about."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket such as systemd's, on which it is notified."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def exchange(sock: socket.socket, request: bytes) -> bytes:
    """Send a request, and return all that comes until the other side closes."""
    sock.sendall(request)
    return b"".join(iter(lambda: sock.recv(4096), b""))


def test_systemd_hears_when_clients_are_answered_that_all_is_well_and_when_that_ends(
    tmp_path: Path, manager: socket.socket
) -> None:
    with launched(
        tmp_path,
        *("--addr", "127.0.0.1:0"),
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        # Often enough for a test; and the kernel keeps some ten datagrams, which is 10 s for us to read them.
        WATCHDOG_USEC="2000000",
    ) as process:
        ready, status = heard(manager)
        assert ready == "READY=1"
        address = re.fullmatch(r"STATUS=listening on 127\.0\.0\.1:(\d+)", status)
        assert address is not None
        with socket.create_connection(("127.0.0.1", int(address[1])), timeout=PATIENCE) as client:
            assert exchange(client, HEALTH).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            assert heard(manager) == ["WATCHDOG=1"]
        assert ended(process) == (0, "")
        last = [["WATCHDOG=1"]]
        while last[-1] == ["WATCHDOG=1"]:
            last.append(heard(manager))
        assert last[-1] == ["STOPPING=1", "STATUS=shutting down, within 10 s"]


@NEEDS_ABSTRACT
def test_the_notification_socket_may_have_a_name_and_no_file(tmp_path: Path) -> None:
    name = f"zapq-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(f"\0{name}")
        with launched(tmp_path, "--addr", "127.0.0.1:0", NOTIFY_SOCKET=f"@{name}") as process:
            assert heard(manager)[0] == "READY=1"
            assert ended(process) == (0, "")
            # And no sign of life between: nobody asked for any.
            assert heard(manager)[0] == "STOPPING=1"


@pytest.mark.parametrize("address", ["{tmp_path}/nobody", "nonsense", "/" + 200 * "x", "@"])
def test_a_notification_socket_nobody_reads_does_no_harm(tmp_path: Path, address: str) -> None:
    with launched(
        tmp_path,
        *("--addr", "127.0.0.1:0"),
        NOTIFY_SOCKET=address.format(tmp_path=tmp_path),
        WATCHDOG_USEC="1000",
    ) as process:
        assert process.stdout is not None
        [listening] = messages(process.stdout.readline())
        assert listening["msg"] == "queue listening"
        [complaint] = messages(process.stdout.readline())
        assert (complaint["level"], complaint["msg"]) == ("WARNING", "cannot notify systemd")
        assert complaint["state"] == "READY=1"
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
        # Once, although it was tried again and again.
        assert [line["msg"] for line in messages(output)] == ["shutdown signal received", "bye"]


@pytest.fixture(params=["tcp", "unix"])
def inherited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    if request.param == "tcp":
        sock = socket.create_server(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
    with sock:
        sock.settimeout(PATIENCE)
        yield sock


def client_of(server: socket.socket) -> socket.socket:
    client = socket.socket(server.family)
    client.settimeout(PATIENCE)
    client.connect(server.getsockname())
    return client


def test_an_inherited_socket_serves_who_waited_there_and_outlives_the_process(
    tmp_path: Path, inherited: socket.socket, manager: socket.socket
) -> None:
    path = inherited.getsockname()
    spelled = f"unix:{path}" if isinstance(path, str) else f"127.0.0.1:{path[1]}"
    for _ in range(2):  # systemd starts the next process with the same socket
        early = client_of(inherited)
        early.sendall(HEALTH)
        with launched(
            tmp_path, "--addr", "fd://3", sockets=(inherited,), NOTIFY_SOCKET=str(tmp_path / "notify")
        ) as process:
            with early:
                assert exchange(early, b"").startswith(b"HTTP/1.1 200")
            assert heard(manager) == ["READY=1", f"STATUS=listening on {spelled}"]
            with client_of(inherited) as late:
                assert exchange(late, HEALTH).startswith(b"HTTP/1.1 200")
            assert ended(process) == (0, "")
        assert heard(manager)[0] == "STOPPING=1"
    # Whoever comes now waits for whom we start next.
    with client_of(inherited), inherited.accept()[0]:
        pass


@pytest.mark.parametrize("inherited", ["tcp"], indirect=True)
def test_a_descriptor_that_was_not_handed_over_is_one_line_and_exit_code_1(
    tmp_path: Path, inherited: socket.socket
) -> None:
    with launched(tmp_path, "--addr", "fd://4", sockets=(inherited,)) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert errors == "zapq: --addr 'fd://4' is not a socket of systemd's, which handed over fd://3.\n"


@pytest.mark.parametrize("inherited", ["tcp"], indirect=True)
def test_a_socket_left_over_is_a_warning(tmp_path: Path, inherited: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        launched(tmp_path, "--addr", "fd://4", sockets=(inherited, other)) as process,
    ):
        assert process.stdout is not None
        [warning] = messages(process.stdout.readline())
        assert (warning["level"], warning["handed"]) == ("WARNING", "fd://3 to fd://4")
        [listening] = messages(process.stdout.readline())
        assert listening["addr"] == f"127.0.0.1:{other.getsockname()[1]}"
        assert ended(process) == (0, "")


EVERYTHING = {
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "WATCHDOG_USEC": "30000000",
    "WATCHDOG_PID": "7",
    "LISTEN_PID": "7",
    "LISTEN_FDS": "2",
    "LISTEN_FDNAMES": "zapq.socket:zapq.socket",
}


def test_what_systemd_handed_over_is_read_once_and_left_to_no_child() -> None:
    environ = EVERYTHING | {"HOME": "/"}
    assert take(environ, 7) == Handover("/run/systemd/notify", 30.0, range(3, 5))
    assert environ == {"HOME": "/"}
    assert take(environ, 7) == Handover()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The watchdog waits for another process, or for whoever is the service's main one.
        ({"WATCHDOG_PID": "8"}, Handover("/run/systemd/notify", None, range(3, 5))),
        ({"WATCHDOG_PID": ""}, Handover("/run/systemd/notify", 30.0, range(3, 5))),
        ({"WATCHDOG_USEC": "0"}, Handover("/run/systemd/notify", None, range(3, 5))),
        ({"WATCHDOG_USEC": "-5"}, Handover("/run/systemd/notify", None, range(3, 5))),
        ({"WATCHDOG_USEC": "soon"}, Handover("/run/systemd/notify", None, range(3, 5))),
        # So do the sockets, but these always name theirs.
        ({"LISTEN_PID": "8"}, Handover("/run/systemd/notify", 30.0, None)),
        ({"LISTEN_PID": ""}, Handover("/run/systemd/notify", 30.0, None)),
        ({"LISTEN_FDS": "many"}, Handover("/run/systemd/notify", 30.0, None)),
        ({"LISTEN_FDS": "0"}, Handover("/run/systemd/notify", 30.0, range(3, 3))),
    ],
)
def test_what_is_for_another_process_or_makes_no_sense_is_as_good_as_nothing(
    changes: dict[str, str], expected: Handover
) -> None:
    environ = EVERYTHING | changes
    assert take(environ, 7) == expected
    assert environ == {}


@pytest.mark.parametrize(
    ("number", "handed"), [(0, "no socket"), (1, "fd://3"), (2, "fd://3 to fd://4"), (3, "fd://3 to fd://5")]
)
def test_only_sockets_that_were_handed_over_are_accepted(number: int, handed: str) -> None:
    handover = Handover(descriptors=range(3, 3 + number))
    for descriptor in range(7):
        settings = Settings(addr=f"fd://{descriptor}")
        Handover().check(settings)
        if descriptor in range(3, 3 + number):
            handover.check(settings)
        else:
            with pytest.raises(CannotStart, match=f"--addr 'fd://{descriptor}' is not .* handed over {handed}."):
                handover.check(settings)


@pytest.mark.parametrize(
    ("number", "addr", "warned"),
    [(0, ":8080", False), (1, ":8080", True), (1, "fd://3", False), (2, "fd://3", True)],
)
def test_sockets_nobody_serves_are_logged(
    number: int, addr: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Handover(descriptors=range(3, 3 + number)).check(Settings(addr=addr))
    assert ("not every inherited socket is served" in caplog.messages) == warned


def test_a_full_notification_socket_is_not_waited_for_and_logged_once(
    tmp_path: Path, manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with open_notifier(str(tmp_path / "notify")) as notifier:
        while not caplog.messages:
            notifier.tell("WATCHDOG=1")
        notifier.tell("WATCHDOG=1")
        assert caplog.messages == ["cannot notify systemd"]
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                assert heard(manager) == ["WATCHDOG=1"]
        # It works again once there is room.
        notifier.tell("STOPPING=1")
        assert heard(manager) == ["STOPPING=1"]


def test_a_status_is_one_line_of_utf_8(tmp_path: Path, manager: socket.socket) -> None:
    with open_notifier(str(tmp_path / "notify")) as notifier:
        notifier.tell("READY=1", "listening on unix:/a\nSTOPPING=1\udcff")
    assert manager.recv(4096) == b"READY=1\nSTATUS=listening on unix:/a STOPPING=1\\udcff"


def test_without_systemd_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with open_notifier("") as notifier:
        notifier.tell("READY=1", "listening")
    assert caplog.messages == []


async def test_signs_of_life_come_twice_in_the_time_the_watchdog_allows(
    tmp_path: Path, manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    with open_notifier(str(tmp_path / "notify")) as notifier, trio.move_on_after(44):
        await notifier.give_signs_of_life(30.0)
    assert trio.current_time() - begun == 44
    manager.setblocking(False)
    for _ in (0, 15, 30):
        assert heard(manager) == ["WATCHDOG=1"]
    with pytest.raises(BlockingIOError):
        heard(manager)


DEPLOY = Path(__file__).parent.parent / "deploy"
UNITS = [DEPLOY / name for name in ("zapq.service", "zapq.socket", "zapq.service.d/socket.conf")]


@pytest.fixture
def units() -> configparser.ConfigParser:
    """All that systemd is given, read as one; of what stands there twice, the last counts."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    assert parser.read(UNITS) == [str(unit) for unit in UNITS]
    return parser


def test_the_units_agree_with_what_zapq_takes_and_does(units: configparser.ConfigParser) -> None:
    service, defaults = units["Service"], Settings()
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/zapq")
    with serve_command(lambda **flags: 0).make_context("zapq", arguments) as context:
        sources = {name: context.get_parameter_source(name) for name in context.params}
    # Any other flag, neither the drop-in nor the operator's own could change.
    assert [name for name, source in sources.items() if source is ParameterSource.COMMANDLINE] == ["data_dir"]
    assert service["Environment"] == f"ZAPQ_ADDR=fd://{FIRST_DESCRIPTOR}"
    unit = (DEPLOY / "zapq.service").read_text()
    environ = dict(re.findall(r"^Environment=(\w+)=(\S+)$", unit, re.MULTILINE))
    assert unknown_variables(environ) == {}
    told = load(flags={"data_dir": context.params["data_dir"]}, environ=environ)
    # A directory that systemd keeps is for what outlives the process.
    assert told.durable
    assert told.data_dir == f"%S/{service['StateDirectory']}"
    assert float(service["TimeoutStopSec"]) > defaults.grace
    assert int(service["LimitNOFILE"]) > defaults.max_connections
    assert int(service["RestartPreventExitStatus"]) == EXIT_USAGE
    assert service["SuccessExitStatus"] == f"{EXIT_SIGNAL + signal.SIGINT} {EXIT_SIGNAL + signal.SIGTERM}"
    assert int(units["Socket"]["Backlog"]) == BACKLOG


def test_the_recipe_for_a_container_is_durable_and_not_run_by_root() -> None:
    recipe = (DEPLOY.parent / "Containerfile").read_text()
    steps = [line.split(" ", 1) for line in recipe.replace("\\\n", "").splitlines() if line[:1] not in {"", "#"}]
    environ = dict(pair.split("=") for verb, rest in steps if verb == "ENV" for pair in rest.split())
    assert unknown_variables(environ) == {}
    told = load(flags={}, environ=environ)
    assert told.durable
    verbs = [verb for verb, _ in steps]
    [user], [volume] = ([rest for verb, rest in steps if verb == wanted] for wanted in ("USER", "VOLUME"))
    number = user.partition(":")[0]
    assert int(number) > 0
    assert volume == told.data_dir
    # The directory is given to the user before it becomes a volume: what is changed later is lost.
    owned = f'"-o", "{number}", "-g", "{number}", "{volume}"]'
    [made] = [place for place, (_, rest) in enumerate(steps) if rest.endswith(owned)]
    assert made < verbs.index("VOLUME")
    assert verbs.index("USER") < verbs.index("ENTRYPOINT")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path, dirs_exist_ok=True)
    service = tmp_path / "zapq.service"
    service.write_text(service.read_text().replace("/opt/zapq/bin/zapq", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(service), str(tmp_path / "zapq.socket")]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    # What it says about this machine's own units is not about ours.
    assert [line for line in shown.stderr.splitlines() if "zapq" in line] == []
