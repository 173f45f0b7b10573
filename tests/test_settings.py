"""Flag beats environment beats file beats default, and nothing invalid is ever ignored.

One file, although it is long: a new setting has its cases here and nowhere else.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from zapq.addresses import Address, EngineAddress, parse_address, parse_engine
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidSetting
from zapq.quantities import parse_duration, parse_size
from zapq.settings import Option, Settings, options
from zapq.sources import load, unknown_variables

INVALID = {
    "address": ["", "8080", ":65536", "host", "unix:", "fd://x", "a b:1", "h\x7f:1"],
    "engine": [
        "x",
        "http://a:1",
        "valkey:a",
        "valkey://",
        "valkey://a:65536",
        "valkey://a:1,",
        "valkey://:1",
        "valkey+unix:",
        "a\0",
    ],
    "url": ["localhost", "ftp://x", "http://", "http://a b", "http://a\0"],
    "account": ["", "1", "12345678901a", "1234567890123", "\u0661" * 12],
    "hosts": [",", "a,,b", "a b", "a:80", "[::1]:80", "a/b", "*a", "a.*", "*.", "**", "h\xfclle", "x" * 64, "a\0"],
    "names": [",", "a,,b", "a b", ".a", "a/b", "h\xfclle", "x" * 81, "a\0"],
    "size": ["", "x", "-1", "1.5M", "1T", "1 M", "0", "9" * 16, "1MB", "٣", "9999999G"],
    "whole": ["", "x", "-1", "1.0", "1e3", "9" * 19, "+1", "1_000", "٣", "9" * 18],
    "cores": ["", "x", "-1", "0", "1.0", "257", "AUTO", "٣"],
    "seconds": [
        "",
        "x",
        "-1",
        "nan",
        "inf",
        "1e3",
        "1.",
        ".5",
        "99999999",
        "99999h",
        "1w",
        "1 h",
        "h",
        "1hs",
        "1m30s",
        "٣",
    ],
    "choice": ["", "x", "ANY", "info "],
    "switch": ["", "x", "2", "maybe", "truee"],
    "share": ["", "x", "2", "-0.1", "1.1", "1%", "1e-3", ".5", "nan"],
    "text": ["a\0b"],
    "file": [
        "a",
        "a.txt",
        "../a.json",
        "/a.json",
        ".a.json",
        "a b.json",
        "a.json\n",
        "-.json",
        "x" * 124 + ".json",
    ],
}
# Two valid texts of each kind, and what they mean.
VALID: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "address": (("[::1]:9000", "[::1]:9000"), ("unix:/run/q", "unix:/run/q")),
    "engine": (("valkey://a:1,b", "valkey://a:1,b"), ("valkey+unix:/run/s", "valkey+unix:/run/s")),
    "url": (("https://queue.example.com", "https://queue.example.com"), ("http://q:1/x", "http://q:1/x")),
    "account": (("123456789012", "123456789012"), ("000000000001", "000000000001")),
    "hosts": (("queue.example.com, *.internal", "queue.example.com, *.internal"), ("*", "*")),
    "names": (("emails, a.fifo", "emails, a.fifo"), ("x" * 80, "x" * 80)),
    "size": (("64K", 64 * 1024), ("1m", 1024 * 1024)),
    "whole": (("7", 7), ("08", 8)),
    "cores": (("2", 2), ("016", 16)),
    "seconds": (("2.5", 2.5), ("3", 3.0)),
    "switch": (("Yes", True), ("off", False)),
    "share": (("0.01", 0.01), ("on", 1.0)),
    "text": (("some thing", "some thing"), ("/ot/her", "/ot/her")),
    "file": (("a.msgpack", "a.msgpack"), ("x" * 123 + ".json", "x" * 123 + ".json")),
}
# What else must be said for an option to make sense; the options named are read from the flags.
COMPANIONS = {
    "engine_durability": {"engine": "valkey://a"},
    "engine_password_file": {"engine": "valkey://a"},
    "engine_ca": {"engine": "valkeys://a"},
    "tls_cert": {"tls_key": "k"},
    "tls_key": {"tls_cert": "c"},
    "http2": {"tls_cert": "c", "tls_key": "k"},
    "tls_client_ca": {"tls_cert": "c", "tls_key": "k"},
}
by_name = pytest.mark.parametrize("option", options(), ids=lambda option: option.name)


def valid(option: Option) -> tuple[tuple[str, Any], tuple[str, Any]]:
    if option.choices:
        return (option.choices[0], option.choices[0]), (option.choices[-1], option.choices[-1])
    return VALID[option.kind]


def toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "zapq.toml"
    file.write_text(text)
    return str(file)


def load_file(tmp_path: Path, text: str) -> Settings:
    return load(flags={}, environ={}, config=toml(tmp_path, text))


@by_name
def test_what_nobody_says_is_the_default(option: Option, tmp_path: Path) -> None:
    flags = dict.fromkeys(each.name for each in options())
    told = load(flags=flags, environ={}, config=toml(tmp_path, ""))
    assert getattr(told, option.name) == option.default
    assert told == Settings()


@by_name
def test_each_source_beats_the_next(option: Option, tmp_path: Path) -> None:
    (one, meaning_one), (two, meaning_two) = valid(option)
    file = toml(tmp_path, f'{option.name} = "{one}"')

    def told(flag: str | None, variable: str | None) -> Any:
        flags: dict[str, str | None] = {option.name: flag, **COMPANIONS.get(option.name, {})}
        environ = {option.env: variable} if variable is not None else {}
        return getattr(load(flags=flags, environ=environ, config=file), option.name)

    assert told(None, None) == meaning_one
    assert told(None, two) == meaning_two
    assert told(one, two) == meaning_one
    assert told(two, None) == meaning_two


def test_an_invalid_value_that_is_not_used_is_not_an_error(tmp_path: Path) -> None:
    file = toml(tmp_path, "max_msgs = 'x'\ngrace = 'x'")
    told = load(flags={"max_msgs": "5"}, environ={"QUEUE_MAX_MSGS": "x", "ZAPQ_GRACE": "2"}, config=file)
    assert (told.max_msgs, told.grace) == (5, 2.0)


@pytest.mark.parametrize(
    ("option", "text"),
    [(option, text) for option in options() for text in INVALID[option.kind]],
    ids=lambda value: value.name if isinstance(value, Option) else repr(value),
)
def test_an_invalid_value_is_refused_and_its_source_named(option: Option, text: str, tmp_path: Path) -> None:
    companions = COMPANIONS.get(option.name, {})
    with pytest.raises(InvalidSetting) as refusal:
        load(flags={option.name: text, **companions}, environ={})
    assert refusal.value.detail.startswith(f"{option.flag} {text!r}: ")
    if text:  # an empty variable counts as not set
        with pytest.raises(InvalidSetting) as refusal:
            load(flags=companions, environ={option.env: text})
        assert refusal.value.detail.startswith(f"{option.env}={text!r}: ")
    escaped = "".join(f"\\u{ord(character):04X}" for character in text)
    file = toml(tmp_path, f'{option.name} = "{escaped}"')
    with pytest.raises(InvalidSetting) as refusal:
        load(flags=companions, environ={}, config=file)
    assert refusal.value.detail.startswith(f"{file}: {option.name} = {text!r}: ")
    assert refusal.value.members == {"setting": option.name}


@by_name
def test_an_empty_variable_counts_as_not_set(option: Option, tmp_path: Path) -> None:
    (one, meaning), _ = valid(option)
    file = toml(tmp_path, f'{option.name} = "{one}"')
    told = load(flags=COMPANIONS.get(option.name, {}), environ={option.env: ""}, config=file)
    assert getattr(told, option.name) == meaning


@pytest.mark.parametrize("variable", ["ZAPQ_MAX_MSGS", "QUEUE_MAX_MSGS"])
def test_the_original_s_variables_have_a_name_like_all_others_too(variable: str) -> None:
    assert load(flags={}, environ={variable: "5"}).max_msgs == 5
    assert load(flags={"max_msgs": "7"}, environ={variable: "5"}).max_msgs == 7
    assert load(flags={}, environ={"ZAPQ_MAX_BYTES": "1M", variable: "5"}).max_bytes == 1 << 20
    with pytest.raises(InvalidSetting, match=f"^{variable}='x': give a whole number"):
        load(flags={}, environ={variable: "x"})


def test_both_variables_of_a_setting_may_be_set_if_they_say_the_same() -> None:
    environ = {"ZAPQ_MAX_BYTES": "1G", "QUEUE_MAX_BYTES": "1024M", "ZAPQ_MAX_MSGS": "", "QUEUE_MAX_MSGS": "5"}
    told = load(flags={}, environ=environ)
    assert (told.max_bytes, told.max_msgs) == (1 << 30, 5)
    with pytest.raises(InvalidSetting) as refusal:
        load(flags={}, environ=environ | {"ZAPQ_MAX_MSGS": "6"})
    assert refusal.value.detail == (
        "QUEUE_MAX_MSGS='5' and ZAPQ_MAX_MSGS='6' contradict each other: set one of them."
    )
    assert load(flags={"max_msgs": "7"}, environ=environ | {"ZAPQ_MAX_MSGS": "6"}).max_msgs == 7


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ZAPQ_MAX_MSG", "ZAPQ_MAX_MSGS"),
        ("ZAPQ_SNAPSHOTS_EVERY", "ZAPQ_SNAPSHOT_EVERY"),
        ("ZAPQ_TOKENS", "ZAPQ_TOKEN"),
        ("ZAPQ_HTTP", "ZAPQ_HTTP2"),
        ("ZAPQ_PORT", None),
    ],
)
def test_an_unknown_variable_is_found_with_what_was_probably_meant(variable: str, meant: str | None) -> None:
    assert unknown_variables({variable: "1", "HOME": "/"}) == {variable: meant}


def test_known_variables_and_those_of_container_platforms_are_not_unknown() -> None:
    known = {name: "1" for option in options() for name in option.variables}
    known |= {"ZAPQ_CONFIG": "a", "ZAPQ_TOKEN": "a", "ZAPQ_URL": "a", "ZAPQ_NO_SUCH": "", "QUEUE_NAME": "a"}
    # Kubernetes tells every container of a service called zapq, or zapq-admin, and Docker of a link.
    known |= {
        "ZAPQ_SERVICE_HOST": "10.0.0.1",
        "ZAPQ_SERVICE_PORT": "8080",
        "ZAPQ_SERVICE_PORT_HTTP": "8080",
        "ZAPQ_PORT": "tcp://10.0.0.1:8080",
        "ZAPQ_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "ZAPQ_PORT_8080_TCP_PROTO": "tcp",
        "ZAPQ_PORT_8080_TCP_PORT": "8080",
        "ZAPQ_PORT_8080_TCP_ADDR": "10.0.0.1",
        "ZAPQ_NAME": "/worker/zapq",
        "ZAPQ_ENV_PYTHON_VERSION": "3.13",
        "ZAPQ_ADMIN_SERVICE_HOST": "10.0.0.1",
        "ZAPQ_ADMIN_PORT": "udp://10.0.0.1:8080",
    }
    assert unknown_variables(known) == {}


def test_variables_that_are_not_ours_are_nothing_to_us() -> None:
    assert load(flags={}, environ={"ZAPQ_NO_SUCH": "1", "PATH": "/bin", "MAX_MSGS": "x"}) == Settings()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("0", 0),
        ("007", 7),
        ("268435456", 256 << 20),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("3g", 3 << 30),
        ("5m", 5 << 20),
    ],
)
def test_sizes_are_powers_of_1024_in_any_case(text: str, number: int) -> None:
    assert parse_size(text) == number


@pytest.mark.parametrize(
    "text", ["", "M", "1.5M", "-1", "+1", "1 M", " 1", "1\n", "1MB", "1KiB", "1T", "0x10", "٣"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 512M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("0.25", 0.25), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2H", 7200), ("0m", 0)],
)
def test_durations_are_seconds_unless_a_unit_says_otherwise(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        (":0", Address("", 0)),
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("example.org:65535", Address("example.org", 65535)),
        ("b\xfccher.example:1", Address("b\xfccher.example", 1)),
        ("[::1]:0", Address("::1", 0)),
        ("[::]:8080", Address("::", 8080)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("unix:/run/zapq.sock", Address(path="/run/zapq.sock")),
        ("unix:relative.sock", Address(path="relative.sock")),
        ("unix:" + "x" * 107, Address(path="x" * 107)),
        ("fd://3", Address(descriptor=3)),
        ("fd://0", Address(descriptor=0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert Settings(addr=text).address == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", "host", ":", "host:", ":65536", ":-1", ":+1", ":1.5", ": 80"),
        *("a b:1", "host:1\n", "\nhost:1"),
        *("::1:80", "[::1]", "[::1", "[]:1", "[[::1]]:1", "[::1]x:1", "http://host:1", "host:1:2"),
        *("unix:", "unix:/" + "x" * 107, "unix:/" + "\xe9" * 54, "unix:/a\0b"),
        *("fd://", "fd://x", "fd://-1", "fd://3/", "fd://1234567"),
        *(":\uff18\uff10", "\udc80:1", "h\x1b[31m:1", "h\u202e:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--addr"):
        Settings(addr=text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[queue.jobs]", r"a queue is declared in a table \[queues.jobs\], with an s."),
        ("max_msg = 1", "'max_msg' is not a setting; zapq --help lists them. Did you mean 'max_msgs'?"),
        ("max-msgs = 1", "'max-msgs' is not a setting"),
        ("config = 'other.toml'", "'config' is not a setting"),
        ("[server]\naddr = ':1'", "'server' is not a setting"),
        ("[max_msgs]\na = 1", "max_msgs must be one value, not dict"),
        ("max_msgs = [1]", "max_msgs must be one value, not list"),
        ("grace = 2020-01-01", "grace must be one value, not date"),
        ("max_msgs = ", "--config"),
        ("max_msgs = 1\nmax_msgs = 2", "--config"),
        ("max_msgs = true", "max_msgs = 'True': give a whole number"),
        ("max_msgs = 5.0", "max_msgs = '5.0': give a whole number"),
        ("max_msgs = -5", "max_msgs = '-5': give a whole number"),
        ("grace = nan", "grace = 'nan': give seconds"),
        ("grace = true", "grace = 'True': give seconds"),
        ("log_level = false", "log_level = 'False': give one of"),
        ("addr = 8080", "addr = '8080': give :8080"),
        ("tls_cert = 'c.pem'", "--tls-cert is given without --tls-key"),
        ("tls_key = 'k.pem'", "--tls-key is given without --tls-cert"),
        ("http2 = true", "--http2 needs"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidSetting, match=complaint):
        load_file(tmp_path, text)


def test_the_file_declares_queues(tmp_path: Path) -> None:
    settings = load_file(
        tmp_path,
        """
        max_msgs = 5
        [queues.jobs]
        visibility = "5m"
        max_receives = 5
        dead_letter = "jobs.dead"
        max_bytes = "64M"
        [queues."jobs.dead"]
        ttl = 86400
        rate = 0.5
        burst = 3
        max_leased = 4
        [queues.plain]
        """,
    )
    assert settings.max_msgs == 5
    assert settings.queues == {
        "jobs": QueueSettings(visibility=300, max_receives=5, dead_letter="jobs.dead", max_bytes=64 << 20),
        "jobs.dead": QueueSettings(ttl=86400, rate=0.5, burst=3, max_leased=4),
        "plain": QueueSettings(),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("queues = 5", "queues must be tables, such as [queues.jobs]."),
        ("[queues]\njobs = 5", "[queues.jobs] must be a table."),
        ("[queues.'a b']", """[queues."a b"]: queue must be 1 to 80 letters"""),
        (
            "[queues.jobs]\nvisibilty = 5",
            "[queues.jobs]: 'visibilty' is not a setting of a queue. The settings are: max_messages",
        ),
        (
            "[queues.jobs.dead]\nttl = 5",
            """[queues.jobs]: 'dead' is not a setting of a queue. For a queue of that name, write"""
            """ [queues."jobs.dead"].""",
        ),
        ("[queues.jobs]\nvisibility = 43201", "[queues.jobs] visibility = 43201: must be at most 43200 seconds."),
        ("[queues.jobs]\nvisibility = 'soon'", "[queues.jobs] visibility = 'soon': give seconds"),
        ("[queues.jobs]\nmax_bytes = '1T'", "[queues.jobs] max_bytes = '1T': give bytes"),
        (
            "[queues.jobs]\nmax_messages = '5'",
            "[queues.jobs] max_messages = '5': must be a whole number or null, not text.",
        ),
        ('[queues."a\\nb"]', r"""[queues."a\nb"]: queue must be 1 to 80 letters"""),
        ("[queues.jobs]\nmax_messages = 2020-01-01", "[queues.jobs] max_messages"),
        (
            "[queues.jobs]\nmax_receives = 5",
            "[queues.jobs] dead_letter: max_receives and dead_letter must be set together",
        ),
        (
            "[queues.a]\nmax_receives = 5\ndead_letter = 'b'\n[queues.b]\nmax_receives = 5\ndead_letter = 'a'",
            "[queues.b] dead_letter: Dead letters would move in a circle.",
        ),
        (
            "max_queues = 2\n[queues.a]\n[queues.b]",
            "[queues.b]: The server has as many queues as --max-queues allows: ",
        ),
    ],
)
def test_queues_that_make_no_sense_are_refused_with_file_section_and_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        load_file(tmp_path, text)
    assert refusal.value.detail.startswith(f"{tmp_path / 'zapq.toml'}: {complaint}")
    assert refusal.value.members == {"setting": "queues"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[queues.jobs]\nfifo = true",
            """[queues.jobs] fifo = true: the name of a FIFO queue, and of no other, ends in""",
        ),
        (
            "[queues.'a.fifo']\nfifo = false",
            """[queues."a.fifo"] fifo = false: the name of a FIFO queue, and of no other, ends in .fifo."""
            """ Write [queues.a], or leave fifo out.""",
        ),
        ("[queues.'a.fifo']\nfifo = 1", """[queues."a.fifo"] fifo = 1: give true or false."""),
        ("[queues.jobs]\nsqs = 5", "[queues.jobs] sqs = 5: give a table."),
        ("[queues.jobs]\ntags = []", "[queues.jobs] tags = []: give a table."),
        ("[queues.jobs.tags]\na = 1", "[queues.jobs] tags.a = 1: give text."),
        ("[queues.jobs.sqs]\nDelay = 1", "[queues.jobs] sqs.Delay = 1: SQS has no such attribute to set."),
        (
            "[queues.jobs.sqs]\nDelaySeconds = 901",
            "[queues.jobs] sqs.DelaySeconds = 901: give 0 to 900.",
        ),
        ("[queues.jobs.sqs]\nDelaySeconds = 1.5", "[queues.jobs] sqs.DelaySeconds = 1.5: give text, a number"),
        (
            "[queues.jobs.sqs]\nVisibilityTimeout = 5",
            "[queues.jobs] sqs.VisibilityTimeout = 5: every queue has this. Write visibility outside of sqs.",
        ),
        (
            "[queues.jobs.sqs]\nContentBasedDeduplication = true",
            "[queues.jobs] sqs.ContentBasedDeduplication = True: that is for FIFO queues, whose names end",
        ),
        (
            "[queues.'a.fifo'.sqs]\nDeduplicationScope = 'all'",
            """[queues."a.fifo"] sqs.DeduplicationScope = 'all': give queue or messageGroup.""",
        ),
        ("[queues.jobs.sqs]\nPolicy = 'x'", "[queues.jobs] sqs.Policy = 'x': give a policy that SQS takes."),
        (
            "[queues.jobs.sqs]\nRedriveAllowPolicy = {redrivePermission = 'none'}",
            "[queues.jobs] sqs.RedriveAllowPolicy = {'redrivePermission': 'none'}: give a policy that SQS takes.",
        ),
        (
            "addr = ':1'",
            "'addr' is not expected here. Declare queues, such as [queues.jobs]; settings of the server",
        ),
        ("queues = 'other.toml'", "queues must be tables, such as [queues.jobs]."),
    ],
)
def test_a_file_of_queues_is_refused_with_table_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "queues.toml"
    file.write_text(text)
    with pytest.raises(InvalidSetting) as refusal:
        load(flags={}, environ={}, queues=str(file))
    assert refusal.value.detail.startswith(f"{file}: {complaint}")


@pytest.mark.parametrize("flag", ["config", "queues"])
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("0x" + "f" * 5000, "an integer is out of range; TOML has those of 64 bits."),
        ("[[1, -9223372036854775809]]", "an integer is out of range"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_an_integer_too_long_to_be_shown_is_refused(tmp_path: Path, flag: str, value: str, complaint: str) -> None:
    file = tmp_path / "zapq.toml"
    file.write_text(f"[queues.jobs]\nmax_messages = {value}\n")
    with pytest.raises(InvalidSetting) as refusal:
        load(flags={}, environ={}, **{flag: str(file)})
    assert refusal.value.detail.startswith(f"--{flag} {str(file)!r}: {complaint}")


def test_a_file_of_queues_says_what_only_sqs_has(tmp_path: Path) -> None:
    file = tmp_path / "queues.toml"
    file.write_text("""
        [queues."jobs.fifo"]
        max_receives = 3
        dead_letter = "dead.fifo"
        notes = {owner = "mail"}
        sqs = {ContentBasedDeduplication = true, DelaySeconds = 5, DeduplicationScope = "messageGroup"}
        tags = {team = "x"}
        [queues."dead.fifo"]
        fifo = true
        [queues."dead.fifo".sqs.RedriveAllowPolicy]
        redrivePermission = "byQueue"
        sourceQueueArns = ["jobs.fifo"]
        """)
    declared = load(flags={}, environ={}, queues=str(file)).queues
    assert declared["jobs.fifo"] == QueueSettings(
        max_receives=3,
        dead_letter="dead.fifo",
        notes={
            "owner": "mail",
            "sqs:ContentBasedDeduplication": "true",
            "sqs:DelaySeconds": "5",
            "sqs:DeduplicationScope": "messageGroup",
            "sqs:scope": "messageGroup",
            "sqs:tag:team": "x",
        },
    )
    policy = '{"redrivePermission":"byQueue","sourceQueueArns":["jobs.fifo"]}'
    assert declared["dead.fifo"].notes == {"sqs:RedriveAllowPolicy": policy, "sqs:scope": "queue"}


def test_queues_may_be_in_two_files_but_each_in_one(tmp_path: Path) -> None:
    config, file = tmp_path / "zapq.toml", tmp_path / "queues.toml"
    config.write_text("max_queues = 3\n[queues.a]")
    file.write_text("[queues.b]")
    assert set(load(flags={}, environ={}, config=str(config), queues=str(file)).queues) == {"a", "b"}
    file.write_text("[queues.a]\n[queues.b]")
    with pytest.raises(InvalidSetting, match=r"\[queues\.a\] is declared in .* as well. Remove one of them\."):
        load(flags={}, environ={}, config=str(config), queues=str(file))
    file.write_text("[queues.b]\n[queues.c]\n[queues.d]")
    with pytest.raises(InvalidSetting, match=f"{config} and {file}: .queues.c.: The server has as many queues"):
        load(flags={}, environ={}, config=str(config), queues=str(file))
    config.write_text(f"queues = {str(file)!r}")
    assert set(load(flags={}, environ={}, config=str(config)).queues) == {"b", "c", "d"}
    file.unlink()
    with pytest.raises(InvalidSetting, match=r"--queues .*: No such file or directory\."):
        load(flags={}, environ={}, config=str(config))


def test_queues_that_are_named_count_against_the_limit(tmp_path: Path) -> None:
    config = tmp_path / "zapq.toml"
    config.write_text("max_queues = 3\nqueue = 'a,b'\n[queues.a]")
    settings = load(flags={}, environ={}, config=str(config))
    assert (set(settings.queues), set(settings.named_queues)) == ({"a"}, {"a", "b"})
    with pytest.raises(
        InvalidSetting, match=r"^--queue c: The server has as many queues as --max-queues allows: "
    ):
        load(flags={}, environ={"ZAPQ_QUEUE": "a,b,c"}, config=str(config))


def test_queues_declared_by_hand_are_checked_too() -> None:
    for queues, complaint in (
        ({"jobs": QueueSettings(visibility=-1)}, r"^\[queues\.jobs\]: .*must be at least 0"),
        ({"jobs": {"visibility": 5}}, r"^\[queues\.jobs\]: give QueueSettings\.$"),
        ({"a b": QueueSettings()}, r"^\[queues\.\"a b\"\]"),
    ):
        with pytest.raises(InvalidSetting, match=complaint):
            Settings(queues=queues)  # type: ignore[arg-type]
    assert hash(Settings(queues={"jobs": QueueSettings()}))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(b"data_dir = '\xe9'")
    for name in ("missing.toml", ".", "latin1.toml", "latin1.toml/below", "nul\0.toml"):
        path = str(tmp_path / name)
        with pytest.raises(InvalidSetting) as refusal:
            load(flags={}, environ={}, config=path)
        assert refusal.value.detail.startswith(f"--config {path!r}: ")
        assert refusal.value.members == {"setting": "config"}


def test_numbers_and_switches_may_be_written_bare_in_toml(tmp_path: Path) -> None:
    settings = load_file(
        tmp_path, "max_bytes = 1_048_576\ngrace = 2.5\nhttp2 = true\ntls_cert = 'c'\ntls_key = 'k'\nmax_msgs = 5"
    )
    assert (settings.max_bytes, settings.grace, settings.http2, settings.max_msgs) == (1 << 20, 2.5, True, 5)
    assert settings.tls
    assert load_file(tmp_path, "http2 = false").http2 is False


def test_tls_may_come_from_two_sources(tmp_path: Path) -> None:
    settings = load(flags={"tls_cert": "c"}, environ={"ZAPQ_TLS_KEY": "k"}, config=toml(tmp_path, "http2 = 'on'"))
    assert (settings.tls_cert, settings.tls_key, settings.tls, settings.http2) == ("c", "k", True, True)
    assert not Settings().tls


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"max_msgs": 0}, "--max-msgs 0: give 1 to 1 000 000 000 000."),
        ({"max_msgs": "5"}, "--max-msgs '5': give a number."),
        ({"max_msgs": 5.0}, "--max-msgs 5.0: give a number."),
        ({"max_msgs": True}, "--max-msgs True: give a number."),
        ({"max_message_bytes": 2**24 + 1}, "--max-message-bytes 16777217: give 1 to 16 777 216."),
        ({"max_bytes": 2**50 + 1}, "--max-bytes 1125899906842625: give 1 to 1 125 899 906 842 624."),
        ({"keep_alive": 0}, "--keep-alive 0: give 0.1 to 86 400 seconds."),
        ({"grace": True}, "--grace True: give a number."),
        ({"grace": float("nan")}, "--grace nan: give 0 to 3 600 seconds."),
        ({"grace": float("inf")}, "--grace inf: give 0 to 3 600 seconds."),
        ({"log_level": "loud"}, "--log-level 'loud': give one of debug, info, warning, error."),
        ({"log_level": ["info"]}, "--log-level ['info']: give text."),
        ({"http2": "no"}, "--http2 'no': give true or false."),
        ({"http2": 1}, "--http2 1: give true or false."),
        ({"addr": 8080}, "--addr 8080: give text."),
        ({"data_dir": b"x"}, "--data-dir b'x': give text."),
        ({"data_dir": "a\0b"}, "--data-dir 'a\\x00b': give text without a NUL byte."),
        ({"tls_cert": None}, "--tls-cert None: give text."),
        ({"tls_cert": "c"}, "--tls-cert is given without --tls-key: TLS needs both."),
        ({"tls_key": "k"}, "--tls-key is given without --tls-cert: TLS needs both."),
        (
            {"http2": True},
            "--http2 needs --tls-cert and --tls-key: zapq speaks HTTP/2 over TLS only.",
        ),
    ],
)
def test_settings_made_by_hand_are_checked_too(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        Settings(**wrong)
    assert refusal.value.detail == complaint


@by_name
def test_the_bounds_themselves_are_allowed(option: Option) -> None:
    if option.high:
        for bound in (option.low, option.high):
            bounds: dict[str, Any] = {option.name: bound}
            assert getattr(Settings(**bounds), option.name) == bound


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.max_msgs = 1  # type: ignore[misc]


def test_every_option_is_spelled_once_and_explained() -> None:
    flags = [option.flag for option in options()]
    variables = [option.env for option in options()]
    assert len(set(flags)) == len(set(variables)) == len(flags)
    for option in options():
        assert option.help.endswith(".")
        option.check(option.default)


def test_an_engine_s_url_is_taken_apart() -> None:
    servers = (Address(host="a", port=6379), Address(host="::1", port=7))
    assert parse_engine("") is None
    assert parse_engine("valkey://a,[::1]:7/") == EngineAddress(servers=servers)
    told = parse_engine("valkeys://me:p%40ss@a")
    assert told == EngineAddress(servers=servers[:1], tls=True, user="me", password="p@ss")
    assert "p@ss" not in repr(told)
    assert parse_engine("redis://:secret@a") == EngineAddress(servers=servers[:1], password="secret")
    assert parse_engine("valkey+unix:/run/s") == EngineAddress(servers=(Address(path="/run/s"),))


def test_a_refusal_does_not_show_the_password_of_an_engine() -> None:
    url = "valkey://me:secret@a:x"
    for flags, environ in (({"engine": url}, {}), ({}, {"ZAPQ_ENGINE": url})):
        with pytest.raises(InvalidSetting) as refusal:
            load(flags=flags, environ=environ)
        assert "secret" not in refusal.value.detail
        assert "valkey://...@a:x" in refusal.value.detail
    assert "secret" not in repr(Settings(engine="valkey://me:secret@a"))


@pytest.mark.parametrize(
    "given",
    [
        {"durable": True},
        {"snapshot_every": 60.0},
        {"snapshot_on_exit": "a.msgpack"},
        {"load_on_start": "a.msgpack"},
    ],
)
def test_what_has_no_meaning_with_an_engine_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="does not go with --engine"):
        Settings(engine="valkey://a", **given)


@pytest.mark.parametrize("name", ["engine_durability", "engine_password_file", "engine_ca"])
def test_what_is_about_an_engine_needs_one(name: str) -> None:
    with pytest.raises(InvalidSetting, match="need --engine"):
        load(flags={name: "committed"}, environ={})
