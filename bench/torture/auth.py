"""Does anybody get in who should not?

Every endpoint, by every method, with every kind of credential there is and is not, the plain way and the other:
who is refused is refused with the right word and has changed nothing, and who may come in is not turned away.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.torture.report import Report
from bench.torture.server import Server, running
from tests.support.wire import Answer, Client, open_client
from zapq.access.grant import ROLES
from zapq.access.token import digest, new_token
from zapq.http.endpoints import ENDPOINTS, Endpoint

ENDPOINT_OF = {(endpoint.method, endpoint.path): endpoint for endpoint in ENDPOINTS}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
QUEUE, OTHER = "emails", "payments"
BODIES = {
    "/queues/{queue}/messages/batch": (b'["bWVzc2FnZQ=="]', "application/json"),
    "/queues/{queue}/settle": (b'[{"receipt":"1-1-1","action":"ack"}]', "application/json"),
    "/queues/{queue}": (b'{"max_messages":7}', "application/json"),
}
ANSWERED = {"GET", "HEAD", "OPTIONS"}
TRACES = (
    "uptime_sec",
    "requests",
    "cold_requests",
    "hot_requests",
    "goroutines",
    "open_fds",
    "connections",
    "engine_round_trips",
    "engine_calls",
    "engine_operations",
    "engine_wait_seconds",
    "engine_figures_age_sec",
)
"""What asking changes by itself."""
AGES = ("oldest_ready_age_seconds", "oldest_lease_age_seconds")
"""What changes with the time."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Something somebody may show, and what it is good for."""

    name: str
    fields: tuple[tuple[str, str], ...]
    query: str = ""
    roles: frozenset[str] = frozenset()
    known: bool = False
    """Whether it is a credential at all."""
    queue: str = "*"

    def expected(self, endpoint: Endpoint, queue: str) -> int:
        """Return 401, 403, or 200 for everything that lets in."""
        if endpoint.role is None:
            return 200
        if not self.known:
            return 401
        if endpoint.role == "any":
            return 200
        if endpoint.role not in self.roles and "admin" not in self.roles:
            return 403
        about = {"default": "default", "queue": queue, "server": "", "listed": self.queue}[endpoint.scope]
        return 200 if self.queue in {"*", about} else 403


def credentials(tokens: dict[str, str], random: Random) -> Iterator[Credential]:
    """Yield everything that may be shown."""
    admin = tokens["admin"]
    at = random.randrange(len(admin))
    damaged = admin[:at] + chr(ord(admin[at]) ^ 1) + admin[at + 1 :]
    for name, shown in {
        "none": (),
        "wrong": (new_token(),),
        "one byte off": (damaged,),
        "one byte short": (admin[:-1],),
        "its digest": (digest(admin.encode()).hex(),),
        "its name": ("admin",),
        "expired": (tokens["expired"],),
        "two": (tokens["producer"], admin),
        "the same twice": (admin, admin),
    }.items():
        yield Credential(name, tuple(("Authorization", f"Bearer {each}") for each in shown))
    yield Credential("basic", (("Authorization", f"Basic {admin}"),))
    yield Credential("no scheme", (("Authorization", admin),))
    yield Credential("another field", (("X-Authorization", f"Bearer {admin}"), ("Cookie", f"token={admin}")))
    yield Credential("in the query", (), query=f"access_token={admin}")
    for role in ROLES:
        fields = (("Authorization", f"Bearer {tokens[role]}"),)
        yield Credential(role, fields, roles=frozenset({role}), known=True)
        fields = (("Authorization", f"Bearer {tokens[f'{role} of {QUEUE}']}"),)
        yield Credential(f"{role} of {QUEUE}", fields, roles=frozenset({role}), known=True, queue=QUEUE)


def write_tokens(path: Path) -> dict[str, str]:
    """Write a token file with one of each kind, and return the tokens by name."""
    tokens, lines = {}, []
    kinds = {str(role): str(role) for role in ROLES}
    kinds |= {f"{role} of {QUEUE}": f"{role}:{QUEUE}" for role in ROLES}
    for name, good_for in (kinds | {"expired": "admin:*:2020-01-01"}).items():
        tokens[name] = new_token()
        lines.append(f"{name.replace(' ', '-')}:{digest(tokens[name].encode()).hex()}:{good_for}")
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return tokens


@asynccontextmanager
async def guarded(directory: Path) -> AsyncGenerator[tuple[Server, dict[str, str]], None]:
    """Run a server that knows one token of each kind."""
    path = directory / "tokens"
    tokens = write_tokens(path)
    async with running(directory, "--token-file", str(path)) as server:
        yield server, tokens


async def fill(client: Client, admin: dict[str, str]) -> str:
    """Put something everywhere, and return the receipt of a lease."""
    for queue in ("default", QUEUE, OTHER):
        for _ in range(3):
            await client.request("POST", f"/queues/{queue}/messages", b"message", admin)
    await client.request("POST", "/persist?file=a.json", b"", admin)
    answer = await client.request("POST", f"/queues/{QUEUE}/receive?visibility=3600", b"", admin)
    return answer.headers["zapq-receipt"]


async def look(client: Client, admin: dict[str, str]) -> tuple[Any, ...]:
    """Return everything that a request might have changed."""
    metrics = (await client.request("GET", "/metrics", b"", admin)).json
    return (
        {name: value for name, value in metrics.items() if name not in TRACES and name not in AGES},
        [
            {name: value for name, value in each.items() if name not in AGES}
            for each in (await client.request("GET", "/queues", b"", admin)).json
        ],
        _without_trace(await client.request("GET", "/snapshots", b"", admin)),
        (await client.request("GET", "/readyz")).status,
    )


def _without_trace(answer: Answer) -> Any:
    """Return what an answer says; a refusal names its request."""
    said = answer.json
    return {**said, "instance": ""} if isinstance(said, dict) else said


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, and what it should be answered."""

    method: str
    rule: str
    target: str
    credential: Credential
    cold: bool
    expected: int

    def __str__(self) -> str:
        way = "cold" if self.cold else "hot"
        return f"{self.method} {self.target} with {self.credential.name} ({way})"


def attempts(tokens: dict[str, str], receipt: str, random: Random) -> Iterator[Attempt]:
    """Yield every endpoint by every method with every credential."""
    rules = sorted({rule for _, rule in ENDPOINT_OF})
    for rule in rules:
        for queue in (QUEUE, OTHER) if "{queue}" in rule else (QUEUE,):
            path = rule.replace("{queue}", queue).replace("{receipt}", receipt).replace("{id}", "1")
            path = path.replace("{problem}", "queue-full").replace("{file}", "page.js")
            for method in METHODS:
                endpoint = ENDPOINT_OF.get(("GET" if method == "HEAD" else method, rule))
                if (method, rule) == ("HEAD", "/dequeue"):
                    endpoint = None
                for credential in credentials(tokens, random):
                    for cold in (False, True):
                        wanted = 200 if method == "OPTIONS" else 405
                        if endpoint is not None and method != "OPTIONS":
                            wanted = credential.expected(endpoint, queue)
                        file = "file=a.json" if rule in {"/persist", "/load"} else ""
                        query = "&".join(filter(None, (file, credential.query)))
                        target = f"{path}?{query}" if query else path
                        yield Attempt(method, rule, target, credential, cold, wanted)


async def make(url: str, attempt: Attempt) -> Answer:
    """Send one request."""
    body, media_type = b"", ""
    if attempt.method not in ANSWERED:
        body, media_type = BODIES.get(attempt.rule, (b"message", ""))
    async with open_client(url) as client:
        fields = [("Host", "localhost"), *attempt.credential.fields]
        if attempt.cold:
            fields.append(("TE", "trailers"))
        if media_type:
            fields.append(("Content-Type", media_type))
        if body:
            fields.append(("Content-Length", str(len(body))))
        await client.send_fields(attempt.method, attempt.target, body, fields)
        return await client.answer(attempt.method)


def judge(attempt: Attempt, answer: Answer, report: Report) -> None:
    """Note what is wrong with an answer."""
    status, fields = answer.status, answer.headers
    let_in = status not in {401, 403, 405}
    report.expect(
        status == attempt.expected if attempt.expected != 200 else let_in,
        f"{attempt}: {status} instead of {attempt.expected}",
    )
    if status == 401:
        shown = bool(attempt.credential.fields) and attempt.credential.name != "another field"
        report.expect("Bearer" in fields.get("www-authenticate", ""), f"{attempt}: no WWW-Authenticate")
        report.expect(("invalid_token" in fields["www-authenticate"]) is shown, f"{attempt}: {fields}")
    if status == 403 and attempt.method != "HEAD":
        report.expect(b'"role":"' in answer.body, f"{attempt}: the role is not named: {answer.body!r}")
    report.expect("x-trace-id" in fields, f"{attempt}: no trace id")


async def run(seed: int, scale: float) -> Report:
    """Try everything; at a smaller scale, a part of it, at random."""
    report, random = Report(), Random(seed)
    counts: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        async with guarded(Path(directory)) as (server, tokens):
            admin = {"Authorization": f"Bearer {tokens['admin']}"}
            async with open_client(server.url) as watcher:
                receipt = await fill(watcher, admin)
                every = [each for each in attempts(tokens, receipt, random) if random.random() < scale]
                refused = [each for each in every if each.expected != 200]
                # Who may drain does so last.
                allowed = [each for each in every if each.expected == 200]
                allowed.sort(key=lambda each: each.rule == "/drain")
                before = await look(watcher, admin)
                for attempt in refused:
                    answer = await make(server.url, attempt)
                    counts[answer.status] += 1
                    judge(attempt, answer, report)
                after = await look(watcher, admin)
                report.expect(before == after, f"what was refused has changed something: {before} {after}")
                for attempt in allowed:
                    answer = await make(server.url, attempt)
                    counts[answer.status] += 1
                    judge(attempt, answer, report)
            report.expect(await server.stop() == 0, "it did not end in order")
            text = server.log.read_text()
            for name, token in tokens.items():
                report.expect(token not in text, f"the log has the token {name}")
                report.expect(digest(token.encode()).hex() not in text, f"the log has the digest of {name}")
            report.failures += server.complaints()
    report.figures = {
        "requests": counts.total(),
        "refused": len(refused),
        "unexpected": len(report.failures),
        "answers": {str(status): number for status, number in sorted(counts.items())},
    }
    return report
