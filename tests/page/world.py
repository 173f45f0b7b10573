"""What the checks of the page have in common: the server, which they may stop, and one browser with its pages.

This runs in an environment of its own, with playwright and without zapq (scripts/browser): it speaks to the server
by HTTP, and to the page as a person does, by what it shows and how that is labelled.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.ports import free_ports

TOKENS = {
    "root": ("r" * 32, "admin"),
    "worker": ("w" * 32, "consumer"),
    "watcher": ("m" * 32, "metrics"),
    "emails": ("e" * 32, "metrics,consumer:emails*"),
}
"""Credentials by name: the token, and what the token file says of it."""
SECONDS = 45.0
"""Seconds after which a check gives up: far more than the server and the browser take on a busy machine."""
expect.set_options(timeout=SECONDS * 1000)
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
    `${event.violatedDirective}: ${event.blockedURI}`));
"""


class Server:
    """One zapq process, which can be stopped and started again at the same address."""

    def __init__(self, python: str, directory: Path) -> None:
        self._python = python
        self._directory = directory
        [self.port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        tokens = directory / "tokens"
        lines = (
            f"{name}:{hashlib.sha256(token.encode()).hexdigest()}:{rest}\n"
            for name, (token, rest) in TOKENS.items()
        )
        tokens.write_text("".join(lines))
        tokens.chmod(0o600)
        self._command = [python, "-m", "zapq", "--addr", f"127.0.0.1:{self.port}", "--durable"]
        self._command += ["--data-dir", str(directory / "data"), "--token-file", str(tokens)]
        self._command += ["--max-message-bytes", "16M", "--max-queues", "1100"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, and return when it answers."""
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        eventually(self._answers)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.url}/livez", timeout=5).status == 200)
        except OSError:
            return False

    def ask(self, method: str, target: str, body: bytes = b"", **fields: str) -> tuple[int, Any]:
        """Send a request as an administrator; return the status, and the body, decoded if it is JSON."""
        request = urllib.request.Request(f"{self.url}{target}", method=method, data=body or None)
        request.add_header("Authorization", f"Bearer {TOKENS['root'][0]}")
        for name, text in fields.items():
            request.add_header(name.replace("_", "-"), text)
        if body and not fields.get("Content_Type"):
            request.add_header("Content-Type", "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, data = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        return status, json.loads(data) if data[:1] in {b"{", b"["} else data

    def send(self, queue: str, *bodies: bytes, query: str = "", **fields: str) -> None:
        """Send messages to a queue."""
        for body in bodies:
            status, said = self.ask("POST", f"/queues/{queue}/messages{query}", body, **fields)
            assert status == 202, said

    def queue(self, name: str) -> dict[str, Any]:
        """Return what the server says of a queue."""
        status, said = self.ask("GET", f"/queues/{name}")
        assert status == 200, said
        found: dict[str, Any] = said
        return found

    def fail(self, queue: str, body: bytes) -> None:
        """Send a message, and let it fail: it is a dead letter of `queue`.dead then."""
        settings = json.dumps({"max_receives": 1, "dead_letter": f"{queue}.dead"}).encode()
        self.ask("PUT", f"/queues/{queue}", settings)
        self.send(queue, body)
        status, lease = self.ask("POST", f"/queues/{queue}/receive", Accept="application/json")
        assert status == 200, lease
        status, said = self.ask("POST", f"/queues/{queue}/receipts/{lease['receipt']}/release")
        assert status == 204, said


def eventually(holds: Callable[[], object], what: str = "") -> None:
    """Return once `holds` is true: what another process does can only be asked for."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what or holds}"
        time.sleep(0.05)


class World:
    """The server, and the browser."""

    def __init__(self, server: Server, browser: Browser, pictures: Path | None) -> None:
        self.server = server
        self.browser = browser
        self.pictures = pictures
        """Where pictures for the documentation go, if they are wanted."""
        self.complaints: list[str] = []
        """What went wrong in pages without being seen: violations, errors, requests to others."""

    @contextmanager
    def page(
        self,
        credential: str = "root",
        view: str = "#/",
        *,
        dark: bool = False,
        width: int = 1100,
        height: int = 800,
    ) -> Iterator[Page]:
        """Show a view in a window of its own, logged in; empty as `credential` is nobody."""
        context = self.browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
        )
        context.set_default_timeout(SECONDS * 1000)
        context.add_init_script(_WATCH)
        if credential:
            token = TOKENS[credential][0]
            # As if it had been entered in this tab.
            context.add_init_script(
                f"sessionStorage.getItem('zapq.token') ?? sessionStorage.setItem('zapq.token', '{token}')"
            )
        page = context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._note_request(request.url))
        try:
            page.goto(f"{self.server.url}/ui/{view}")
            yield page
            self.complaints += page.evaluate("window.violations")
            self._look_for_traces(context)
        finally:
            context.close()

    def _note_console(self, message: Any) -> None:
        # Chromium reports each answer that is a refusal, and each request that fails.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(f"console: {message.text}")

    def _note_request(self, url: str) -> None:
        if not url.startswith(f"{self.server.url}/"):
            self.complaints.append(f"asked another server: {url}")

    def _look_for_traces(self, context: BrowserContext) -> None:
        if context.cookies():
            self.complaints.append(f"cookies: {context.cookies()}")

    def draw_past(self, page: Page) -> None:
        """Have the page draw ten minutes that did not happen, if pictures are wanted: they are not waited for."""
        if self.pictures is not None:
            page.route("**/stats/history*", _tell_past)

    def picture(self, page: Page, name: str) -> None:
        """Take a picture for the documentation, if pictures are wanted."""
        if self.pictures is not None:
            page.screenshot(path=str(self.pictures / f"{name}.png"))


def _tell_past(route: Any) -> None:
    names = parse_qs(urlsplit(route.request.url).query)["queue"][0].split(",")
    queues = {}
    for name in names:
        of = sum(name.encode())
        wave = [1 + math.sin((at + of) / (7 + of % 9)) + math.sin(at / (3 + of % 4)) / 3 for at in range(120)]
        held = [round(40 * max(each, 0)) for each in wave]
        came = [max(round(30 + 10 * each), 0) for each in wave]
        went = [
            max(come - (now - before), 0) for come, now, before in zip(came, held, [held[0], *held], strict=False)
        ]
        age = [each // 4 for each in held]
        ready = [each * 3 // 4 for each in held]
        queues[name] = {"messages": held, "ready": ready, "in": came, "out": went, "age": age}
    route.fulfill(json={"seconds": 5, "at": "2026-11-29T12:00:00.000Z", "left_out": 0, "queues": queues})


def heading(page: Page, text: str) -> None:
    """Wait until the view with this heading is shown."""
    expect(page.get_by_role("heading", level=1, name=text)).to_be_visible()


def button(page: Page, name: str, *, exact: bool = True) -> Any:
    """Return the button of this name."""
    return page.get_by_role("button", name=name, exact=exact)


def said(page: Page, text: str) -> None:
    """Wait until the page says that something was done."""
    expect(page.get_by_role("status")).to_contain_text(text)
