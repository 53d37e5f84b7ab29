"""Explaining latents: preview, job, what the pages show of it; the key stays where it was."""

import threading
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import latent_steps
from app.jobs import JobView
from app.models import Explanation, Job, Project
from app.settings import Settings
from labeling.events import Metric
from tests.app.seeded import seed
from tests.chat_server import ChatServer

URL = "/projects/medicine/explanations"
KEY = "sk-canary-51423"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def planted(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    seed(sessions, settings, project)
    return project


@pytest.fixture
def asking(planted: Project, settings: Settings, server: ChatServer) -> Settings:
    settings.explain_url, settings.explain_model, settings.explain_key = server.url, "tiny", SecretStr(KEY)
    settings.explain_price_in, settings.explain_price_out = 10.0, 100.0
    return settings


def test_without_an_endpoint_the_page_says_how_to_set_one(client: TestClient, planted: Project) -> None:
    page = client.get(f"{URL}?latent=0")
    assert (
        page.status_code == 200
        and "TOKENSIEVE_EXPLAIN_URL" in page.text
        and "<form method" not in page.text.split("<main")[1]
    )
    assert client.post(f"{URL}?latent=0").status_code == 409


def test_the_preview_tells_tokens_and_price_and_sends_nothing(
    client: TestClient, asking: Settings, server: ChatServer
) -> None:
    page, fragment = (
        client.get(f"{URL}?minimum=0").text,
        client.get(f"{URL}?minimum=0", headers={"HX-Request": "true"}).text,
    )
    assert "tiny at 127.0.0.1" in page and "at most about" in page and "Explain 6 latents" in page
    assert fragment.strip() in page and server.seen == [] and KEY not in page


def test_bad_requests_are_refused(client: TestClient, asking: Settings) -> None:
    assert client.get(f"{URL}?latent=99").status_code == 404
    assert client.get(f"{URL}?latent=x").status_code == 422
    assert client.get(f"{URL}?sort=secret").status_code == 422


def test_without_discovery_there_is_nothing_to_explain(client: TestClient, project: Project) -> None:
    assert client.get(URL).status_code == 409


def run(settings: Settings, sessions: sessionmaker[Session], project: Project, latents: list[int]) -> list[object]:
    return list(latent_steps.explain(settings, sessions, JobView(1, project.id, {"latents": latents}, "owner")))


def test_a_latent_is_explained_once_and_shown_as_an_opinion(
    client: TestClient, asking: Settings, server: ChatServer, sessions: sessionmaker[Session], planted: Project
) -> None:
    assert client.post(f"{URL}?latent=0").status_code == 303
    with sessions() as session:
        job = session.scalars(select(Job)).one()
        assert (job.kind, job.args) == ("explain", {"latents": [0]})
    *_, last = run(asking, sessions, planted, [0])
    asked = len(server.seen)
    with sessions() as session:
        row = session.scalars(select(Explanation)).one()
        assert (row.text, row.judgement, row.model) == ("doses of drugs", "yes", "tiny")
        assert last == Metric("cost", row.cost) and row.cost == pytest.approx(
            (row.tokens_in * 10 + row.tokens_out * 100) / 1e6
        )
    assert "Diagnosis, treatment" in server.seen[0]["messages"][-1]["content"]  # the project's definition
    run(asking, sessions, planted, [0])
    assert len(server.seen) == asked  # the same words are not asked twice
    page = client.get("/projects/medicine/latents/0?minimum=0").text
    assert "doses of drugs" in page and "fits the concept" in page and "decides nothing" in page
    found = client.get("/projects/medicine/latents?minimum=0&text=DOSES+of").text
    assert 'id="latent-0"' in found and 'id="latent-1"' not in found


def test_the_key_is_neither_stored_nor_told(
    asking: Settings,
    server: ChatServer,
    sessions: sessionmaker[Session],
    planted: Project,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    run(asking, sessions, planted, [0])
    server.fail = [400]
    with pytest.raises(ValueError) as refused:
        run(asking, sessions, planted, [1])
    assert server.authorization[0] == f"Bearer {KEY}"
    assert KEY not in caplog.text and KEY not in str(refused.value) and KEY not in repr(asking)
    with sessions() as session:
        connection = session.connection().connection.driver_connection
        if hasattr(connection, "iterdump"):
            assert KEY not in "\n".join(connection.iterdump())
