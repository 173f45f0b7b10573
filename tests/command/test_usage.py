"""What a mistyped command line is told, and what help says, read as a stranger reads them."""

from __future__ import annotations

import ssl

import pytest

from tests.support.process import assert_one_line
from tests.support.typed import TypeIn, typed
from zapq.client.talk import _reason
from zapq.command.http import Connection, parse_url
from zapq.service.named_queue import NamedQueue


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("push jobs x --priority 10", "Invalid value for '--priority': '10': give a whole number, 0 to 9."),
        ("message show jobs x", "Invalid value for 'ID': 'x': give a whole number, 1 or more."),
        ("queue redrive jobs --limit 0", "Invalid value for '--limit': '0': give a whole number, 1 or more."),
        (
            "push jobs hello world",
            "Got unexpected extra argument (world). If a value has spaces, put quotes around it."
            " See `zapq push --help`.",
        ),
        ("completion", "Missing argument 'SHELL'. Choose from: bash, zsh, fish. See `zapq completion --help`."),
    ],
)
def test_a_mistyped_line_is_told_what_to_write(words: str, said: str) -> None:
    assert_one_line(typed(*words.split()), 2, f"zapq: {said}\n")


def test_an_option_that_is_like_no_other_is_told_where_they_are() -> None:
    # Versions of Click put the name differently.
    refused = typed("--verbose")
    assert_one_line(refused, 2, "--verbose")
    assert refused.stderr.replace("'", "").endswith("--verbose. See `zapq serve --help`.\n")


async def test_an_empty_key_is_refused_and_not_taken_for_none(type_in: TypeIn, emails: NamedQueue) -> None:
    assert_one_line(await type_in("push", "emails", "x", "--key", ""), 1, "Idempotency-Key must be given once")
    assert emails.info().stats.messages == 0


@pytest.mark.parametrize("words", ["", "queue", "snapshot", "engine", "config", "token", "message"])
def test_a_list_of_commands_cuts_no_sentence_off(words: str) -> None:
    listed = typed(*words.split(), "--help").stdout.partition("Commands:")[2].partition("\nOptions of")[0]
    assert listed
    assert "..." not in listed


def test_ranges_are_shown_as_people_write_them() -> None:
    shown = typed("bench", "--help").stdout
    assert "--batch 1..1000" in shown
    assert "<=x<=" not in shown


def test_a_certificate_that_is_not_trusted_is_said_in_words() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    with Connection(parse_url("https://localhost:8443")) as connection:
        said = connection._explain(error)
    assert said.startswith("The server's certificate is not accepted: self-signed certificate. ")
    assert "SSL_CERT_FILE" in said
    assert _reason(error) == "its certificate is not accepted: self-signed certificate"


async def test_push_says_on_a_terminal_that_it_waits_for_the_message(type_in: TypeIn, emails: NamedQueue) -> None:
    done = await type_in("push", "emails", stdin="typed", terminal=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "Type the message, and end it with Ctrl-D.\n")
    assert (await type_in("push", "emails", stdin="piped")).stderr == ""
