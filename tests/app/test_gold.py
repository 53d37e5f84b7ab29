"""Gold in from other tools and out again, for the documents of a project."""

import json

import pytest
from sqlalchemy import select

from app.gold_import import import_file
from app.importing import import_file as import_documents
from app.models import Annotation, Document
from app.review_queries import newest_annotation
from labeling.gold_formats import FORMATS
from tests.app.reviewed import documents_of
from tests.app.test_review import post


@pytest.fixture
def gold(client, sessions, project):
    """A finished document with an emoji in front of a span, and a clean one."""
    with sessions.begin() as session:
        sport = session.scalars(select(Document).where(Document.key == "sport-4")).one()
        first = documents_of(session, project)[0]
    end = len("The keeper injured his knee in the tackle but played on. ⚽️")
    post(client, sport, 0, "add", start=end - 2, end=end)
    post(client, sport, 1, "state", state="done")
    post(client, first, 0, "state", state="clean")
    return client.get("/projects/medicine/gold.jsonl").text


def bring_in(sessions, project, settings, path, name: str) -> dict:
    *_, artifact = import_file(sessions, project.id, path, name, "owner", settings.artifacts_dir / f"gold-{path.name}")
    return artifact.info


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_downloaded_can_be_imported_and_changes_nothing(
    client, sessions, project, settings, gold, name, tmp_path
):
    answer = client.get(f"/projects/medicine/gold/{name}")
    assert answer.status_code == 200 and "attachment" in answer.headers["Content-Disposition"]
    path = tmp_path / f"gold{FORMATS[name].suffix}"
    path.write_bytes(answer.content)
    info = bring_in(sessions, project, settings, path, name)
    assert (info["labelled"], info["unchanged"], info["left out"]) == (0, 2, 0)
    assert client.get("/projects/medicine/gold.jsonl").text == gold


def test_imported_labels_are_a_new_version_and_undo_stops_there(client, sessions, project, settings, gold, tmp_path):
    path = tmp_path / "gold.jsonl"
    rows = [json.loads(line) for line in gold.splitlines()]
    rows[0] |= {"spans": [[4, 11]], "ignore": [[12, 15]]}
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert bring_in(sessions, project, settings, path, "jsonl")["labelled"] == 1
    with sessions() as session:
        head = newest_annotation(session, documents_of(session, project)[0].id)
        assert head and (head.version, head.action, head.state) == (2, "import", "done")
    assert json.loads(client.get("/projects/medicine/gold.jsonl").text.splitlines()[0])["ignore"] == [[12, 15]]


def test_records_that_do_not_fit_are_listed_and_never_shifted(sessions, project, settings, tmp_path):
    with sessions() as session:
        first = documents_of(session, project)[0]
    rows = [
        {"id": "clinic-1", "text": "X" + first.text, "spans": [[5, 12]]},
        {"id": "nobody", "text": "Unknown text.", "spans": []},
        {"id": "clinic-1", "text": first.text, "spans": [[0, 10_000]]},
        {"id": "renamed elsewhere", "text": first.text, "spans": [[4, 11]]},
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    info = bring_in(sessions, project, settings, path, "jsonl")
    assert (info["labelled"], info["left out"]) == (1, 3)
    assert "record 1: document 'clinic-1' has other text" in info["reasons"][0]
    assert "record 2: no document has the id 'nobody'" in info["reasons"][1]
    assert "record 3" in info["reasons"][2]
    listed = (settings.artifacts_dir / "gold-gold.jsonl" / "left-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in listed] == [1, 2, 3]


def test_the_page_offers_every_format_and_takes_a_file(client, project, gold):
    page = client.get("/projects/medicine/gold")
    assert all(f"/gold/{name}" in page.text for name in FORMATS)
    answer = client.post("/projects/medicine/gold", data={"format": "prodigy"}, files={"file": ("g.jsonl", b"{}")})
    assert answer.status_code == 303 and "Gold" in client.get("/projects/medicine/gold").text


def test_bad_uploads_and_formats_are_refused(client, project):
    answer = client.post("/projects/medicine/gold", data={"format": "xml"}, files={"file": ("g.xml", b"x")})
    assert answer.status_code == 422 and "jsonl" in answer.text
    assert client.get("/projects/medicine/gold/xml").status_code == 404
    assert client.get("/projects/medicine/gold/left-out/1").status_code == 404
    assert client.get("/projects/nothing/gold").status_code == 404


def test_an_import_keeps_ignored_ranges(sessions, project, tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text(json.dumps({"id": "n", "text": "alpha beta", "spans": [[0, 5]], "ignore": [[6, 10]]}))
    list(import_documents(sessions, project.id, str(path), "new.jsonl", "clinic", "forget"))
    with sessions() as session:
        assert session.scalars(select(Annotation.ignored)).one() == [[6, 10]]
