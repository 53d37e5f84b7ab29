"""Bulk verdicts: what a filter picks, one verdict on it, one undo."""

import pytest
from sqlalchemy import select

from app.annotating import EMPTY, Labels
from app.bulk import Suggestion, judged
from app.models import Annotation, BulkVerdict
from tests.app.reviewed import documents_of, seed

URL = "/projects/medicine/review/bulk"
HTMX = {"HX-Request": "true"}
CLINIC, SPORT = 4, 4  # documents, each with one suggestion


@pytest.fixture(autouse=True)
def seeded(settings, sessions, project) -> None:
    seed(settings, sessions, project)


def newest(sessions) -> dict[int, Annotation]:
    with sessions() as session:
        rows = session.scalars(select(Annotation).order_by(Annotation.version))
        return {row.document_id: row for row in rows}


def give(client, expected: int, **asked: str):
    return client.post(URL, data={"expected": str(expected), "verdict": "right", **asked})


def test_judging_adds_spans_only_where_the_verdict_is_right():
    suggestions = [Suggestion(0, 4, 0.9, True, True, True), Suggestion(6, 9, None, True, False, True)]
    before = Labels([(12, 14)], [], "todo")
    right = judged(before, suggestions, "right")
    assert right == Labels([(0, 4), (6, 9), (12, 14)], [(0, 4, "right"), (6, 9, "right")], "part")
    assert judged(before, suggestions, "wrong").spans == [(12, 14)]
    assert judged(EMPTY, [], "right") == Labels([], [], "part")


@pytest.mark.parametrize(
    ("query", "picked"),
    [
        ("", CLINIC + SPORT),
        ("family=sport", SPORT),
        ("by=both", CLINIC),
        ("by=classifier_only", SPORT),
        ("low=0.9", CLINIC),
        ("high=0.9", SPORT),
        ("low=0.6&high=0.8", SPORT),
        ("function=latent+5", CLINIC),
        ("words=WAS+GIVEN", 1),
        ("split=test", 2),
        ("document=1", 1),
        ("by=rule_only", 0),
    ],
)
def test_a_filter_picks_these_suggestions(client, query, picked):
    page = client.get(f"{URL}?{query}").text
    plural = "" if picked == 1 else "s"
    assert (f"Judge {picked} suggestion{plural} right" in page) if picked else "Nothing to judge" in page


def test_one_verdict_on_all_and_a_single_undo(client, sessions):
    assert give(client, SPORT, family="sport", verdict="wrong").status_code == 303
    rows = newest(sessions)
    assert len(rows) == SPORT
    assert {row.action for row in rows.values()} == {"bulk"} and all(row.spans == [] for row in rows.values())
    assert "Nothing to judge" in client.get(f"{URL}?family=sport").text
    assert client.post(f"{URL}/1/undo").status_code == 303
    assert all(row.judged == [] and row.state == "todo" for row in newest(sessions).values())
    assert client.post(f"{URL}/1/undo").status_code == 409


def test_undo_leaves_documents_alone_that_somebody_went_on_with(client, sessions):
    give(client, CLINIC, family="clinic")
    client.post(
        "/projects/medicine/documents/1/annotations", json={"version": 1, "action": "add", "start": 0, "end": 3}
    )
    client.post(f"{URL}/1/undo")
    rows = newest(sessions)
    assert len(rows[1].spans) == 2 and rows[2].spans == []
    assert "taken back in 3 of 4" in client.get(URL).text


def test_what_somebody_judged_marked_or_finished_is_left_alone(client, sessions, project):
    with sessions() as session:
        one, two, three, _ = documents_of(session, project)[:4]
    post = "/projects/medicine/documents/{}/annotations"
    client.post(post.format(one.id), json={"version": 0, "action": "wrong", "start": 12, "end": 23})
    client.post(post.format(two.id), json={"version": 0, "action": "add", "start": 0, "end": len(two.text)})
    client.post(post.format(three.id), json={"version": 0, "action": "state", "state": "clean"})
    assert "Judge 1 suggestion right" in client.get(f"{URL}?family=clinic").text


def test_a_preview_that_is_out_of_date_writes_nothing(client, sessions):
    assert give(client, SPORT + 1, family="sport").status_code == 409
    assert newest(sessions) == {}
    with sessions() as session:
        assert session.scalars(select(BulkVerdict)).all() == []


def test_sealed_documents_are_not_looked_at(client, sessions, project):
    with sessions.begin() as session:
        for document in documents_of(session, project):
            document.split = "sealed"
    assert "Nothing to judge" in client.get(URL).text


@pytest.mark.parametrize(
    "query", ["low=2", "by=me", "verdict=maybe", "document=x", "function=latent+999", "split=sealed"]
)
def test_a_bad_filter_is_422_and_says_which_field(client, query):
    answer = client.get(f"{URL}?{query}")
    assert answer.status_code == 422 and f"{query.split('=')[0]}: " in answer.text
    assert client.post(URL, data={"low": "2"}).status_code == 422


def test_missing_rows_are_404(client):
    assert client.post(f"{URL}/99/undo").status_code == 404
    assert client.get("/projects/nothing/review/bulk").status_code == 404


def test_the_fragment_stands_verbatim_in_the_page(client):
    page, fragment = client.get(URL), client.get(URL, headers=HTMX)
    assert fragment.text.strip() in page.text and "<html" not in fragment.text
