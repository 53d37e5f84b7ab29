"""The corpus: listing, search, sides, upload, what an import left out."""

from pathlib import Path

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Document, Family, Import, ImportIssue, Job, Project

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/corpus"


def test_the_fragment_stands_verbatim_in_the_page(client: TestClient, project: Project) -> None:
    page, fragment = client.get(URL).text, client.get(URL, headers=HTMX).text
    assert "<html" not in fragment and "clinic-1" in fragment
    assert fragment.strip() in page


def test_search_filters_by_text_family_and_split(client: TestClient, project: Project) -> None:
    found = client.get(f"{URL}?q=warfarin", headers=HTMX).text
    assert "clinic-1" in found and "clinic-2" not in found
    assert "sport-1" not in client.get(f"{URL}?family=biology", headers=HTMX).text
    assert "clinic-4" in client.get(f"{URL}?split=test", headers=HTMX).text
    assert "No document matches" in client.get(f"{URL}?q=100%25", headers=HTMX).text  # % is no wildcard


def test_long_lists_come_in_pages(client: TestClient, project: Project, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        family = session.scalars(select(Family)).first()
        taken = session.scalars(select(Import)).first()
        assert family and taken
        for i in range(60):
            session.add(Document(project_id=project.id, family_id=family.id, import_id=taken.id, key=f"more-{i}",
                                 sha256="0" * 64, split="train", characters=4, text="text"))  # fmt: skip
    second = client.get(f"{URL}?page=2&q=more", headers=HTMX).text
    assert "more-59" in second and ">more-49<" not in second and "q=more" in second
    assert "more-59" in client.get(f"{URL}?page=99&q=more", headers=HTMX).text


def test_a_sealed_document_shows_no_text(client: TestClient, project: Project, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.scalars(select(Document).where(Document.key == "clinic-1")).one().split = "sealed"
    found = client.get(f"{URL}?q=clinic-1", headers=HTMX).text
    assert "sealed" in found and "warfarin" not in found
    assert "No document matches" in client.get(f"{URL}?q=warfarin", headers=HTMX).text


def test_changing_a_side(client: TestClient, project: Project, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        sport = session.scalars(select(Family).where(Family.name == "sport")).one()
    answer = client.post(f"{URL}/families/{sport.id}", data={"side": "mixed"}, headers=HTMX)
    assert answer.status_code == 200 and "side-mixed" in answer.text
    with sessions() as session:
        assert session.get_one(Family, sport.id).side == "mixed"
    assert client.post(f"{URL}/families/{sport.id}", data={"side": "evil"}).status_code == 422
    assert client.post(f"{URL}/families/999", data={"side": "mixed"}).status_code == 404


def test_a_family_of_another_project_is_404(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(Project(slug="other", name="Other"))
    assert client.post("/projects/other/corpus/families/1", data={"side": "mixed"}).status_code == 404
    assert client.get("/projects/other/corpus/imports/1").status_code == 404


def test_an_upload_is_kept_under_a_name_of_ours_and_queued(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    body = b'{"id": "a", "text": "x"}\n'
    files = {"file": ("../../evil.jsonl", body)}
    answer = client.post(URL, files=files, data={"family": "news", "side": "retain", "text_field": "body"})
    assert answer.status_code == 303
    with sessions() as session:
        job = session.scalars(select(Job)).one()
    path = Path(job.args["path"])
    assert path.read_bytes() == body and path.parent.name == "uploads" and "evil" not in path.name
    assert job.kind == "import"
    assert {key: job.args[key] for key in ("family", "side", "text_field", "id_field")} == {
        "family": "news", "side": "retain", "text_field": "body", "id_field": "id",
    }  # fmt: skip


def test_a_bad_upload_gives_the_form_back(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    good = {"family": "news", "side": "retain"}
    for name, data, reason in (
        ("a.zip", good, "unknown file type"),
        ("a.jsonl", good | {"family": " "}, "name the family"),
        ("a.jsonl", good | {"side": "evil"}, "side must be one of"),
        ("a.jsonl", good | {"family": "clinic"}, "is declared forget"),
    ):
        answer = client.post(URL, files={"file": (name, b"x")}, data=data, headers=HTMX)
        assert answer.status_code == 422 and reason in answer.text, (name, data)
        assert "<html" not in answer.text
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []


def test_rows_left_out_are_listed_with_their_reasons(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(ImportIssue(import_id=1, row=7, kind="rejected", reason="field 'text' holds a NUL character"))
        session.add(ImportIssue(import_id=1, row=9, kind="conflict", reason="<b>other text</b>"))
    assert "/corpus/imports/1" in client.get(URL).text
    page, fragment = client.get(f"{URL}/imports/1").text, client.get(f"{URL}/imports/1", headers=HTMX).text
    assert "NUL character" in page and "&lt;b&gt;other" in page
    assert fragment.strip() in page
