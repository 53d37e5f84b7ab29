"""The verdict queue driven by keys alone, in a real browser against a real server."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Project, Verdict
from app.settings import Settings
from tests.app.seeded import seed
from tests.browser.test_journey import PATIENCE, QUIET, REPORT_CSP, ROOT, _printed_link, free_port

sync_api = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Error, Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.browser
HERE = "/projects/medicine/queue?minimum=0&ratio=0"


@pytest.fixture
def page(settings: Settings, sessions: sessionmaker[Session], project: Project, tmp_path: Path) -> Iterator[Page]:
    """Logged in, at 1280 × 800, over a planted store; whatever the browser complains about fails the test."""
    seed(sessions, settings, project)
    environment = os.environ | {
        "TOKENSIEVE_DATA_DIR": str(settings.data_dir), "TOKENSIEVE_DATABASE_URL": settings.database_url,
    }  # fmt: skip
    log, complaints = tmp_path / "server.log", list[str]()
    command = [sys.executable, "-m", "app", "serve", "--no-worker", "--port", str(free_port())]
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file) as server:
        try:
            link = _printed_link(server, log)
            with sync_playwright() as playwright:
                try:
                    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
                except Error as error:
                    pytest.skip(f"no Chromium here: {error.message.splitlines()[0]}")
                context = browser.new_context(
                    base_url="/".join(link.split("/")[:3]), viewport={"width": 1280, "height": 800}
                )
                context.set_default_timeout(PATIENCE)
                context.add_init_script(REPORT_CSP)
                context.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
                context.on("weberror", lambda error: complaints.append(str(error.error)))
                expect.set_options(timeout=PATIENCE)
                opened = context.new_page()
                opened.goto(link)
                yield opened
                browser.close()
        finally:
            server.terminate()
            server.wait(15)
    assert not complaints, "\n".join(complaints)


def test_verdicts_note_undo_back_and_skip_by_keys_alone(page: Page, sessions: sessionmaker[Session]) -> None:
    page.goto(HERE)
    title, progress = page.locator("#queue h1"), page.locator(".queue-progress")
    first = title.text_content() or ""
    assert fits(page)
    page.keyboard.press("c")
    expect(page.locator("#note")).to_be_focused()
    page.keyboard.type("yes, a drug")  # letters that are verdicts elsewhere
    page.keyboard.press("Enter")
    expect(page.locator("#note")).not_to_be_focused()
    page.keyboard.press("y")
    expect(progress).to_contain_text("1 of 6 judged")
    second = title.text_content() or ""
    assert second != first and re.search(r"/queue/\d+\?", page.url)
    page.keyboard.press("n")
    expect(progress).to_contain_text("2 of 6 judged")
    page.keyboard.press("z")
    expect(title).to_have_text(second)
    expect(progress).to_contain_text("1 of 6 judged")
    page.keyboard.press("j")
    expect(title).not_to_have_text(second)
    page.keyboard.press("k")
    expect(title).to_have_text(second)
    page.reload()
    expect(title).to_have_text(second)
    page.keyboard.press("u")
    expect(progress).to_contain_text("2 of 6 judged")
    with sessions() as session:
        rows = session.scalars(select(Verdict).order_by(Verdict.id)).all()
    assert [row.decision for row in rows] == ["accept", "reject", "clear", "unsure"]
    assert rows[0].note == "yes, a drug" and rows[2].undoes_id == rows[1].id


def fits(page: Page) -> bool:
    """Whether the evidence and the verdict's buttons are on the screen as it opens."""
    box = page.locator("#judge").bounding_box()
    return box is not None and box["y"] + box["height"] <= 800 and page.evaluate("scrollY") == 0
