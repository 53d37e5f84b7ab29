"""The reader page, by keyboard alone, over documents of every nasty kind: what the page shows, what the
database holds and what the export says must be the same characters."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.main import create_app
from app.models import Annotation, Document, Family, Import, Project
from app.security import cookie_name, open_session
from app.settings import Settings
from labeling.documents import text_sha256
from tests.app.reviewed import seed
from tests.browser.test_journey import PATIENCE, QUIET, REPORT_CSP, free_port

sync_api = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import BrowserContext, Error, Page, Route, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.browser

NASTY = {
    "emoji": "Nurse 👩🏽‍⚕️ gave 💊💊 to 👨‍👩‍👧‍👦 in 🇫🇷🇩🇪 at once.\nThe end 🩺",
    "crlf": "One line here\r\nanother  line\r\n\r\nlast line\rold line",
    "combining": "Cafe\u0301 re\u0301sume\u0301 na\u0131\u0308ve A\u030a\u0301 end",
    "rtl": "المريض تناول الدواء warfarin 5 mg يوميا.\nשלום לכולם זה טקסט.\nEnglish line.",
    "zero": "a\u200bb c\u200dd zero\u200bwidth \ufeffbom soft\u00adhyphen\u2028line end",
}
LONG = "A quiet line of text 🩺, and nothing else.\r\n" * 60


@dataclass
class Workbench:
    """A real server in a thread, and a logged-in browser."""

    context: BrowserContext
    sessions: sessionmaker[Session]
    ids: dict[str, int]

    def open(self, key: str, query: str = "") -> Page:
        page = self.context.new_page()
        self.show(page, key, query)
        return page

    def show(self, page: Page, key: str, query: str = "") -> None:
        page.goto(f"/projects/medicine/documents/{self.ids[key]}{query}")
        page.wait_for_selector("#reader[data-ready]")

    def stored(self, key: str) -> list[Annotation]:
        where = Annotation.document_id == self.ids[key]
        with self.sessions() as session:
            return list(session.scalars(select(Annotation).where(where).order_by(Annotation.version)))

    def text(self, key: str) -> str:
        with self.sessions() as session:
            return session.scalars(select(Document.text).where(Document.id == self.ids[key])).one()


def add_documents(sessions: sessionmaker[Session], project: Project, texts: dict[str, str]) -> None:
    with sessions.begin() as session:
        family = session.scalars(select(Family).where(Family.name == "clinic")).one()
        source = session.scalars(select(Import).where(Import.family_id == family.id)).one()
        for key, text in texts.items():
            session.add(
                Document(
                    project_id=project.id, family_id=family.id, import_id=source.id, key=key, sha256=text_sha256(text),
                    split="train", characters=len(text), text=text, meta={},
                )
            )  # fmt: skip


@pytest.fixture
def workbench(settings: Settings, sessions: sessionmaker[Session], project: Project) -> Iterator[Workbench]:
    add_documents(sessions, project, {"long": LONG * 8})
    seed(settings, sessions, project)
    add_documents(sessions, project, NASTY | {"huge": LONG * 3800})  # no store holds these: cut at words
    with sessions.begin() as session:
        ids = dict(session.execute(select(Document.key, Document.id)).tuples().all())
        token = open_session(session, settings)
    settings = settings.model_copy(update={"port": free_port()})
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=settings.port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    address, complaints = f"http://127.0.0.1:{settings.port}", []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        except Error as error:
            pytest.skip(f"no Chromium here: {error.message.splitlines()[0]}")
        context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": cookie_name(settings), "value": token, "url": address}])
        context.set_default_timeout(PATIENCE)
        context.add_init_script(REPORT_CSP)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda m: complaints.append(m.text) if "CSP" in m.text else None)
        expect.set_options(timeout=PATIENCE)
        yield Workbench(context, sessions, ids)
        browser.close()
    server.should_exit = True
    thread.join(20)
    assert not complaints, "\n".join(complaints)


def saved(page: Page, version: int) -> None:
    expect(page.locator("#saved")).to_have_text(f"Saved · version {version}")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def marked(page: Page) -> str:
    """The characters the page draws as gold, gaps included."""
    return page.evaluate("[...document.querySelectorAll('#reader-text .gold')].map((e) => e.textContent).join('')")


def at(page: Page) -> str:
    return page.locator("#reader-text .cursor").text_content() or ""


def exported(page: Page) -> dict[str, dict]:
    cookies = {c["name"]: c["value"] for c in page.context.cookies()}
    answer = httpx.get(page.url.partition("/documents/")[0] + "/gold.jsonl", cookies=cookies)
    return {row["id"]: row for row in map(json.loads, answer.text.split("\n")[:-1])}


def test_nasty_documents_agree_between_page_database_and_export(workbench: Workbench) -> None:
    page = workbench.open("emoji")
    for key, text in NASTY.items():
        workbench.show(page, key)
        shown = page.locator("#reader-text").evaluate("(element) => element.textContent")
        assert shown == text, key
        press(page, "End", "Shift+h", "m")  # the last two tokens, whatever they are
        saved(page, 1)
        press(page, "Home", "m", ".")  # the first token, and one more
        saved(page, 3)
        press(page, "d")
        saved(page, 4)
        workbench.show(page, key)
        spans = workbench.stored(key)[-1].spans
        assert "".join(text[s:e] for s, e in spans) == marked(page), key
        row = exported(page)[key]
        assert (row["text"], row["spans"]) == (text, spans)
        assert spans[0][0] == 0 and spans[-1][1] == len(text)


def test_a_cursor_never_stops_inside_a_grapheme(workbench: Workbench) -> None:
    page = workbench.open("emoji")
    press(page, "Home")
    seen = []
    for _ in range(9):
        seen.append(at(page))
        press(page, "l")
    assert seen[:9] == ["Nurse", "👩🏽‍⚕️", "gave", "💊", "💊", "to", "👨‍👩‍👧‍👦", "in", "🇫🇷🇩🇪"]


def test_the_left_key_goes_on_in_a_right_to_left_line(workbench: Workbench) -> None:
    page = workbench.open("rtl")
    press(page, "Home", "ArrowLeft")
    assert at(page) == "تناول"
    press(page, "ArrowRight")
    assert at(page) == "المريض"


def test_every_edit_by_key_and_back_again(workbench: Workbench) -> None:
    """clinic-1: the rule and the classifier flag words 2 to 4, "was given 5"."""
    page = workbench.open("clinic-1")
    press(page, "Home", "n")
    assert at(page) == "was"
    press(page, "a")
    saved(page, 1)
    assert marked(page) == "was given 5"
    press(page, ".")
    saved(page, 2)
    assert marked(page) == "was given 5 mg"
    press(page, "<", "<", ",", ",")  # keys faster than the server: each builds on the one before
    saved(page, 6)
    assert marked(page) == "The patient was given"
    press(page, ">")
    saved(page, 7)
    press(page, "z", "z")
    saved(page, 9)
    assert marked(page) == "The patient was given 5"
    press(page, "Z")
    saved(page, 10)
    assert marked(page) == "The patient was given"
    press(page, "r")
    saved(page, 11)
    assert marked(page) == ""
    press(page, "c")
    expect(page.locator("#state")).to_have_text("clean")
    press(page, "t")
    expect(page.locator("#state")).to_have_text("todo")


def test_clean_with_spans_is_refused_and_says_why(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    press(page, "Home", "m", "c")
    expect(page.get_by_text("clean means no forget text")).to_be_visible()
    expect(page.locator("#state")).to_have_text("part")


def test_keys_do_nothing_while_typing_or_in_the_help(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    press(page, "?")
    expect(page.locator("#help")).to_be_visible()
    press(page, "m", "d", "n")
    press(page, "Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.evaluate("document.querySelector('main').insertAdjacentHTML('afterbegin', '<input id=note>')")
    page.locator("#note").focus()
    press(page, "m", "d", "x", "ArrowRight", "Delete")
    assert page.locator("#note").input_value() == "mdx"
    expect(page.locator("#saved")).to_have_text("Nothing marked yet")
    assert workbench.stored("clinic-1") == []


def test_a_drag_selects_whole_tokens_and_marks_nothing(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    boxes = [page.locator("#reader-text .tk").nth(i).bounding_box() for i in (1, 4)]
    assert boxes[0] and boxes[1]
    page.mouse.move(boxes[0]["x"] + boxes[0]["width"] / 2, boxes[0]["y"] + 8)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + boxes[1]["width"] - 1, boxes[1]["y"] + 8, steps=4)
    page.mouse.up()
    expect(page.locator("#at-selection")).to_have_text("4 tokens")
    expect(page.locator("#saved")).to_have_text("Nothing marked yet")
    press(page, "m")
    saved(page, 1)
    assert marked(page) == "patient was given 5"


def test_layers_go_off_and_on_by_key_and_stay_so(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    shaded = page.locator("#reader-text .t9").first
    assert shaded.evaluate("(e) => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    press(page, "2")
    expect(page.locator("[data-layer=p]")).to_have_attribute("aria-pressed", "false")
    assert shaded.evaluate("(e) => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    workbench.show(page, "clinic-1")
    expect(page.locator("[data-layer=p]")).to_have_attribute("aria-pressed", "false")


def test_what_speaks_for_a_suggestion_is_shown_when_the_cursor_rests_on_it(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    press(page, "Home", "n")
    expect(page.locator("#why")).to_contain_text("5")


def test_a_long_document_is_read_to_its_end_through_a_window(workbench: Workbench) -> None:
    page = workbench.open("long")
    text = workbench.text("long")
    for _ in range(12):
        page.keyboard.press("End")
        page.keyboard.press("Home")
    for _ in range(40):
        page.keyboard.press("j")
    for _ in range(6):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
    expect(page.locator("#reader-text .chunk")).not_to_have_count(1)
    shown = page.locator("#reader-text").evaluate(
        "(e) => [e.textContent, e.firstElementChild.dataset.start, e.lastElementChild.dataset.end]"
    )
    assert shown[0] == text[int(shown[1]) : int(shown[2])]
    press(page, "End", "k", "m")
    saved(page, 1)
    ((start, end),) = workbench.stored("long")[-1].spans
    assert marked(page) == text[start:end] and start > len(text) - 200


def test_ten_megabytes_open_and_their_last_token_is_edited(workbench: Workbench) -> None:
    page, text = workbench.context.new_page(), workbench.text("huge")
    with page.expect_response("**/documents/*") as answer:
        workbench.show(page, "huge")
    assert len(text.encode()) > 10_000_000 and len(answer.value.body()) < 1_000_000
    press(page, "End", "m")
    saved(page, 1)
    ((start, end),) = workbench.stored("huge")[-1].spans
    assert (text[start:end], end) == (".", len(text) - 2)
    page.wait_for_url(f"**?at={start}")  # a moment after the cursor came to rest
    page.reload()
    page.wait_for_selector("#reader[data-ready]")
    assert marked(page) == "." and at(page) == "."


def test_a_lost_connection_is_said_and_nothing_typed_meanwhile_is_lost(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    page.route("**/annotations", lambda route: route.abort())
    press(page, "Home", "m", "l", "l", "l", "m")
    expect(page.locator("#unsaved")).to_contain_text("Connection lost")
    expect(page.locator("#unsaved-events li")).to_have_count(2)
    assert workbench.stored("clinic-1") == []
    page.unroute("**/annotations")
    saved(page, 2)
    assert workbench.stored("clinic-1")[-1].spans == [[0, 3], [16, 21]]


def test_an_acknowledgement_that_got_lost_does_not_count_twice(workbench: Workbench) -> None:
    page = workbench.open("clinic-1")
    lost = []

    def lose_the_answer(route: Route) -> None:
        lost.append(route.fetch().status)
        route.abort()

    page.route("**/annotations", lose_the_answer, times=1)
    press(page, "Home", "m")
    saved(page, 1)
    assert lost == [200] and len(workbench.stored("clinic-1")) == 1


def test_unsaved_changes_outlive_the_tab_and_a_stale_replay_keeps_both_versions(workbench: Workbench) -> None:
    first = workbench.open("clinic-1")
    first.route("**/annotations", lambda route: route.abort())
    press(first, "Home", "m")
    expect(first.locator("#unsaved")).to_be_visible()
    first.close(run_before_unload=False)
    second = workbench.open("clinic-1")
    expect(second.locator("#unsaved")).to_contain_text("was not saved when the page was left")
    other = workbench.context.new_page()
    workbench.show(other, "clinic-1")
    press(other, "End", "m")
    saved(other, 1)
    second.get_by_role("button", name="Apply to the newer version").click()
    expect(second.locator("#unsaved")).to_contain_text("Changed meanwhile")
    expect(second.locator("#unsaved-events")).to_contain_text("The")
    assert marked(second) == "daily"
    second.get_by_role("button", name="Apply to the newer version").click()
    saved(second, 2)
    assert len(workbench.stored("clinic-1")[-1].spans) == 2


CONTRAST = """(dark) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
  };
  const light = (c) => c.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const surface = getComputedStyle(document.getElementById("reader-text")).backgroundColor;
  const out = {};
  const token = document.querySelector("#reader-text .tk:not(.cursor)");
  for (const mark of ["t0", "t3", "t6", "t9", "t9 gold", "t9 selected", "wrong", "t9 wrong", "cursor"]) {
    token.className = `tk ${mark}`;
    const style = getComputedStyle(token);
    const [a, b] = [light(rgb(style.color, surface)), light(rgb(style.backgroundColor, surface))].sort((x, y) => y - x);
    out[mark] = (a + 0.05) / (b + 0.05);
  }
  return out;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_shade_can_be_read(workbench: Workbench, scheme: str) -> None:
    page = workbench.open("clinic-1")
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(CONTRAST)
    assert min(ratios.values()) >= 4.5, ratios
