"""The pages of `sessions-db web` in a real Chromium: what people see, at two widths, in light and in dark."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sessions_db import NewMessage, SessionManager
from sessions_db.validation import JsonValue
from tests.support.commands import process
from tests.support.databases import SQLiteDatabases

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: the pages were not seen in a browser")

# WCAG 2.2 AA, which contains the versions before it.
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}

SCRIPT = '<script>window.hacked = 1</script><img src=x onerror="window.hacked=1">'
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload=\"window.hacked=1\"><a href='https://evil.example'/></svg>"
HOSTILE = f"{SCRIPT}{SVG}\u202e\u2066gpj.exe\u200f https://evil.example/a.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Its own sandbox is not there for root, as which the tests may run.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def shown(sqlite_databases: SQLiteDatabases) -> Iterator[tuple[SessionManager, str]]:
    """The manager of a database, and the address at which the command shows it."""
    url = sqlite_databases.create(at_head=True)
    with SessionManager(url, actor="service") as manager:
        command = process("web", "--port", "0", db=url)
        try:
            found = re.match(rb"(http://127\.0\.0\.1:\d+)/ ", command.stderr.readline())
            assert found is not None
            yield manager, found[1].decode()
        finally:
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=30)
    assert (command.returncode, said.strip()) == (130, b"Interrupted. Nothing was changed.")
    sqlite_databases.drop(url)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that lets nothing be loaded from elsewhere, and says what the Content-Security-Policy stopped."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000}, color_scheme="light")
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.extend(re.findall(r"^(?!Failed to load .* 404).*", message.text)))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda request: None if "127.0.0.1" in request.url or "data:" in request.url else wrong.append(request.url),
    )
    yield opened
    context.close()
    assert wrong == []


def filled(manager: SessionManager) -> str:
    """The key of a session that has all that a session's page can show."""
    main = manager.get_or_create_main("planner").key
    key = manager.spawn_subagent("researcher", "Find the prices", "prices", main, message_cap=5, metadata={"n": 1})
    manager.spawn_subagent("reader", "Read", parent_key=key)
    manager.add_messages(key, [NewMessage("user", f"Question {number}") for number in range(4)])
    call: JsonValue = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    manager.add_message(key, "assistant", "I look.", metadata={"tool_calls": [call], "usage": usage})
    manager.add_message(key, "tool", "found", tool_name="search")
    manager.add_messages(key, [NewMessage("user", "secret"), NewMessage("assistant", "one too many")])
    manager.redact_message(key, 7, reason="personal data")
    manager.pop_messages(key)
    manager.error_session(key, "gave up")
    manager.seal_log()
    return key


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")


def test_every_page_meets_wcag_at_both_widths_in_light_and_in_dark(
    shown: tuple[SessionManager, str], page: Page
) -> None:
    manager, at = shown
    key = filled(manager)

    # Narrow and in dark, the pages that have most to show.
    rich = ["/", f"/session?key={key}", "/log", "/questions/who-ended-each-session", "/overview"]
    others = ["/log/verify", "/search?text=question", "/questions", "/questions/what-is-below-one-session", "/nowhere"]
    for paths, width, scheme in (([*rich, *others], 1600, "light"), (rich, 360, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for path in paths:
            page.goto(at + path)
            unfold(page)
            found = Axe().run(page, options=RULES)

            assert found.violations_count == 0, f"{path} {width}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_page_is_used_by_keyboard_alone(shown: tuple[SessionManager, str], page: Page) -> None:
    manager, at = shown
    key = filled(manager)
    page.goto(at)

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "kind"
    page.locator("#agent").focus()
    page.keyboard.type("researcher")
    page.keyboard.press("Enter")
    page.wait_for_url("**agent=researcher*")
    page.get_by_role("link", name=key, exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/session?key=*")
    result = page.locator("details", has_text="Result, 5 characters").locator("summary")
    result.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open]")).to_contain_text("found")


def test_filters_leave_the_sessions_that_pass_them(shown: tuple[SessionManager, str], page: Page) -> None:
    manager, at = shown
    wanted = manager.spawn_cron("filtered", "Tidy up")
    manager.spawn_subagent("filtered", "Look")
    page.goto(at)

    page.get_by_label("Agent").fill("filtered")
    page.get_by_label("Kind").select_option("cron")
    page.get_by_label("Created from (UTC)").fill("2001-01-01T00:00")
    page.get_by_role("button", name="Filter").click()

    expect(page.get_by_role("table", name="Sessions").locator("a.key")).to_have_text([wanted])
    expect(page.get_by_label("Agent")).to_have_value("filtered")
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_label("Agent")).to_have_value("")


def test_active_session_is_followed_until_it_ends(shown: tuple[SessionManager, str], page: Page) -> None:
    manager, at = shown
    key = manager.spawn_subagent("planner", "Watch", message_cap=4)
    manager.add_message(key, "tool", "first result", tool_name="look")
    page.goto(f"{at}/session?key={key}")
    expect(page.locator("#live")).to_have_text("Following.")
    page.locator("#message-1 summary").click()

    manager.add_message(key, "assistant", f"news {SCRIPT}")

    expect(page.locator("#message-2")).to_contain_text("news <script>")
    expect(page.locator("#live")).to_contain_text("1 new at ")
    assert page.locator("#message-1 details").get_attribute("open") is not None
    manager.redact_message(key, 2, reason="asked for")
    expect(page.locator("#message-2")).to_contain_text("What it said is gone: asked for.")
    manager.add_messages(key, [NewMessage("user", f"more {number}") for number in range(3)])
    expect(page.locator("#conversation > li").first).to_have_text("Message 1 was trimmed.")
    expect(page.locator("#conversation > li")).to_have_count(5)
    manager.complete_session(key, "seen")
    expect(page.locator("#live")).to_have_text("The session has ended.")
    expect(page.locator("#facts")).to_contain_text("completed")
    assert page.evaluate("window.hacked") is None


def test_followed_session_that_outgrows_its_page_links_to_the_older_messages(
    shown: tuple[SessionManager, str], page: Page
) -> None:
    manager, at = shown
    key = manager.spawn_subagent("planner", "Grow", message_cap=1_000)
    manager.add_messages(key, [NewMessage("user", f"more {number}") for number in range(100)])
    page.goto(f"{at}/session?key={key}")
    expect(page.locator("#live")).to_have_text("Following.")
    expect(page.get_by_role("link", name="Older messages")).to_have_count(0)

    for seq in (101, 102):
        manager.add_message(key, "user", "one more")
        expect(page.locator(f"#message-{seq}")).to_be_visible()

        expect(page.get_by_role("link", name="Older messages")).to_have_attribute(
            "href", re.compile(f"before={seq - 99}$")
        )


def test_hostile_content_in_every_field_does_nothing(shown: tuple[SessionManager, str], page: Page) -> None:
    manager, at = shown
    name = HOSTILE[:255]
    agent = name.replace(":", ";").translate(dict.fromkeys(map(ord, "\u202e\u2066\u200f")))[:200]
    huge = HOSTILE + "x" * 10_000_000
    parent = manager.get_or_create("planner", agent.replace(":", ";")).key
    key = manager.spawn_subagent(agent, huge, name, parent, metadata={HOSTILE: huge})
    call: JsonValue = {"type": "function", "function": {"name": HOSTILE, "arguments": HOSTILE}}
    manager.add_message(key, "user", huge, metadata={HOSTILE: huge})
    manager.add_message(key, "tool", HOSTILE, tool_name=name, metadata={"tool_calls": [call], HOSTILE: [HOSTILE]})
    with SessionManager(manager._engine, actor=name) as attacker:  # the log has the name
        attacker.redact_message(manager.fork_session(key, 2), 1, reason=HOSTILE)
        attacker.error_session(key, HOSTILE)

    for path in (
        "/",
        f"/session?key={key}",
        f"/session?key={parent}",
        "/log",
        "/search?text=script",
        "/questions/who-mentioned-something?word=exe",
        "/questions/what-happened-in-a-session-in-order?key=" + key,
        "/overview",
    ):
        page.goto(at + path.replace("#", "%23"))
        unfold(page)
        text = page.locator("main").inner_text()

        assert page.evaluate("window.hacked") is None, path
        assert page.locator("main svg, main script, main img[src='x']").count() == 0
        assert page.locator("a[href*='evil']:not([href^='/'])").count() == 0
        assert not {"\u202e", "\u2066", "\u200f"} & set(text), path
        assert len(text) < 400_000, path
    page.goto(f"{at}/session?key={key}")
    expect(page.locator("#message-1")).to_contain_text("gpj.exe")
    expect(page.locator("#message-1 .unsafe").first).to_have_text("\\u202e")


def test_browser_signs_in_with_the_token_as_password(
    sqlite_databases: SQLiteDatabases, browser: Browser, tmp_path: Path
) -> None:
    url = sqlite_databases.create(at_head=True)
    (tmp_path / "token").write_text("a token of some length\n")
    command = process("web", "--port", "0", "--token-file", str(tmp_path / "token"), db=url)
    try:
        at = command.stderr.readline().split()[0].decode()
        stranger = browser.new_context()
        assert stranger.request.get(at).status == 401
        stranger.close()
        context = browser.new_context(http_credentials={"username": "me", "password": "a token of some length"})
        page = context.new_page()
        page.goto(at)
        expect(page.get_by_role("heading", level=1)).to_have_text("Sessions")
        context.close()
    finally:
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=30)
    sqlite_databases.drop(url)
