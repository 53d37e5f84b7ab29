"""Assignments, blind reading, agreement, adjudication: several people, one document."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.adjudication import read_twice
from app.assignments import assign, assignments_of, share_out, worked
from app.gold import gold_texts
from app.models import AccessLog, Annotation, Document, now
from tests.app.members import member
from tests.app.reviewed import documents_of, seed
from tests.app.test_review import post


@pytest.fixture
def team(app, sessions, settings, project):
    """Annotators ann and bob, curator cur; the first document is assigned to both annotators, blind."""
    people = {name: member(app, sessions, settings, name, "annotator", project) for name in ("ann", "bob")}
    people["cur"] = member(app, sessions, settings, "cur", "curator", project)
    with sessions.begin() as session:
        first, second = documents_of(session, project)[:2]
        assign(session, [(first.id, "ann"), (first.id, "bob")], True, "cur")
        assign(session, [(second.id, "ann")], False, "cur")
    return people | {"first": first, "second": second}


def label(client, document, *spans: tuple[int, int]) -> None:
    """Mark these spans and finish."""
    for version, (start, end) in enumerate(spans):
        assert post(client, document, version, "add", start=start, end=end).status_code == 200
    answer = post(client, document, len(spans), "state", state="done" if spans else "clean")
    assert answer.status_code == 200


# Own layers


def test_everybody_labels_in_a_layer_of_their_own(team, sessions, project):
    label(team["ann"], team["first"], (4, 11))
    fresh = post(team["bob"], team["first"], 0, "add", start=0, end=3)
    assert fresh.status_code == 200 and fresh.json()["spans"] == [[0, 3]]
    with sessions() as session:
        layers = session.execute(select(Annotation.layer, Annotation.author).distinct()).tuples().all()
    assert sorted(layers) == [("ann", "ann"), ("bob", "bob")]


def test_solo_labels_go_to_the_project_s_own_layer(client, sessions, project):
    with sessions() as session:
        first = documents_of(session, project)[0]
    label(client, first, (4, 11))
    with sessions() as session:
        assert set(session.scalars(select(Annotation.layer))) == {""}


def test_gold_is_what_all_readers_say_and_ignores_what_they_dispute(team, sessions, project):
    label(team["ann"], team["first"], (4, 11), (12, 15))
    label(team["bob"], team["first"], (4, 11))
    with sessions() as session:
        (text,) = gold_texts(session, project.id)
    assert (text.spans, text.ignore) == ([(4, 11)], [(12, 15)])


# Assignment and blind reading


def test_an_annotator_reads_only_what_is_assigned(team, sessions, project):
    with sessions() as session:
        third = documents_of(session, project)[2]
    url = "/projects/medicine/documents"
    assert team["ann"].get(f"{url}/{team['second'].id}").status_code == 200
    assert team["bob"].get(f"{url}/{team['second'].id}").status_code == 404
    assert post(team["bob"], team["second"], 0, "add", start=0, end=3).status_code == 404
    assert team["cur"].get(f"{url}/{third.id}").status_code == 200
    queue = team["bob"].get("/projects/medicine/review").text
    assert "clinic-1" in queue and "clinic-2" not in queue


def test_a_blind_reader_gets_no_suggestion_from_any_page_and_it_is_logged(team, settings, sessions, project):
    seed(settings, sessions, project)
    url = f"/projects/medicine/documents/{team['first'].id}"
    shown, open_one = (
        team["ann"].get(url).text,
        team["ann"].get(f"/projects/medicine/documents/{team['second'].id}").text,
    )
    for page, seen in ((shown, False), (open_one, True)):
        text = page.split('id="reader-text"')[1].split("</div>")[0]
        assert ("data-p=" in text) == ("seed" in text) == seen
    assert team["ann"].get(f"{url}/why?start=12").status_code == 403
    queue = team["ann"].get("/projects/medicine/review").text
    assert "to be read blind" in queue
    for why in ("flagged", "disagreement", "uncertain", "retain", "similar"):
        assert "clinic-1" not in team["ann"].get(f"/projects/medicine/review?why={why}").text, why
    with sessions() as session:
        log = session.execute(select(AccessLog.action, AccessLog.user)).tuples().all()
    assert ("blind", "ann") in log and ("refused", "ann") in log


def test_nobody_sees_anothers_labels_before_finishing_blind(team, sessions, project):
    label(team["ann"], team["first"], (4, 11))
    label(team["bob"], team["first"])
    with sessions.begin() as session:
        assign(session, [(team["first"].id, "cur")], True, "cur")
    url = f"/projects/medicine/adjudication/{team['first'].id}"
    assert team["cur"].get(url).status_code == 403
    label(team["cur"], team["first"], (4, 11))
    assert team["cur"].get(url).status_code == 200


def test_documents_are_shared_out_evenly_and_pairs_vary():
    pairs = share_out(range(12), ["a", "b", "c"], 2)
    loads = [sum(user == name for _, user in pairs) for name in "abc"]
    together = {frozenset(user for id_, user in pairs if id_ == n) for n in range(12)}
    assert loads == [8, 8, 8] and len(together) == 3
    with pytest.raises(ValueError, match="1 to 3 readers"):
        share_out(range(3), ["a", "b", "c"], 4)


def test_a_curator_shares_out_a_queue(team, sessions, project):
    form = {"users": ["ann", "bob"], "count": 5, "readers": 2, "why": "strata", "blind": "true"}
    assert team["cur"].post("/projects/medicine/assignments", data=form).status_code == 303
    page = team["cur"].get("/projects/medicine/assignments").text
    assert "ann" in page and "per hour" in page.lower()
    with sessions() as session:
        ann, bob = (assignments_of(session, project.id, name) for name in ("ann", "bob"))
        families = {session.get_one(Document, id_).family.name for id_ in bob if id_ != team["first"].id}
    assert (len(ann), len(bob)) == (7, 6) and families == {"clinic", "sport", "biology"}


@pytest.mark.parametrize("change", [{"users": []}, {"users": ["eve"]}, {"readers": 3}, {"family": "nothing"}])
def test_an_assignment_that_makes_no_sense_is_422(team, change):
    form = {"users": ["ann", "bob"], "count": 5, "readers": 2, "why": "random"} | change
    assert team["cur"].post("/projects/medicine/assignments", data=form).status_code == 422


def test_breaks_are_not_work():
    begun = now()
    times = [begun + timedelta(minutes=m) for m in (0, 1, 3, 60, 61)]
    assert worked(times) == timedelta(minutes=4)


# Agreement and adjudication


def test_agreement_and_adjudication_make_gold(team, sessions, project):
    label(team["ann"], team["first"], (4, 11), (12, 15))
    label(team["bob"], team["first"], (4, 11))
    page = team["cur"].get("/projects/medicine/agreement").text
    assert "ann · bob" in page and f"/adjudication/{team['first'].id}" in page
    url = f"/projects/medicine/adjudication/{team['first'].id}"
    shown = team["cur"].get(url).text
    assert "<mark>was</mark>" in shown and 'value="12-15"' in shown
    form = {"version": 0, "seen": "ann:3,bob:2", "forget": ["12-15"]}
    assert team["cur"].post(url, data=form).status_code == 303
    with sessions() as session:
        (text,) = gold_texts(session, project.id)
        assert (text.spans, text.ignore) == ([(4, 11), (12, 15)], None)
    assert team["cur"].post(url, data=form).status_code == 409  # a second tab
    page = team["cur"].get("/projects/medicine/agreement").text
    assert "To adjudicate" not in page and f"/documents/{team['first'].id}" in page
    assert 'value="12-15" checked' in team["cur"].get(url).text  # as decided, though it was one against one


def test_a_stale_or_invented_decision_is_refused(team, sessions, project):
    label(team["ann"], team["first"], (4, 11))
    label(team["bob"], team["first"])
    url = f"/projects/medicine/adjudication/{team['first'].id}"
    good = {"version": 0, "seen": "ann:2,bob:1"}
    assert team["cur"].post(url, data=good | {"forget": ["0-3"]}).status_code == 422
    assert team["cur"].post(url, data=good | {"forget": ["x"]}).status_code == 422
    post(team["bob"], team["first"], 1, "add", start=0, end=3)
    post(team["bob"], team["first"], 2, "state", state="done")
    assert team["cur"].post(url, data=good).status_code == 409
    assert team["cur"].get("/projects/medicine/adjudication/99999").status_code == 404


def test_sealed_documents_are_in_no_agreement(team, sessions, project):
    label(team["ann"], team["first"], (4, 11))
    label(team["bob"], team["first"])
    with sessions.begin() as session:
        session.get_one(Document, team["first"].id).split = "sealed"
    with sessions() as session:
        assert read_twice(session, project.id) == []
