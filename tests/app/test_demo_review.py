"""The demo's worked review: what ships is sound, and it is written once, where it fits, as a person would write it."""

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from app.adjudication import agreement_table, read_twice
from app.annotating import Event
from app.demo_review import ADJUDICATOR, Reading, Review, ensure_review, load
from app.gold import gold_of
from app.models import Annotation, Document, Project
from app.review_queries import annotate, open_texts
from labeling.agreement import consensus, difference
from labeling.documents import split_of
from labeling.tokens import merge

MARKED = {"demo-a": [(4, 11), (21, 37)], "demo-b": [(4, 11), (26, 53)]}


@pytest.fixture
def review(project: Project, sessions: sessionmaker[Session]) -> Review:
    """A clinic document that two readers mark differently, and a sport document that both call clean."""
    with sessions() as session:
        hashes = {d.key: d.sha256 for d in open_texts(session, project.id, ["clinic-3", "sport-4"])}
    clinic = Reading(id="clinic-3", sha256=hashes["clinic-3"], layers=MARKED, adjudicated=[(4, 11), (26, 53)])
    clean = Reading(id="sport-4", sha256=hashes["sport-4"], layers={"demo-a": [], "demo-b": []}, adjudicated=[])
    return Review(about="a test", documents=[clinic, clean])


def events(sessions: sessionmaker[Session]) -> list[tuple[str, int, str, str, list[list[int]]]]:
    with sessions() as session:
        rows = session.scalars(select(Annotation).order_by(Annotation.id))
        return [(r.layer, r.version, r.action, r.state, r.spans) for r in rows]


def test_what_ships_is_held_out_text_read_twice_and_decided_between_the_two() -> None:
    documents = load().documents
    assert len({d.id for d in documents}) == len(documents) >= 12
    assert len({d.id.split("/")[0] for d in documents}) >= 8
    for d in documents:
        assert split_of(d.sha256) in ("validation", "test"), d.id  # statistics never see it
        assert set(d.layers) == {"demo-a", "demo-b"}
        agreed, disputed = consensus(list(d.layers.values()))
        assert not difference(agreed, d.adjudicated), d.id
        assert not difference(d.adjudicated, merge([*agreed, *disputed])), d.id
        assert all(spans == merge(spans) for spans in (*d.layers.values(), d.adjudicated)), d.id


def test_both_readings_and_the_decision_become_events(
    review: Review, project: Project, sessions: sessionmaker[Session]
) -> None:
    assert ensure_review(sessions, project.id, review) == []
    assert events(sessions) == [
        ("demo-a", 1, "add", "part", [[4, 11]]),
        ("demo-a", 2, "add", "part", [[4, 11], [21, 37]]),
        ("demo-a", 3, "state", "done", [[4, 11], [21, 37]]),
        ("demo-b", 1, "add", "part", [[4, 11]]),
        ("demo-b", 2, "add", "part", [[4, 11], [26, 53]]),
        ("demo-b", 3, "state", "done", [[4, 11], [26, 53]]),
        ("", 1, "adjudicate", "done", [[4, 11], [26, 53]]),
        ("demo-a", 1, "state", "clean", []),
        ("demo-b", 1, "state", "clean", []),
        ("", 1, "adjudicate", "clean", []),
    ]
    with sessions() as session:
        gold = {document.key: found.spans for document, _, found in gold_of(session, project.id)}
        table = agreement_table(read_twice(session, project.id))
    assert gold == {"clinic-3": [(4, 11), (26, 53)], "sport-4": []}
    assert table is not None and list(table.pairs) == [("demo-a", "demo-b")]
    assert set(table.families) == {"clinic", "sport"} and table.pooled.documents == 2


def test_a_second_start_adds_nothing(review: Review, project: Project, sessions: sessionmaker[Session]) -> None:
    ensure_review(sessions, project.id, review)
    before = events(sessions)
    assert ensure_review(sessions, project.id, review) == []
    assert events(sessions) == before


def test_a_document_that_somebody_has_labelled_stays_theirs(
    review: Review, project: Project, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        (document,) = open_texts(session, project.id, ["clinic-3"])
        annotate(session, document, Event(version=0, action="add", start=0, end=2), "owner")
    ensure_review(sessions, project.id, review)
    with sessions() as session:
        query = select(Document.key, func.count()).join(Annotation, Annotation.document_id == Document.id)
        counts = dict(session.execute(query.group_by(Document.key)).tuples().all())
    assert counts == {"clinic-3": 1, "sport-4": 3}


def test_labels_are_never_put_on_other_text_or_a_sealed_document(
    review: Review, project: Project, sessions: sessionmaker[Session]
) -> None:
    clinic, clean = review.documents
    with sessions.begin() as session:
        session.scalars(select(Document).where(Document.key == "sport-4")).one().split = "sealed"
    changed = Review(about="", documents=[clinic.model_copy(update={"sha256": "0" * 64}), clean])
    other, sealed = ensure_review(sessions, project.id, changed)
    assert other.startswith("clinic-3 has other text") and sealed.startswith("sport-4 is not among")
    assert events(sessions) == []


def test_the_agreement_page_and_the_reader_show_it(
    client, review: Review, project: Project, sessions: sessionmaker[Session]
) -> None:
    ensure_review(sessions, project.id, review)
    page = client.get("/projects/medicine/agreement").text
    assert "demo-a · demo-b" in page and "To adjudicate" not in page
    with sessions() as session:
        (document,) = open_texts(session, project.id, ["clinic-3"])
        author = session.scalar(select(Annotation.author).where(Annotation.action == "adjudicate").limit(1))
    assert author == ADJUDICATOR
    assert client.get(f"/projects/medicine/documents/{document.id}").status_code == 200
