"""Flag beats environment beats file beats default, and nothing invalid is ever ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from zapq.errors import InvalidSetting
from zapq.settings import Address, Option, Settings, load, options, parse_address, parse_size

INVALID = {
    "size": ["", "x", "-1", "1.5M", "1T", "1 M", "0", "9" * 16, "1MB", "٣"],
    "whole": ["x", "-1", "1.0", "1e3", "9" * 19, "+1"],
    "seconds": ["x", "-1", "nan", "inf", "1e3", "1.", ".5", "99999999"],
    "choice": ["x", "ANY"],
    "switch": ["x", "2", "maybe"],
}
VALID = {"size": "64K", "whole": "7", "seconds": "2.5", "switch": "true"}


def valid(option: Option) -> str:
    return option.choices[-1] if option.choices else VALID.get(option.kind, ":9000")


def load_file(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "zapq.toml"
    file.write_text(text)
    return load(flags={}, environ={}, config=str(file))


ALONE = [option for option in options() if option.name not in {"tls_cert", "tls_key", "http2"}]


@pytest.mark.parametrize("option", ALONE, ids=lambda option: option.name)
def test_each_source_beats_the_next(option: Option, tmp_path: Path) -> None:
    file = tmp_path / "zapq.toml"
    file.write_text(f'{option.name} = "{valid(option)}"')
    told = option.parse(valid(option))
    default = getattr(Settings(), option.name)
    text = {"size": "1M", "whole": "9", "seconds": "3"}.get(option.kind, str(option.default))
    other = option.parse(text)

    assert getattr(load(flags={}, environ={}), option.name) == default
    assert getattr(load(flags={}, environ={}, config=str(file)), option.name) == told
    assert getattr(load(flags={}, environ={option.env: text}, config=str(file)), option.name) == other
    flags = {option.name: valid(option)}
    assert getattr(load(flags=flags, environ={option.env: text}, config=None), option.name) == told


@pytest.mark.parametrize(
    ("option", "text"),
    [(option, text) for option in options() for text in INVALID.get(option.kind, [])],
    ids=lambda value: value.name if isinstance(value, Option) else repr(value),
)
def test_an_invalid_value_is_refused_and_its_source_named(option: Option, text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=option.flag):
        load(flags={option.name: text}, environ={})
    if text:  # an empty variable counts as not set
        with pytest.raises(InvalidSetting, match=option.env):
            load(flags={}, environ={option.env: text})
    with pytest.raises(InvalidSetting, match=r"zapq\.toml"):
        load_file(tmp_path, f'{option.name} = "{text}"')


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(flags={}, environ={option.env: "" for option in options()}) == Settings()


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1", 1), ("268435456", 256 << 20), ("512M", 512 << 20), ("2G", 2 << 30), ("64k", 64 << 10), ("3g", 3 << 30)],
)
def test_sizes_are_powers_of_1024_in_any_case(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        (":0", Address("", 0)),
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("example.org:65535", Address("example.org", 65535)),
        ("[::1]:0", Address("::1", 0)),
        ("unix:/run/zapq.sock", Address(path="/run/zapq.sock")),
        ("fd://3", Address(descriptor=3)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "8080",
            "host",
            ":",
            ":65536",
            ":-1",
            "::1:80",
            "[::1]",
            "a b:1",
            "unix:",
            "fd://",
            "fd://x",
            "fd://-1",
        ),
        *("unix:/" + "x" * 107, ":\uff18\uff10", "host:1\n"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--addr"):
        Settings(addr=text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_msg = 1", "'max_msg' is not a setting"),
        ("[server]\naddr = ':1'", "'server' is not a setting"),
        ("max_msgs = [1]", "must be one value"),
        ("max_msgs = ", "--config"),
        ("max_msgs = true", "whole number"),
        ("tls_cert = 'c.pem'", "--tls-cert is given without --tls-key"),
        ("tls_key = 'k.pem'", "--tls-key is given without --tls-cert"),
        ("http2 = true", "--http2 needs"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidSetting, match=complaint):
        load_file(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(InvalidSetting, match="--config"):
            load(flags={}, environ={}, config=str(path))


def test_numbers_and_switches_may_be_written_bare_in_toml(tmp_path: Path) -> None:
    settings = load_file(
        tmp_path, "max_bytes = 1048576\ngrace = 2.5\nhttp2 = true\ntls_cert = 'c'\ntls_key = 'k'\nmax_msgs = 5"
    )
    assert (settings.max_bytes, settings.grace, settings.http2, settings.max_msgs) == (1 << 20, 2.5, True, 5)


@pytest.mark.parametrize("wrong", [{"max_msgs": 0}, {"max_msgs": "5"}, {"grace": True}, {"log_level": "loud"}])
def test_settings_made_by_hand_are_checked_too(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        Settings(**wrong)  # type: ignore[arg-type]
