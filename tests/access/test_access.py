"""Who is let in, by which credential, and until when."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from zapq.access.access import Access, check
from zapq.access.certificate import NOBODY, Identities, identities, parse_identity
from zapq.access.grant import Grant, Role
from zapq.access.token import PREFIX, digest, new_token, parse_bearer
from zapq.errors import InvalidSetting, RoleMissing, Unauthenticated
from zapq.settings import Settings

SECRET = "zapq_" + "s" * 43


class Clock:
    """The time of day, for tests."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def permits(access: Access, shown: bytes, identities: Identities, role: Role, queue: str) -> bool:
    """Return whether a request with these credentials may be made, as the guard asks."""
    grant = access.find(shown, identities)
    return not access.configured or (grant is not None and grant.allows(role, queue))


def access(tmp_path: Path, *lines: str, token: str = "", clock: Clock | None = None) -> Access:
    path = tmp_path / "tokens"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return Access(Settings(token_file=str(path) if lines else "", token=token), wall=clock or Clock())


def line(name: str, secret: str, rest: str) -> str:
    return f"{name}:{digest(secret.encode()).hex()}:{rest}"


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def test_without_credentials_everybody_may_do_everything(tmp_path: Path) -> None:
    free = access(tmp_path)
    assert not free.configured
    assert permits(free, b"", NOBODY, "producer", "q")


def test_a_token_is_known_by_its_digest(tmp_path: Path) -> None:
    doors = access(tmp_path, line("billing", SECRET, "producer:inv*"))
    assert doors.who(bearer(SECRET)) == Grant("billing", frozenset({"producer"}), "inv*")
    assert doors.who(b"bEARER   " + SECRET.encode()).name == "billing"
    assert permits(doors, bearer(SECRET), NOBODY, "producer", "invoices")
    assert not permits(doors, bearer(SECRET), NOBODY, "producer", "emails")
    assert not permits(doors, bearer(SECRET), NOBODY, "consumer", "invoices")


@pytest.mark.parametrize(
    "shown",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        SECRET.encode(),
        b"Basic " + SECRET.encode(),
        bearer(SECRET[:-1]),
        bearer(SECRET + "s"),
        bearer(SECRET[:-1] + "S"),
        bearer(SECRET.upper()),
        bearer(digest(SECRET.encode()).hex()),
        bearer(SECRET) + b", " + bearer(SECRET),
        bearer(SECRET) + b" ",
        b"Bearer\t" + SECRET.encode(),
        b"Bearer \xff",
    ],
)
def test_anything_else_is_not(tmp_path: Path, shown: bytes) -> None:
    doors = access(tmp_path, line("billing", SECRET, "producer"))
    with pytest.raises(Unauthenticated) as refused:
        doors.who(shown)
    assert ("invalid_token" in (refused.value.challenge or "")) is bool(shown)
    assert not permits(doors, shown, NOBODY, "producer", "q")


def test_a_token_ends_when_its_time_is_up_also_where_it_is_remembered(tmp_path: Path) -> None:
    clock = Clock()
    doors = access(tmp_path, line("brief", SECRET, "producer:*:2027-01-15T08:00:10Z"), clock=clock)
    forgotten: list[bool] = []
    doors.on_change.append(lambda: forgotten.append(True))
    assert doors.until == clock.now + 10
    assert permits(doors, bearer(SECRET), NOBODY, "producer", "q")
    clock.now += 9.5
    doors.expire(clock.now)
    assert permits(doors, bearer(SECRET), NOBODY, "producer", "q")
    assert not forgotten
    clock.now += 0.5
    doors.expire(clock.now)
    assert forgotten
    assert not permits(doors, bearer(SECRET), NOBODY, "producer", "q")
    with pytest.raises(Unauthenticated, match="expired") as refused:
        doors.who(bearer(SECRET))
    assert refused.value.token == "brief"


def test_the_token_of_the_environment_may_do_everything(tmp_path: Path) -> None:
    doors = access(tmp_path, line("billing", SECRET, "producer"), token="correct-horse-battery")
    assert doors.who(b"Bearer correct-horse-battery").roles == {"admin"}
    assert doors.who(bearer(SECRET)).name == "billing"
    assert access(tmp_path, token="correct-horse-battery").configured


def test_credentials_are_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    doors = access(tmp_path, line("old", SECRET, "producer"))
    (tmp_path / "tokens").write_text("nonsense")
    with pytest.raises(InvalidSetting):
        doors.read()
    assert doors.who(bearer(SECRET)).name == "old"
    (tmp_path / "tokens").write_text(line("new", "n" * 20, "consumer"))
    forgotten: list[bool] = []
    doors.on_change.append(lambda: forgotten.append(True))
    doors.use(doors.read())
    assert forgotten
    assert doors.who(bearer("n" * 20)).name == "new"
    with pytest.raises(Unauthenticated):
        doors.who(bearer(SECRET))


CERTIFICATE = {
    "subject": ((("organizationName", "Shop"),), (("commonName", "mailer"),)),
    "subjectAltName": (
        ("DNS", "mailer.internal"),
        ("URI", "spiffe://prod/mailer"),
        ("email", "m@shop.example"),
        ("IP Address", "10.0.0.1"),
    ),
}


def test_a_certificate_says_who_its_holder_is() -> None:
    assert identities(CERTIFICATE) == {
        "CN=mailer",
        "DNS=mailer.internal",
        "URI=spiffe://prod/mailer",
        "email=m@shop.example",
    }
    assert identities(None) == identities({}) == NOBODY
    assert parse_identity("URI=spiffe%3A//prod/mailer") in identities(CERTIFICATE)


def test_a_certificate_lets_in_and_a_token_says_more(tmp_path: Path) -> None:
    doors = access(
        tmp_path,
        "other:@DNS=other.internal:admin",
        "mailer:@DNS=mailer.internal:consumer",
        "also:@CN=mailer:admin",
        line("billing", SECRET, "producer"),
    )
    shown = identities(CERTIFICATE)
    assert doors.who(b"", shown).name == "mailer"
    assert doors.who(bearer(SECRET), shown).name == "billing"
    with pytest.raises(Unauthenticated):
        doors.who(bearer("x" * 20), shown)
    with pytest.raises(Unauthenticated):
        doors.who(b"", frozenset({"DNS=CN=mailer", "CN=mailer.internal"}))


def test_a_missing_role_is_named_and_so_is_the_token_for_the_log() -> None:
    grant = Grant("billing", frozenset({"producer"}), "inv*")
    check(grant, "producer", "invoices")
    with pytest.raises(RoleMissing, match="needs the role consumer") as refused:
        check(grant, "consumer", "invoices")
    assert (refused.value.members, refused.value.token) == ({"role": "consumer"}, "billing")
    assert refused.value.challenge == 'Bearer realm="zapq", error="insufficient_scope", scope="consumer"'
    with pytest.raises(RoleMissing, match="needs the role producer for this queue"):
        check(grant, "producer", "invoices", "emails")
    with pytest.raises(RoleMissing, match="needs the role producer for all queues"):
        check(grant, "producer", None)


def test_tokens_are_random_and_say_what_they_are() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith(PREFIX) and len(each) == 48 and parse_bearer(bearer(each)) for each in made)


def test_a_token_is_compared_with_every_entry_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def noted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr("zapq.access.access.compare_digest", noted)
    secrets = [SECRET, "second" * 4, "third" * 4]
    doors = access(tmp_path, *(line(f"n{at}", each, "producer") for at, each in enumerate(secrets)))
    for shown in (*secrets, "unknown" * 4):
        compared.clear()
        permits(doors, bearer(shown), NOBODY, "producer", "q")
        assert compared == [(digest(each.encode()), digest(shown.encode())) for each in secrets]
