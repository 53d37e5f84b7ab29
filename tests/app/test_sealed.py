"""Sealed documents stay closed until the one reveal."""

import pytest
from sqlalchemy import select, update

from app import sealing
from app.gold import count_gold, gold_texts
from app.models import AccessLog, Annotation, Document
from app.roles import SOLO
from tests.app.members import member
from tests.app.reviewed import documents_of
from tests.app.test_review import post

SEALED = "/projects/medicine/sealed"


@pytest.fixture
def sealed(client, sessions, project):
    """One sealed document of each family."""
    assert client.post(f"{SEALED}/seal", data={"per_family": 5}).status_code == 303
    with sessions() as session:
        return [d for d in documents_of(session, project) if d.split == "sealed"]


def test_only_untouched_test_documents_are_sealed(client, sessions, project):
    with sessions() as session:
        test = [d for d in documents_of(session, project) if d.split == "test"]
    post(client, test[0], 0, "state", state="clean")
    client.post(f"{SEALED}/seal", data={"per_family": 5})
    with sessions() as session:
        now_sealed = {d.key for d in documents_of(session, project) if d.split == "sealed"}
    assert now_sealed == {d.key for d in test[1:]}
    assert client.post(f"{SEALED}/seal", data={"per_family": 5}).status_code == 422  # none left


def test_no_page_or_file_shows_a_sealed_document(client, sessions, project, sealed):
    with sessions.begin() as session:
        for document in sealed:
            session.add(
                Annotation(document_id=document.id, version=1, action="import", spans=[[0, 3]], judged=[], state="done", author="owner")
            )  # fmt: skip
    for path in ("review", "corpus", "gold.jsonl", "gold/conll", "gold/label-studio", "sealed", "agreement"):
        page = client.get(f"/projects/medicine/{path}").text
        for document in sealed:
            assert document.text not in page and document.text[:40] not in page, path
    assert client.get(f"/projects/medicine/documents/{sealed[0].id}").status_code == 404
    assert post(client, sealed[0], 1, "add", start=0, end=3).status_code == 404
    with sessions() as session:
        assert count_gold(session, project.id) == 0 and list(gold_texts(session, project.id)) == []


def test_asking_for_one_is_logged_and_the_log_is_on_the_page(client, sealed):
    client.get(f"/projects/medicine/documents/{sealed[0].id}")
    post(client, sealed[0], 0, "add", start=0, end=3)
    page = client.get(SEALED).text
    assert page.count("asked for a sealed document") == 2 and "at most 5 a family" in page


def test_one_reveal_with_a_reason(client, sessions, project, sealed):
    assert client.post(f"{SEALED}/reveal", data={"reason": "  no "}).status_code == 422
    assert client.post(f"{SEALED}/reveal", data={"reason": "final test of classifier 3"}).status_code == 303
    assert client.get(f"/projects/medicine/documents/{sealed[0].id}").status_code == 200
    assert client.post(f"{SEALED}/reveal", data={"reason": "and once more please"}).status_code == 422
    assert client.post(f"{SEALED}/seal", data={"per_family": 5}).status_code == 422
    page = client.get(SEALED).text
    assert "final test of classifier 3" in page
    with sessions() as session:
        assert {d.split for d in documents_of(session, project)} == {"train", "validation", "revealed"}
        assert len(session.scalars(select(AccessLog).where(AccessLog.action == "reveal")).all()) == 1


def test_only_an_admin_opens_them(app, client, sessions, settings, project, sealed):
    curator = member(app, sessions, settings, "cur", "curator", project)
    assert curator.get(SEALED).status_code == 200
    assert curator.post(f"{SEALED}/reveal", data={"reason": "because I want to"}).status_code == 403


def test_an_empty_project_has_nothing_to_reveal(sessions, project):
    with sessions.begin() as session:
        session.execute(update(Document).values(split="train"))
        with pytest.raises(ValueError, match="no sealed documents"):
            sealing.reveal(session, project.id, "a good enough reason", SOLO)
