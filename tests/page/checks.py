"""What a person does with the page, and that the server then did it. `drive.py` runs these in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.page.world import TOKENS, World, button, eventually, heading, said

CHECKS: dict[str, Callable[[World], None]] = {}


def check(function: Callable[[World], None]) -> Callable[[World], None]:
    """Have this run."""
    CHECKS[function.__name__] = function
    return function


@check
def it_asks_for_a_token_and_keeps_it_in_the_tab(world: World) -> None:
    with world.page("", "") as page:
        page.goto(f"{world.server.url}/")
        assert page.url == f"{world.server.url}/ui/", page.url
        heading(page, "Log in")
        page.get_by_label("Token").fill("x" * 32)
        page.keyboard.press("Enter")
        expect(page.get_by_text("The server does not know this token")).to_be_visible()
        page.get_by_label("Token").fill(TOKENS["root"][0])
        button(page, "Log in").click()
        heading(page, "Queues")
        kept = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
        assert kept == [{"zapq.token": TOKENS["root"][0]}, {}, ""], kept
        assert TOKENS["root"][0] not in page.content()
        button(page, "Forget the token").click()
        heading(page, "Log in")
        assert page.evaluate("sessionStorage.length") == 0


@check
def queues_are_shown_as_they_are_now(world: World) -> None:
    world.server.send("emails", b"one", b"two")
    world.server.send("emails", b"later", query="?delay=60")
    world.server.send("jobs", b"one")
    with world.page() as page:
        row = page.get_by_role("row", name=re.compile("^emails"))
        expect(row.get_by_role("cell").nth(0)).to_have_text("2")
        expect(row.get_by_role("cell").nth(1)).to_have_text("1")
        world.server.send("emails", b"three")
        expect(row.get_by_role("cell").nth(0)).to_have_text("3")
        expect(row.get_by_role("cell").nth(3)).to_have_text(re.compile("^[0-9.]+ s$"))
        expect(row.get_by_role("cell").nth(4)).to_have_text(re.compile("^[0-9]"))
        expect(row.get_by_role("img")).to_have_attribute("aria-label", re.compile("ten minutes"))
        assert world.server.queue("emails")["ready"] == 3


@check
def queues_are_searched_and_sorted(world: World) -> None:
    with world.page() as page:
        names = page.get_by_role("rowheader")
        expect(names.first).to_contain_text("default")
        button(page, "Ready").click()
        expect(names.first).to_contain_text("emails")
        expect(page.get_by_role("columnheader", name="Ready")).to_have_attribute("aria-sort", "descending")
        button(page, "Ready").click()
        expect(names.first).to_contain_text("default")
        page.get_by_label("Search").fill("EMA")
        expect(names).to_have_count(1)
        page.get_by_label("Search").fill("none such")
        expect(page.get_by_text("No queue has such a name.")).to_be_visible()


@check
def a_message_is_sent(world: World) -> None:
    with world.page(view="#/queues/sent") as page:
        expect(page.get_by_text("There is no queue of this name.")).to_be_visible()
        page.get_by_text("Send a message").click()
        page.get_by_label("Body", exact=True).fill("grüße")
        page.get_by_label("Priority").fill("7")
        page.get_by_label("Type").fill("text/x-greeting")
        button(page, "Send").click()
        said(page, "Sent: message 1.")
        expect(page.get_by_text("1: grüße")).to_be_visible()
        [message] = world.server.ask("GET", "/queues/sent/messages?body=text")[1]
        shown = (message["body"], message["priority"], message["content_type"])
        assert shown == ("grüße", 7, "text/x-greeting"), message


@check
def messages_are_looked_at_and_stay(world: World) -> None:
    body = json.dumps({"to": "Ann", "items": [1, 2]}).encode()
    world.server.send("looked", body, Zapq_Header_Tenant="acme", Content_Type="application/json")
    world.server.send("looked", b"\xff\xfe\x00raw")
    with world.page(view="#/queues/looked") as page:
        page.get_by_text('1: {"to"').click()
        shown = page.get_by_label("Body of message 1")
        expect(shown).to_have_text(re.compile(r'"to": "Ann"'))
        button(page, "Hex").click()
        expect(shown).to_contain_text("7b 22 74 6f")
        button(page, "Text").click()
        expect(shown).to_have_text(body.decode())
        expect(page.get_by_role("row", name="Header tenant")).to_contain_text("acme")
        page.get_by_text("2: bytes ff fe 00").click()
        expect(page.get_by_label("Body of message 2")).to_contain_text("ff fe 00 72 61 77")
        queue = world.server.queue("looked")
        assert (queue["ready"], queue["received"]) == (2, 0), queue


@check
def one_message_is_deleted(world: World) -> None:
    world.server.send("wrong", b"right", b"mistake")
    with world.page(view="#/queues/wrong") as page:
        page.get_by_text("2: mistake").click()
        button(page, "Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert world.server.queue("wrong")["ready"] == 2
        button(page, "Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        said(page, "Message 2 is deleted.")
        [left] = world.server.ask("GET", "/queues/wrong/messages?body=text")[1]
        assert left["body"] == "right", left


@check
def a_queue_is_paused_and_resumed(world: World) -> None:
    with world.page(view="#/queues/jobs") as page:
        button(page, "Pause").click()
        said(page, "Consumers get nothing")
        assert world.server.queue("jobs")["paused"]
        expect(page.get_by_role("heading", level=1)).to_contain_text("paused")
        button(page, "Resume").click()
        said(page, "Consumers get messages again")
        assert not world.server.queue("jobs")["paused"]


@check
def dead_letters_say_why_and_go_back(world: World) -> None:
    for number in range(3):
        world.server.fail("orders", b"order %d" % number)
    with world.page(view="#/queues/orders") as page:
        expect(page.locator("dl.numbers dd").first).to_have_text(re.compile("[0-9]"))
        # There is nothing to send back.
        expect(button(page, "Redrive all")).to_be_hidden()
    with world.page(view="#/queues/orders.dead") as page:
        expect(button(page, "Redrive all")).to_be_visible()
        page.get_by_text("2: order 1").click()
        expect(
            page.get_by_text("It failed in orders: it was delivered once and never acknowledged")
        ).to_be_visible()
        expect(page.get_by_text("Its producer sent it as message 2 of orders.")).to_be_visible()
        world.picture(page, "dead-letter")
        button(page, "Redrive").click()
        said(page, "Message 2 went back to orders.")
        [back] = world.server.ask("GET", "/queues/orders/messages?body=text")[1]
        assert back["body"] == "order 1", back
        button(page, "Redrive all").click()
        said(page, "2 dead letters went back")
        assert world.server.queue("orders")["ready"] == 3


@check
def a_queue_is_purged_when_its_name_is_typed(world: World) -> None:
    world.server.send("full", b"1", b"2")
    with world.page(view="#/queues/full") as page:
        button(page, "Purge …").click()
        dialog = page.get_by_role("dialog")
        sure = dialog.get_by_role("button", name="Purge")
        expect(sure).to_be_disabled()
        dialog.get_by_label("Type full to confirm").fill("ful")
        expect(sure).to_be_disabled()
        dialog.get_by_label("Type full to confirm").fill("full")
        sure.click()
        said(page, "2 messages are gone.")
        assert world.server.queue("full")["messages"] == 0


@check
def a_queue_is_deleted_when_its_name_is_typed(world: World) -> None:
    world.server.send("unwanted", b"1", b"2")
    with world.page(view="#/queues/unwanted") as page:
        button(page, "Delete queue …").click()
        dialog = page.get_by_role("dialog")
        sure = dialog.get_by_role("button", name="Delete")
        expect(sure).to_be_disabled()
        dialog.get_by_label("Type unwanted to confirm").fill("unwanted")
        sure.click()
        said(page, "The queue unwanted is deleted.")
        heading(page, "Queues")
        assert world.server.ask("GET", "/queues/unwanted")[0] == 404


@check
def settings_are_changed(world: World) -> None:
    world.server.ask("PUT", "/queues/set", b'{"max_bytes": 5000, "retention": 60}')
    with world.page(view="#/queues/set") as page:
        page.get_by_text("Settings", exact=True).click()
        expect(page.get_by_label("Most bytes")).to_have_value("5000")
        page.get_by_label("A lease lasts").fill("5m")
        page.get_by_label("Deliveries before a message is dead").fill("3")
        page.get_by_label("Dead letters go to").fill("set.dead")
        page.get_by_label("Most bytes").fill("")
        page.get_by_label("Groups take turns").check()
        button(page, "Save settings").click()
        said(page, "The settings hold")
        settings = world.server.queue("set")["settings"]
        expected = {
            "visibility": 300,
            "max_receives": 3,
            "dead_letter": "set.dead",
            "max_bytes": None,
            "fair": True,
        }
        assert expected.items() <= settings.items(), settings
        assert settings["retention"] == 60
        page.get_by_label("Deliveries a second").fill("-1")
        button(page, "Save settings").click()
        said(page, "The settings are not valid")


HOSTILE = (
    b"<img src=x onerror=\"document.body.innerHTML='taken'\"><script>document.title='taken'</script>"
    + b"\x00\x1b[31m"
    + "\u202egpj.exe \u2066\u200b".encode()
    + b"</pre></details><a href='javascript:alert(1)'>x</a>"
)


@check
def a_hostile_message_is_shown_and_nothing_more(world: World) -> None:
    world.server.send("hostile", HOSTILE, Content_Type="text/html", Zapq_Header_Evil="<script>alert(1)</script>")
    world.server.send("hostile", HOSTILE + b"A" * (8 << 20), b"[" * 50_000)
    with world.page(view="#/queues/hostile") as page:
        page.get_by_text("1: <img").click()
        shown = page.get_by_label("Body of message 1")
        expect(shown).to_contain_text("<script>document.title='taken'</script>")
        for mark in ("⟦U+0000⟧", "⟦U+001B⟧", "⟦U+202E⟧", "⟦U+2066⟧", "⟦U+200B⟧"):
            expect(shown).to_contain_text(mark)
        expect(page.get_by_role("row", name="Header evil")).to_contain_text("<script>alert(1)</script>")
        page.get_by_label("Id of a message").fill("2")
        button(page, "Show").click()
        expect(page.get_by_text("The first 64.0 KiB of 8.0 MiB.")).to_be_visible()
        assert page.title() == "hostile · zapq", page.title()
        assert page.locator("main img, main script, main a[href^=javascript]").count() == 0
    world.server.ask("DELETE", "/queues/hostile")


@check
def snapshots_are_saved_and_loaded(world: World) -> None:
    world.server.send("kept", b"before")
    with world.page(view="#/snapshots") as page:
        page.get_by_label("File").fill("one.msgpack")
        button(page, "Save").click()
        said(page, "Saved as one.msgpack.")
        assert [each["name"] for each in world.server.ask("GET", "/snapshots")[1]] == ["one.msgpack"]
        world.server.send("kept", b"after")
        button(page, "Load one.msgpack").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Type one.msgpack to confirm").fill("one.msgpack")
        dialog.get_by_role("button", name="Load").click()
        said(page, "Loaded one.msgpack.")
        [message] = world.server.ask("GET", "/queues/kept/messages?body=text")[1]
        assert message["body"] == "before", message
        page.get_by_label("File").fill("../evil.msgpack")
        button(page, "Save").click()
        expect(page.get_by_role("status")).not_to_contain_text("Saved")


@check
def the_server_says_how_it_is(world: World) -> None:
    with world.page(view="#/server") as page:
        heading(page, "Server")
        for title in ("Connections", "Memory", "Descriptors open", "Commit, 99 of 100", "Messages refused (full)"):
            expect(page.get_by_text(title, exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile(r"^[\d,]+ of 50,000$"))).to_be_visible()
        expect(page.get_by_text(re.compile(r"^[\d.]+ \w+ of 256\.0 MiB$"))).to_be_visible()
        expect(page.get_by_text("on the disk", exact=True)).to_be_visible()
        expect(page.get_by_text("messages in memory are gone")).to_be_hidden()


@check
def what_a_server_in_memory_does_not_keep_is_said(world: World) -> None:
    def in_memory(route: Route) -> None:
        told = route.fetch().json()
        del told["storage_available"]
        route.fulfill(json=told)

    with world.page(view="#/server") as page:
        page.route("**/metrics", in_memory)
        expect(page.get_by_text("in memory only", exact=True)).to_be_visible()
        expect(page.get_by_text("messages in memory are gone")).to_be_visible()


@check
def the_last_refusals_are_told(world: World) -> None:
    assert world.server.ask("DELETE", "/queues/refused/receipts/0-secret-0")[0] == 404
    assert world.server.ask("POST", "/queues/refused/messages?%3Cb%3E=1", b"x")[0] == 400
    assert world.server.ask("GET", "/%3Cimg%3E%E2%80%AE")[0] == 404
    with world.page(view="#/server") as page:
        table = page.get_by_role("table", name="The last refusals")
        rows = table.get_by_role("row")
        expect(rows.nth(1)).to_contain_text("GET /%3Cimg%3E%E2%80%AE")
        expect(rows.nth(2)).to_contain_text("POST /queues/refused/messages")
        expect(rows.nth(2)).to_contain_text("invalid-parameter")
        expect(rows.nth(3)).to_contain_text("DELETE /queues/refused/receipts/{receipt}")
        world.server.ask("GET", "/queues/refused/messages/77")
        expect(rows.nth(1)).to_contain_text("GET /queues/refused/messages/77")
        assert "secret" not in page.content()


@check
def the_server_is_drained(world: World) -> None:
    with world.page(view="#/server") as page:
        button(page, "Drain …").click()
        dialog = page.get_by_role("dialog")
        sure = dialog.get_by_role("button", name="Drain")
        expect(sure).to_be_disabled()
        dialog.get_by_label("Type drain to confirm").fill("drain")
        sure.click()
        said(page, "The server takes no new messages")
        status, answer = world.server.ask("POST", "/queues/jobs/messages", b"x")
        assert status == 503, answer
    world.server.stop()
    world.server.start()
    world.server.send("jobs", b"after")


@check
def what_a_credential_may_not_do_is_not_shown(world: World) -> None:
    with world.page("worker") as page:
        heading(page, "Queues")
        expect(page.get_by_text("This credential may not list queues.")).to_be_visible()
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Queues"])
        page.get_by_label("Open a queue by its name").fill("looked")
        page.keyboard.press("Enter")
        heading(page, "looked")
        page.get_by_text('1: {"to"').click()
        expect(page.get_by_label("Body of message 1")).to_contain_text("Ann")
        buttons = set(page.get_by_role("button").all_inner_texts())
        expected = {
            "ready",
            "delayed",
            "leased",
            "Look again",
            "Show",
            "JSON",
            "Text",
            "Hex",
            "Open",
            "Forget the token",
        }
        assert buttons <= expected, buttons - expected
        assert page.get_by_text("Send a message").count() == 0
        page.goto(f"{world.server.url}/ui/#/snapshots")
        heading(page, "Queues")
    assert world.server.ask("GET", "/nothing")[0] == 404
    with world.page("watcher", view="#/server") as page:
        heading(page, "Server")
        expect(page.get_by_role("table", name="The last refusals")).to_be_visible()
        assert button(page, "Drain …").count() == 0
        page.goto(f"{world.server.url}/ui/#/queues/looked")
        expect(page.get_by_text("Consumers waiting")).to_be_visible()
        for action in ("Pause", "Purge …", "Delete queue …"):
            assert button(page, action).count() == 0
    with world.page("emails") as page:
        expect(page.get_by_role("rowheader")).to_have_text(["emails"])
        page.get_by_role("link", name="emails").click()
        heading(page, "emails")
        expect(page.get_by_text("Consumers waiting")).to_be_visible()
        assert button(page, "Pause").count() == 0


@check
def everything_is_done_by_keyboard_alone(world: World) -> None:
    world.server.send("typed", b"1", b"2")
    with world.page() as page:
        heading(page, "Queues")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        _tab_to(page, "Search")
        page.keyboard.type("typed")
        expect(page.get_by_role("rowheader")).to_have_count(1)
        _tab_to(page, "typed")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1, name="typed")).to_be_focused()
        _tab_to(page, "Purge …")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog").get_by_role("textbox")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(button(page, "Purge …")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.type("typed")
        page.keyboard.press("Enter")
        said(page, "2 messages are gone.")
        _tab_to(page, "Send a message")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("by keyboard")
        _tab_to(page, "Send")
        page.keyboard.press("Enter")
        said(page, "Sent: message 3.")
        _tab_to(page, "3: by keyboard")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Body of message 3")).to_contain_text("by keyboard")


_NAMED = """() => {
    const focused = document.activeElement;
    return (focused.labels?.[0] ?? focused).textContent.trim();
}"""


def _tab_to(page: Page, name: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(_NAMED).startswith(name):
            return
    raise AssertionError(f"no way by Tab to {name}")


@check
def a_phone_shows_all_without_scrolling_sideways(world: World) -> None:
    for view in ("#/", "#/queues/orders", "#/snapshots", "#/server"):
        with world.page(view=view, width=360, height=700) as page:
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            expect(page.locator("td, dd").nth(2)).to_be_attached()
            wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{view} is {wide} px too wide"


@check
def nobody_is_asked_while_nobody_looks(world: World) -> None:
    with world.page() as page:
        expect(page.get_by_role("rowheader").first).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(300)  # what was under way ends
        asked.clear()
        page.wait_for_timeout(1500)
        assert asked == []
        page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'visible', configurable: true})")
        with page.expect_request(f"{world.server.url}/**"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@check
def a_server_that_comes_back_is_shown_again(world: World) -> None:
    with world.page(view="#/queues/orders") as page:
        ready = page.locator("dl div", has_text="Ready").locator("dd")
        expect(ready).to_have_text("3")
        world.server.stop()
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer. Trying again")
        button(page, "Pause").click()
        said(page, "The server does not answer.")
        world.server.start()
        expect(page.get_by_role("alert")).to_have_count(0)
        world.server.send("orders", b"after")
        expect(ready).to_have_text("4")


@check
def a_thousand_queues_do_not_make_it_stutter(world: World) -> None:
    with ThreadPoolExecutor(16) as several:
        list(several.map(lambda number: world.server.ask("PUT", f"/queues/many-{number:04d}", b"{}"), range(1000)))
    with world.page() as page:
        expect(page.get_by_text(re.compile("^1 to 50 of 1,0"))).to_be_visible()
        page.evaluate(
            "window.long = []; new PerformanceObserver((list) => long.push(...list.getEntries().map("
            "(each) => each.duration))).observe({type: 'longtask'})"
        )
        button(page, "Next").click()
        expect(page.get_by_text(re.compile("^51 to 100 of"))).to_be_visible()
        page.get_by_label("Search").fill("MANY-09")
        expect(page.get_by_text("1 to 50 of 100")).to_be_visible()
        expect(page.get_by_role("rowheader").first).to_have_text("many-0900")
        page.wait_for_timeout(2500)
        assert page.get_by_role("rowheader").count() == 50
        longest = max(page.evaluate("window.long"), default=0)
        print(f"longest task with 1,000 queues: {longest:.0f} ms")
        assert longest < 300, longest


def _views(world: World, *, dark: bool) -> list[str]:
    """Look at every view; return what axe objects to."""
    found: list[str] = []

    def judge(page: Page, what: str) -> None:
        result = Axe().run(page)
        for each in result.response["violations"]:
            nodes = [node["html"][:200] for node in each["nodes"][:3]]
            found.append(f"{what}: {each['id']}: {each['help']}: {nodes}")

    with world.page("", dark=dark) as page:
        heading(page, "Log in")
        judge(page, "log in")
    with world.page(dark=dark, height=620) as page:
        world.draw_past(page)
        page.reload()
        page.get_by_label("Search").fill("e")
        expect(page.get_by_role("rowheader", name="emails")).to_be_visible()
        judge(page, "queues")
        if not dark:
            world.picture(page, "queues")
        page.goto(f"{world.server.url}/ui/#/queues/orders")
        heading(page, "orders")
        expect(page.get_by_text("last 10 minutes").first).to_be_visible()
        if not dark:
            world.picture(page, "queue")
        page.get_by_text("Send a message").click()
        page.get_by_text("Settings", exact=True).click()
        page.get_by_text(": order 1").click()
        judge(page, "queue")
        button(page, "Purge …").click()
        judge(page, "dialog")
        page.keyboard.press("Escape")
        page.goto(f"{world.server.url}/ui/#/snapshots")
        expect(page.get_by_role("rowheader", name="one.msgpack")).to_be_visible()
        judge(page, "snapshots")
        page.goto(f"{world.server.url}/ui/#/server")
        expect(page.get_by_text("Connections", exact=True)).to_be_visible()
        judge(page, "server")
    return found


@check
def axe_objects_to_nothing_in_light(world: World) -> None:
    found = _views(world, dark=False)
    assert not found, found


@check
def axe_objects_to_nothing_in_dark(world: World) -> None:
    found = _views(world, dark=True)
    assert not found, found


@check
def nothing_went_wrong_unseen(world: World) -> None:
    eventually(lambda: True)
    assert world.complaints == [], world.complaints
