"""Projects: list, create, overview, definition, starting discovery."""

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Artifact, Definition, Job, Project
from app.queries import slug_of
from app.settings import Settings
from tests.app.seeded import accept, seed

HTMX = {"HX-Request": "true"}


def test_home_leads_to_the_list(client: TestClient) -> None:
    assert client.get("/").headers["location"] == "/projects"


def test_the_empty_list_says_how_to_begin(client: TestClient) -> None:
    page = client.get("/projects")
    assert page.status_code == 200
    assert "No projects yet" in page.text


def test_a_slug_keeps_letters_and_digits() -> None:
    assert slug_of("  Medicine & Care 2! ") == "medicine-care-2"
    assert slug_of("…") == ""


def test_creating_makes_the_first_definition(client: TestClient, sessions: sessionmaker[Session]) -> None:
    answer = client.post("/projects", data={"name": "Virology", "includes": "Viruses", "excludes": "Malware"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/virology")
    with sessions() as session:
        definition = session.scalars(select(Definition)).one()
        assert (definition.version, definition.includes, definition.excludes, definition.author) == (
            1,
            "Viruses",
            "Malware",
            "owner",
        )


def test_a_taken_or_unusable_name_gives_the_form_back(client: TestClient, project: Project) -> None:
    taken = client.post("/projects", data={"name": "MEDICINE", "includes": "kept words"}, headers=HTMX)
    assert taken.status_code == 422
    assert "exists already" in taken.text and "kept words" in taken.text
    assert "<html" not in taken.text
    assert client.post("/projects", data={"name": "!!"}).status_code == 422


def test_an_unknown_project_is_404(client: TestClient) -> None:
    for area in ("", "/corpus", "/latents", "/functions", "/rule"):
        assert client.get(f"/projects/nothing{area}").status_code == 404


def test_the_overview_names_the_next_step(
    client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    assert "Next: reference" in client.get("/projects/medicine").text
    seed(sessions, settings, project)
    assert "Next: judge" in client.get("/projects/medicine").text
    accept(sessions, project, 0)
    page = client.get("/projects/medicine").text
    assert "Next: label" in page
    assert "clinic" in page and "Diagnosis, treatment" in page


def test_documents_newer_than_the_harvest_ask_for_another(
    client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    seed(sessions, settings, project)
    with sessions.begin() as session:
        session.scalars(select(Artifact).where(Artifact.kind == "store")).one().info = {"documents": 11, "tokens": 99}
    page = client.get("/projects/medicine").text
    assert "Next: harvest" in page and 'name="again"' in page
    assert client.post("/projects/medicine/discover", data={"again": "true"}).status_code == 303
    with sessions() as session:
        assert session.scalars(select(Job)).one().args == {"again": True}


def test_a_changed_definition_is_a_new_version_and_an_unchanged_one_is_not(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    for _ in range(2):
        client.post("/projects/medicine/definition", data={"includes": "Drugs", "excludes": "Food"})
    with sessions() as session:
        found = session.scalars(select(Definition.version).where(Definition.project_id == project.id)).all()
    assert sorted(found) == [1, 2]


def test_discovery_needs_a_reference_then_starts_once(
    client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    assert client.post("/projects/medicine/discover").status_code == 409
    assert client.post("/projects/medicine/reference", data={"reference_id": 9}).status_code == 404
    seed(sessions, settings, project)
    for _ in range(2):
        assert client.post("/projects/medicine/discover").status_code == 303
    with sessions() as session:
        assert [job.kind for job in session.scalars(select(Job))] == ["discover"]
