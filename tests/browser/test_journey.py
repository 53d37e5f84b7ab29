"""A researcher's whole way through the workbench, in a real browser against a real server and worker.

Tiny random models stand in for the real ones, so the way is tested, not the quality of the labels.
Whatever the browser complains about on the way (console, script errors, CSP) fails the test.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.models import Project
from app.references import add
from app.settings import Settings
from tests.app.seeded import accept, seed
from tests.conftest import TEXTS
from tests.fakes import SIDES, corpus, fitted_gemma_scope, tiny_encoder, tiny_gemma2, tiny_reference, tiny_sae

sync_api = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Error, Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PATIENCE = 40_000  # milliseconds; a slow machine with other work is no failure
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOME = "/projects/medicine"
EVERY_LATENT = f"{HOME}/latents?ratio=0&minimum=0"
REPORT_CSP = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`))"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def tiny_models(settings: Settings, sessions: sessionmaker[Session], tmp_path: Path) -> None:
    """The reference that the workbench starts with, and the encoder that classifiers are made of."""
    model, sae = tiny_reference(tmp_path / "model"), tiny_sae(tmp_path / "sae")
    tiny_encoder(settings.assets_dir / "minilm")
    add(sessions, "tiny", str(model), str(sae))


@pytest.fixture
def login_link(settings: Settings, tmp_path: Path) -> Iterator[str]:
    """`tokensieve serve` with its worker, on a port of its own; the link it prints."""
    environment = os.environ | {
        "TOKENSIEVE_DATA_DIR": str(settings.data_dir), "TOKENSIEVE_DATABASE_URL": settings.database_url,
        "TOKENSIEVE_POLL_SECONDS": "0.1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "app", "serve", "--port", str(free_port())]
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file) as server:
        try:
            yield _printed_link(server, log)
        finally:
            workers = _workers_of(server.pid)
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers), "the worker outlived its server"


def _workers_of(pid: int) -> list[str]:
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def _printed_link(server: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until and server.poll() is None:
        found = re.search(r"http://\S+/login/\S+", log.read_text())
        if found and _listening(found[0]):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _listening(url: str) -> bool:
    host, port = url.split("/")[2].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def page(login_link: str) -> Iterator[Page]:
    """A browser that is not logged in yet; the test fails if it ever complained."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        except Error as error:
            pytest.skip(f"no Chromium here: {error.message.splitlines()[0]}")
        context = browser.new_context(base_url="/".join(login_link.split("/")[:3]), accept_downloads=True)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(REPORT_CSP)
        context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        expect.set_options(timeout=PATIENCE)
        yield context.new_page()
        browser.close()
    assert not complaints, "\n".join(complaints)


def family_file(folder: Path, family: str) -> Path:
    """A family's documents as JSONL, without the labels: those are to be made here."""
    path = folder / f"{family}.jsonl"
    rows = [{"id": d.id, "text": d.text} for d in corpus(75) if d.family == family]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def send(page: Page, button: str) -> None:
    """Press a button whose answer is another page."""
    with page.expect_navigation():
        page.get_by_role("button", name=button, exact=True).click()


def jobs_are_done(page: Page, kinds: list[str]) -> None:
    """Watch the jobs page until nothing is left to do; newest first, `kinds` is all there is."""
    page.goto(f"{HOME}/jobs")
    jobs = page.locator("article.job")
    expect(jobs).to_have_count(len(kinds))
    for i, kind in enumerate(kinds):
        expect(jobs.nth(i)).to_contain_text(kind)
        expect(jobs.nth(i).locator(".badge").first).to_have_text(re.compile("done|failed|cancelled"))
        expect(jobs.nth(i).locator(".badge").first, jobs.nth(i).inner_text()).to_have_text("done")


@pytest.mark.usefixtures("tiny_models")
def test_a_concept_goes_from_files_to_a_filtered_corpus(page: Page, login_link: str, tmp_path: Path) -> None:
    log_in(page, login_link)
    make_project(page)
    upload_families(page, tmp_path)
    jobs_are_done(page, ["Import"] * 3)
    look_at_corpus(page)
    check_reference(page)
    discover(page)
    jobs_are_done(page, ["Discover", "Preflight", *["Import"] * 3])
    accept_latents(page)
    save_rule(page)
    jobs_are_done(page, ["Label", "Discover", "Preflight", *["Import"] * 3])
    train(page)
    jobs_are_done(page, ["Train", "Label", "Discover", "Preflight", *["Import"] * 3])
    look_at_classifier(page)
    review(page)
    filter_file(page, tmp_path)


def test_a_second_reference_reads_the_corpus_beside_the_first(
    page: Page, login_link: str, project: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    """The first has a planted store and two verdicts; the second is added, checked and discovered by hand."""
    seed(sessions, settings, project)
    accept(sessions, project, 0, 1)
    page.goto(login_link)
    add_reference(page, settings.data_dir / "models")
    use_reference(page, "second")
    page.locator(f'form[action="{HOME}/discover"] button').first.click()
    jobs_are_done(page, ["Discover", "Preflight"])
    page.goto(EVERY_LATENT)
    expect(page.locator("tr.latent").first).to_be_visible()
    expect(page.locator("#latents")).to_contain_text("the SAE has 64")
    expect(page.locator("#tally")).to_contain_text("0 accepted")
    page.keyboard.press("j")
    page.keyboard.press("n")
    expect(page.locator("#tally")).to_contain_text("1 rejected")
    use_reference(page, "planted")
    page.goto(EVERY_LATENT)
    expect(page.locator("#latents")).to_contain_text("the SAE has 6")
    expect(page.locator("#tally")).to_contain_text("2 accepted 0 rejected", use_inner_text=True)
    for latent in (0, 1):
        expect(page.locator(f"#latent-{latent} button[aria-pressed=true]")).to_have_text("Yes")


def add_reference(page: Page, folder: Path) -> None:
    """A model and an SAE that was fitted to it: its checklist appears, and nothing on it fails."""
    model = tiny_gemma2(folder / "model")
    texts = [text for family in TEXTS.values() for text in family]
    sae = fitted_gemma_scope(folder / "layer_2", str(model), 2, texts)
    page.get_by_role("link", name="References", exact=True).click()
    page.get_by_label("Name").fill("second")
    page.get_by_label("Model").fill(str(model))
    page.get_by_label("SAE", exact=True).fill(str(sae))
    send(page, "Add reference")
    expect(page.locator("article.job")).to_contain_text("added second: 64 latents at blocks.2.hook_resid_post")
    page.reload()
    page.get_by_role("link", name="second", exact=True).click()
    send(page, "Check")
    for check in ("Model", "Reconstruction", "Numbers", "L0", "BOS", "Vocabulary"):
        row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=check, exact=True))
        expect(row).to_contain_text(re.compile("pass|warn"))


def use_reference(page: Page, name: str) -> None:
    page.goto(f"{HOME}/references")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
    with page.expect_navigation():
        row.get_by_role("button", name="Use").click()
    expect(page.locator("#reference_id option[selected]")).to_have_text(name)


def log_in(page: Page, login_link: str) -> None:
    page.goto(login_link)
    expect(page).to_have_url(re.compile("/projects$"))
    expect(page.get_by_text("No projects yet")).to_be_visible()


def make_project(page: Page) -> None:
    page.get_by_label("Concept").fill("Medicine")
    page.get_by_label("Includes").fill("What happens to patients.")
    page.get_by_label("Excludes").fill("Biology, sport.")
    send(page, "Create project")
    expect(page.get_by_role("heading", level=1)).to_have_text("Medicine")


def upload_families(page: Page, folder: Path) -> None:
    page.get_by_role("navigation", name="Project").get_by_role("link", name="Corpus").click()
    for family, side in SIDES.items():
        page.get_by_label("File", exact=True).set_input_files(family_file(folder, family))
        page.locator("#family").fill(family)
        page.locator("#side").select_option(side)
        send(page, "Import")


def look_at_corpus(page: Page) -> None:
    page.goto(f"{HOME}/corpus")
    for family in SIDES:
        expect(page.get_by_role("row").filter(has_text=f"{family}.jsonl")).to_contain_text("25")
    page.get_by_label("Search id or text").fill("clinic-27")
    page.get_by_label("Search id or text").press("Enter")
    expect(page.locator("#documents tbody tr")).to_have_count(1)
    expect(page.locator("#documents")).to_contain_text("clinic-27")


def discover(page: Page) -> None:
    page.goto(HOME)
    page.locator("#reference_id").select_option("tiny")
    send(page, "Use")
    expect(page.locator("#reference dl")).to_contain_text("64")
    page.locator(f'form[action="{HOME}/discover"] button').first.click()
    expect(page.locator("article.job").first).to_contain_text("Discover")


def check_reference(page: Page) -> None:
    """An SAE of random weights reconstructs nothing: no harvest until somebody decides so, with a reason."""
    page.get_by_role("link", name="References", exact=True).click()
    page.get_by_role("link", name="tiny", exact=True).click()
    send(page, "Check")
    page.reload()
    expect(page.locator("#checklist")).to_contain_text("explains almost nothing")
    page.get_by_label("Harvest all the same").fill("A test: random weights will do.")
    page.get_by_role("button", name="Override").click()
    expect(page.locator("#checklist")).to_contain_text("Overridden by owner")


def accept_latents(page: Page) -> None:
    """In the list by keyboard alone, then one more on its own page, with a note."""
    page.goto(f"{HOME}/latents?ratio=0&minimum=1")
    accepted = page.locator("#tally .state-accept")
    page.keyboard.press("j")
    for count in (1, 2, 3):
        page.keyboard.press("y")
        expect(accepted).to_have_text(f"{count} accepted")
    page.keyboard.press("n")
    expect(page.locator("#tally .state-reject")).to_have_text("1 rejected")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Latent \d+$"))
    expect(page.locator("#examples article .tok").first).to_be_visible()
    page.get_by_label("Note").fill("wards and doses")
    page.get_by_label("Note").press("Escape")
    page.keyboard.press("y")
    expect(page.locator("#verdict")).to_contain_text("wards and doses")
    expect(page.locator("#verdict .badge").first).to_have_text("accept")


def save_rule(page: Page) -> None:
    """The what-if answers while the number is typed; saving labels the corpus."""
    page.goto(f"{HOME}/rule")
    flagged = page.locator("#preview table")
    before = flagged.text_content() or ""
    page.locator("#k").fill("1")
    expect(flagged).not_to_have_text(before)
    expect(page).to_have_url(re.compile(r"\bk=1\b"))
    expect(page.locator("#preview .tok.seed").first).to_be_visible()
    send(page, "Save and label")
    version = page.get_by_role("row").filter(has=page.get_by_role("link", name="1", exact=True))
    expect(version.get_by_role("cell").nth(2)).to_have_text("1")


def train(page: Page) -> None:
    page.goto(f"{HOME}/classifiers")
    page.get_by_label("Name").fill("sieve")
    page.get_by_role("radio", name="probe").check()
    send(page, "Train")


def look_at_classifier(page: Page) -> None:
    page.goto(f"{HOME}/classifiers")
    page.get_by_role("link", name="sieve:1").click()
    figures = page.locator(".stats").first
    for name in ("F1", "Precision", "Recall", "Threshold"):
        expect(figures).to_contain_text(name)
    expect(page.get_by_role("heading", name="Precision over recall").first).to_be_visible()
    for family in SIDES:
        expect(page.get_by_role("cell", name=family, exact=True).first).to_be_visible()


def review(page: Page) -> None:
    """Mark, take back, mark again, finish; the reloaded page shows what the server kept."""
    page.goto(f"{HOME}/review?why=all")
    page.get_by_role("link", name="Start reviewing").click()
    saved, spans = page.locator("#saved"), page.locator("#span-count")
    expect(saved).to_have_text("Nothing marked yet")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#at-selection")).to_have_text("4 tokens")
    page.keyboard.press("m")
    expect(saved).to_have_text("Saved · version 1")
    expect(spans).to_have_text("1")
    marked = page.locator("#reader-text .tk.gold").all_inner_texts()
    page.keyboard.press("r")
    expect(saved).to_have_text("Saved · version 2")
    expect(spans).to_have_text("0")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("m")
    expect(saved).to_have_text("Saved · version 3")
    page.keyboard.press("d")
    expect(page.locator("#state")).to_have_text("done")
    expect(saved).to_have_text("Saved · version 4")
    page.reload()
    expect(page.locator("#state")).to_have_text("done")
    expect(saved).to_have_text("Saved · version 4")
    expect(spans).to_have_text("1")
    assert len(marked) == 4
    assert page.locator("#reader-text .tk.gold").all_inner_texts() == marked


def filter_file(page: Page, folder: Path) -> None:
    page.goto(f"{HOME}/filters")
    page.get_by_label("Files").set_input_files(family_file(folder, "clinic"))
    page.get_by_role("radio", name=re.compile("^remove")).check()
    send(page, "Start")
    jobs_are_done(page, ["Filter", "Train", "Label", "Discover", "Preflight", *["Import"] * 3])
    page.goto(f"{HOME}/filters")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download", exact=True).click()
    with zipfile.ZipFile(started.value.path()) as archive:
        names = [Path(name).name for name in archive.namelist()]
        assert archive.testzip() is None
    assert "MANIFEST.json" in names
    assert any(name.endswith(".parquet") for name in names)
