"""Key-to-paint times and page sizes of the reader, in real Chromium against a real server.

    python -m benchmarks.review

One document of 20,000 tokens with 2,000 suggestions and 2,000 gold spans is read twice in turn: through
the reader's window of chunks, and as one page that holds every token (how Label Studio and doccano show a
text). Then one of 10 MB. A key counts as painted in the frame after the first change it made to the text.
"""

import argparse
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from playwright.sync_api import Page, TimeoutError, sync_playwright
from sqlalchemy.orm import Session, sessionmaker

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from app import models as m
from app import reader
from app.db import migrate, session_factory
from app.main import create_app
from app.security import cookie_name, open_session
from app.settings import Settings
from labeling.documents import text_sha256
from labeling.predictions import Prediction, write_predictions
from labeling.tokens import words

LINE = "The patient was given warfarin daily and then went home again\n"  # 11 words, of which 2 are suggested
LINES, MEGABYTES = 1819, 10
KEYS = ["n", "a", "ArrowRight", "Shift+ArrowRight", "m", "z", "ArrowDown", ".", ",", "n", "x", "p", "End", "Home"]

MEASURE = """
  let key = null, at = 0;
  window.painted = [];
  addEventListener("keydown", (event) => {
    if (event.key !== "Shift") [key, at] = [event.key, event.timeStamp];
  }, true);
  document.addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
    if (!key) return;
    const [pressed, since] = [key, at];
    key = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.painted.push([pressed, performance.now() - since]);
      channel.port2.postMessage(0);
    });
  }).observe(document.getElementById("reader"), { subtree: true, childList: true, attributes: true, characterData: true }));
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_project(settings: Settings, sessions: sessionmaker[Session]) -> tuple[dict[str, int], str]:
    """(document ids by key, login cookie)."""
    long, huge = LINE * LINES, LINE * (MEGABYTES * 1_000_000 // len(LINE) + 1)
    tokens = np.array(words(long), np.int32)
    p = np.zeros(len(tokens), np.float32)
    p[3::11] = p[7::11] = 0.9  # "given", "then": suggestions of one token each
    out = settings.artifacts_dir / "predictions"
    list(write_predictions([Prediction("long", tokens[:, 0], tokens[:, 1], p)], out, {}))
    spans = [list(map(int, tokens[i])) for i in range(4, len(tokens), 10)][:2000]
    with sessions.begin() as session:
        project = m.Project(slug="bench", name="Bench")
        session.add(project)
        session.flush()
        family = m.Family(project_id=project.id, name="web", side="mixed")
        artifact = m.Artifact(project_id=project.id, kind="predictions", path="artifacts/predictions", info={})
        session.add_all([family, artifact])
        session.flush()
        source = m.Import(project_id=project.id, filename="web", sha256=text_sha256(""), family_id=family.id)
        classifier = m.Classifier(
            project_id=project.id, name="bench", version=1, artifact_id=artifact.id, predictions_id=artifact.id,
            threshold=0.5, info={},
        )  # fmt: skip
        session.add_all([source, classifier])
        session.flush()
        for key, text in {"long": long, "huge": huge}.items():
            session.add(
                m.Document(
                    project_id=project.id, family_id=family.id, import_id=source.id, key=key, sha256=text_sha256(text),
                    split="train", characters=len(text), text=text, meta={},
                )
            )  # fmt: skip
        session.flush()
        ids = {d.key: d.id for d in session.query(m.Document)}
        session.add(
            m.Annotation(
                document_id=ids["long"],
                version=1,
                action="import",
                spans=spans,
                judged=[],
                state="part",
                author="bench",
            )
        )
        return ids, open_session(session, settings)


def open_page(page: Page, document_id: int) -> dict[str, Any]:
    begin = time.perf_counter()
    with page.expect_response("**/documents/*") as answer:
        page.goto(f"/projects/bench/documents/{document_id}")
    page.wait_for_selector("#reader[data-ready]")
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "html": len(answer.value.body()), "tokens": page.locator(".tk").count()}


def read_by_key(page: Page, rounds: int) -> list[tuple[str, float]]:
    """(key, milliseconds to its paint)."""
    page.evaluate("window.painted = []")
    for _ in range(rounds):
        for key in KEYS:
            before = page.evaluate("window.painted.length")
            page.keyboard.press(key)
            with suppress(TimeoutError):  # a key that has nothing to do changes nothing
                page.wait_for_function("(n) => window.painted.length > n", arg=before, timeout=3000)
    return [(key, float(ms)) for key, ms in page.evaluate("window.painted")]


def report(name: str, painted: list[tuple[str, float]], opened: dict[str, Any]) -> None:
    times = [ms for _, ms in painted]
    ordered, slowest = sorted(times), max(painted, key=lambda row: row[1])
    print(
        f"{name:16} opens in {opened['seconds']:.2f} s, {opened['html'] / 1000:,.0f} kB of HTML, {opened['tokens']:,} tokens"
        f" in the page; {len(times)} keys: median {statistics.median(times):.0f} ms,"
        f" p95 {ordered[int(0.95 * len(ordered))]:.0f} ms, worst {slowest[1]:.0f} ms ({slowest[0]})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="times the keys are pressed in each of two visits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        settings = Settings(data_dir=Path(folder), database_url="", port=free_port())
        migrate(settings)
        sessions = session_factory(settings)
        ids, token = write_project(settings, sessions)
        server = uvicorn.Server(uvicorn.Config(create_app(settings), port=settings.port, log_level="warning"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        address = f"http://127.0.0.1:{settings.port}"
        context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": cookie_name(settings), "value": token, "url": address}])
        context.add_init_script(MEASURE)
        context.set_default_timeout(300_000)
        page, window = context.new_page(), reader.CHARACTERS
        times: dict[str, list[tuple[str, float]]] = {"window of chunks": [], "all in one page": []}
        opened: dict[str, dict[str, Any]] = {}
        for _ in range(2):
            for name, characters in zip(times, (window, 10**9), strict=True):
                reader.CHARACTERS = characters
                opened[name] = open_page(page, ids["long"])
                times[name] += read_by_key(page, arguments.rounds)
        reader.CHARACTERS = window
        for name, found in times.items():
            report(name, found, opened[name])
        ours, theirs = (statistics.median(ms for _, ms in found) for found in times.values())
        print(f"median key: {theirs / ours:.1f} times faster through the window")
        opened["huge"] = open_page(page, ids["huge"])
        page.evaluate("window.painted = []")
        page.keyboard.press("End")
        page.wait_for_function("() => window.painted.length > 0")
        report(f"{MEGABYTES} MB document", page.evaluate("window.painted"), opened["huge"])
        page.keyboard.press("m")
        page.wait_for_function("() => document.getElementById('saved').textContent.startsWith('Saved')")
        print("its last token is marked and saved:", page.locator("#reader-text .gold").last.text_content())
        browser.close()
        server.should_exit = True


if __name__ == "__main__":
    main()
