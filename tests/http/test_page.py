"""The page's files as a browser gets them; what they do there, tests/page shows in a real one."""

from __future__ import annotations

import re

import pytest

from tests.support.wire import ask
from zapq.http.page import contents
from zapq.testing import ZapqServer

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
TEXTS = {name: file.body.decode() for name, file in contents().items()}


async def test_a_browser_that_asks_for_the_server_is_led_to_the_page(zapq_server: ZapqServer) -> None:
    for path in ("/", "/ui", "/ui?x=1"):
        for method in ("GET", "HEAD"):
            led = await ask(zapq_server.url, method, path, headers=HTML)
            assert (led.status, led.headers["location"], led.body) == (302, "/ui/", b"")
    for path, headers in (("/", {}), ("/", {"Accept": "*/*"}), ("/?Action=ListQueues", HTML)):
        answer = await ask(zapq_server.url, "GET", path, headers=headers)
        assert answer.status != 302, path
        if not headers or headers == {"Accept": "*/*"}:
            assert answer.json["detail"].endswith("The page for browsers is /ui/.")


@pytest.mark.parametrize("name", ["", *contents()])
async def test_each_file_has_its_type_and_a_strict_policy_and_is_sent_once(
    zapq_server: ZapqServer, name: str
) -> None:
    answer = await ask(zapq_server.url, "GET", f"/ui/{name}")
    file = contents()[name or "index.html"]
    assert (answer.status, answer.body) == (200, file.body)
    assert answer.headers["content-type"] == file.media_type
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    known = await ask(zapq_server.url, "GET", f"/ui/{name}", headers={"If-None-Match": f'"x", W/{file.tag}'})
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", file.tag)
    head = await ask(zapq_server.url, "HEAD", f"/ui/{name}")
    assert head.headers["content-length"] == str(len(file.body))


@pytest.mark.parametrize(
    "path", ["/ui/none.js", "/ui/..", "/ui/__init__.py", "/ui/%2e%2e/page.py", "/ui/page.js/"]
)
async def test_there_is_no_other_file(zapq_server: ZapqServer, path: str) -> None:
    assert (await ask(zapq_server.url, "GET", path)).status == 404


async def test_the_page_is_no_secret_but_what_it_asks_for_is(zapq_server: ZapqServer) -> None:
    refused = await ask(zapq_server.url, "POST", "/ui/", b"")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_the_html_runs_and_loads_nothing_but_the_files() -> None:
    html = TEXTS["index.html"]
    named = re.findall(r'(?:src|href)="([^"#][^"]*)"', html)
    assert set(named) <= TEXTS.keys()
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<iframe|<form", html)


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".js")])
def test_no_script_reads_text_as_html_or_as_a_program(name: str) -> None:
    text = TEXTS[name]
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "createContextualFragment",
        "DOMParser",
        "document.write",
        "srcdoc",
        "eval(",
        "new Function",
        'setTimeout("',
        "localStorage",
        "document.cookie",
        "http://",
        "https://",
    ):
        # The name of a vocabulary, which nothing loads.
        assert risky not in text.replace("http://www.w3.org/2000/svg", ""), risky
    assert text.count("\n") <= 650
    imported = re.findall(r'from "\./([^"]+)"', text)
    assert set(imported) <= TEXTS.keys()


def test_all_of_it_is_small() -> None:
    assert sum(len(file.body) for file in contents().values()) < 64 * 1024


async def test_a_dead_letter_may_have_a_large_id(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "POST", "/queues/dead/messages", b"x")
    for id, status in (("2147483648", 404), ("9" * 18, 404), ("9" * 19, 400)):
        assert (await ask(zapq_server.url, "POST", f"/queues/dead/redrive?id={id}")).status == status


async def test_the_names_of_as_many_queues_as_the_page_asks_of_fit_in_one_request(zapq_server: ZapqServer) -> None:
    names = "%2C".join(["q" * 80] * 20)
    answer = await ask(zapq_server.url, "GET", f"/stats/history?queue={names}&limit=100")
    assert answer.status == 200
