"""The verdict queue: its order holds still, verdicts and undo are appended, the next candidate comes back."""

import re
from datetime import timedelta

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import verdict_log
from app.artifacts import LatentTable
from app.models import Project, Verdict, now
from app.settings import Settings
from app.verdict_queue import QueueQuery, pace, place, queue
from tests.app.seeded import accept, seed

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/queue"
ALL = "minimum=0&ratio=0"


@pytest.fixture
def planted(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    seed(sessions, settings, project)
    return project


def verdicts(sessions: sessionmaker[Session]) -> list[tuple[int, str, str, int | None]]:
    with sessions() as session:
        rows = session.scalars(select(Verdict).order_by(Verdict.id)).all()
    return [(row.latent, row.decision, row.note, row.undoes_id) for row in rows]


def shown(page: str) -> int:
    found = re.search(r'/latents/(\d+)">\d+</a></h1>', page)
    assert found, page[:500]
    return int(found[1])


def test_places_go_round_and_the_next_is_one_without_a_verdict() -> None:
    at = place([5, 2, 9, 7], 2, {9})
    assert (at.number, at.total, at.done, at.before, at.after, at.upcoming) == (2, 4, 1, 5, 7, (7, 5))
    assert place([5, 2], None, {5}).latent == 2
    assert place([5, 2], 2, {5, 2}).after is None and place([5, 2], None, {5, 2}).latent is None
    assert place([5, 2], 8, set()).number is None  # somebody opened one that is not in the queue


def test_orders_by_ratio_uncertainty_and_effect() -> None:
    columns = {
        "strong_forget": np.full(4, 50),
        "ratio": np.array([100.0, 11, 3, 20]),
        "ratio_nearest": np.full(4, 10.0),
        "auroc": np.full(4, 0.5),
        "density": np.full(4, 1e-3),
    }
    table = LatentTable(columns, [], {})
    assert queue(table, QueueQuery(), {}) == [0, 3, 1, 2]
    assert queue(table, QueueQuery(order="uncertainty"), {})[0] == 1  # its ratio is the nearest to 10
    assert queue(table, QueueQuery(order="effect"), {}, {0: 5, 1: 90, 2: 7, 3: 0}) == [1, 2, 0, 3]


def test_pace_leaves_pauses_out() -> None:
    start = now()
    times = [start + timedelta(seconds=s) for s in (0, 5, 10, 1000, 1005)]
    found = pace(times, 24)
    assert found.per_minute == pytest.approx(12) and found.minutes_left == pytest.approx(2)
    assert pace(times[:1], 3).per_minute is None


def test_before_discovery_the_page_says_what_to_do(client: TestClient, project: Project) -> None:
    assert "No candidates yet" in client.get(URL).text
    assert client.get(f"{URL}/1").status_code == 409
    assert client.post(f"{URL}/1", data={"decision": "accept"}).status_code == 409


def test_the_candidate_stands_verbatim_in_the_page(client: TestClient, planted: Project) -> None:
    page = client.get(f"{URL}/1?{ALL}&as_of=0").text
    fragment = client.get(f"{URL}/1?{ALL}&as_of=0", headers=HTMX)
    assert "<html" not in fragment.text and fragment.text.strip() in page
    assert fragment.headers["HX-Replace-Url"] == f"{URL}/1?minimum=0&ratio=0.0&as_of=0"
    for evidence in ("warfarin", "clinic", "Would add", "Strongest", "<svg"):
        assert evidence in page
    assert "/queue/ready?latent=" in page  # the next ones are gathered meanwhile


@pytest.mark.parametrize("order", ["ratio", "uncertainty", "effect"])
def test_a_verdict_is_appended_and_the_next_candidate_comes_back(
    client: TestClient, planted: Project, sessions: sessionmaker[Session], order: str
) -> None:
    query = f"?{ALL}&as_of=0&order={order}"
    first = shown(client.get(f"{URL}{query}").text)
    answer = client.post(f"{URL}/{first}{query}", data={"decision": "accept", "note": " drugs "}, headers=HTMX)
    second = shown(answer.text)
    assert second != first and "1 of 6 judged" in answer.text
    assert verdicts(sessions) == [(first, "accept", "drugs", None)]
    # the order is of when the sitting began: the first one is still in it, one step back
    assert 'data-key="k ArrowLeft"' in answer.text and f"{URL}/{first}" in answer.text
    plain = client.post(f"{URL}/{second}{query}", data={"decision": "unsure"})
    assert plain.status_code == 303 and f"{URL}/" in plain.headers["location"]


def test_when_all_are_judged_the_queue_says_so_and_unsure_ones_can_be_taken_up(
    client: TestClient, planted: Project
) -> None:
    query = f"?{ALL}&as_of=0"
    for latent in range(6):
        answer = client.post(
            f"{URL}/{latent}{query}", data={"decision": "unsure" if latent == 4 else "reject"}, headers=HTMX
        )
    assert "Nothing waits in this sitting" in answer.text and "6 of 6 judged" in answer.text
    assert shown(client.get(f"{URL}?{ALL}&of=unsure").text) == 4
    assert "Nothing waits" in client.get(f"{URL}?{ALL}").text


def test_undo_takes_back_one_after_the_other_by_appending(
    client: TestClient, planted: Project, sessions: sessionmaker[Session]
) -> None:
    accept(sessions, planted, 1)
    query = f"?{ALL}&as_of=1"
    client.post(f"{URL}/1{query}", data={"decision": "reject", "note": "register"}, headers=HTMX)
    client.post(f"{URL}/3{query}", data={"decision": "accept"}, headers=HTMX)
    assert shown(client.post(f"{URL}/undo{query}", headers=HTMX).text) == 3
    answer = client.post(f"{URL}/undo{query}", headers=HTMX)
    assert shown(answer.text) == 1 and "Took back" in answer.headers["HX-Trigger"]
    assert verdicts(sessions)[1:] == [
        (1, "reject", "register", None), (3, "accept", "", None), (3, "clear", "", 3), (1, "accept", "", 2),
    ]  # fmt: skip
    assert client.post(f"{URL}/undo{query}", headers=HTMX).status_code == 409  # the first one is of another sitting
    assert client.post(f"{URL}/undo?{ALL}", headers=HTMX).status_code == 422
    assert 'class="taken-back"' in client.get(f"{URL}/3{query}").text


def test_undo_leaves_alone_what_somebody_else_judged_since(
    client: TestClient, planted: Project, sessions: sessionmaker[Session]
) -> None:
    client.post(f"{URL}/2?{ALL}&as_of=0", data={"decision": "reject"}, headers=HTMX)
    with sessions.begin() as session:
        project = session.get_one(Project, planted.id)
        verdict_log.give(session, project, 2, "accept", "", "ana")
    answer = client.post(f"{URL}/undo?{ALL}&as_of=0", headers=HTMX)
    assert answer.status_code == 409 and "ana judged latent 2 after you" in answer.text
    assert len(verdicts(sessions)) == 2


def test_bad_input_and_missing_rows(client: TestClient, planted: Project) -> None:
    assert client.get(f"{URL}/6").status_code == client.get("/projects/nothing/queue").status_code == 404
    assert client.post(f"{URL}/6", data={"decision": "accept"}).status_code == 404
    assert client.post(f"{URL}/1", data={"decision": "maybe"}).status_code == 422
    assert client.get(f"{URL}?order=alphabet").status_code == 422
    assert client.get(f"{URL}/ready?latent=1&latent=2").status_code == 204
    assert client.get(f"{URL}/ready?latent=99").status_code == 404
