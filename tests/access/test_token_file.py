"""The token file: what it may say, and that everything else is one line which says what is wrong."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest

from zapq.access import token_file
from zapq.access.grant import Grant
from zapq.access.token import digest
from zapq.errors import InvalidSetting

HEX = digest(b"secret").hex()


def write(tmp_path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = tmp_path / "tokens"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def test_lines_say_who_may_do_what(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"# the shop\n\n billing:{HEX}:producer,consumer\n"
        f"mailer:{'0' * 64}:consumer:emails*\n"
        "ops:@CN=ops:admin:*:2027-01-31T12:00:00Z\n"
        "mesh:@URI=spiffe%3A//prod/mesh:metrics\n",
        mode=0o644,
    )
    billing, mailer, ops, mesh = token_file.read(path)
    assert billing == token_file.Credential(
        Grant("billing", frozenset({"producer", "consumer"}), "*", inf), digest(b"secret")
    )
    assert mailer.grant.queues == "emails*"
    assert (ops.identity, ops.digest, ops.grant.expires) == ("CN=ops", b"", 1801396800.0)
    assert mesh.identity == "URI=spiffe://prod/mesh"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no credentials"),
        ("# nothing\n\n", "it has no credentials"),
        ("x", "line 1: give name:credential:roles"),
        (f"\nx:{HEX}", "line 2: give name:credential:roles"),
        (f"x:{HEX}:", "line 1: give one or more of"),
        (f"x:{HEX}:root", "line 1: give one or more of"),
        (f":{HEX}:admin", "line 1: a name must be"),
        (f"x y:{HEX}:admin", "line 1: a name must be"),
        ("x:secret:admin", "line 1: the credential must be the SHA-256"),
        (f"x:{HEX.upper()}:admin", "line 1: the credential must be the SHA-256"),
        (f"x:{HEX[:-1]}:admin", "line 1: the credential must be the SHA-256"),
        ("x:@ops:admin", "line 1: after @, give CN="),
        ("x:@IP=::1:admin", "line 1: give one or more of"),
        (f"x:{HEX}:admin:", "line 1: queues must be"),
        (f"x:{HEX}:admin:2027-01-31", "line 1: the date must come after the queues"),
        (f"x:{HEX}:admin:*:", "line 1: give a date"),
        (f"x:{HEX}:admin:*:never", "line 1: give a date"),
        (f"x:{HEX}:admin:*:2027-01-31:more", "line 1: give a date"),
        (f"x:{HEX}:admin\nx:{'0' * 64}:admin", "line 2 has the same name or credential as line 1"),
        (f"x:{HEX}:admin\n\ny:{HEX}:producer", "line 3 has the same name or credential as line 1"),
        ("x:@CN=a:admin\ny:@CN=a:admin", "line 2 has the same name or credential as line 1"),
        (b"\xff\xfe", "can't decode"),
        (b"x" * (2**20 + 1), "larger than 1048576 bytes"),
        ("".join(f"n{number}:{number:064x}:admin\n" for number in range(1001)), "over 1000 credentials"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said) as refused:
        token_file.read(write(tmp_path, text))
    assert "secret" not in str(refused.value)
    assert HEX not in str(refused.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidSetting, match="chmod go-w"):
        token_file.read(write(tmp_path, f"x:{HEX}:admin", mode))


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, said in {"fifo": "not a plain file", "none": "No such file", ".": "Is a directory"}.items():
        with pytest.raises(InvalidSetting, match=said):
            token_file.read(str(tmp_path / path))
