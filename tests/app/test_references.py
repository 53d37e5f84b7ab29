"""References: the list, the registry, adding one, its preflight and override, comparing them."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.db import MIGRATIONS
from app.models import Artifact, Job, LabelSet, Preflight, PreflightOverride, Project, Reference, Rule
from app.queries import newest_rule, save_rule
from app.reference_queries import labels_under
from app.settings import Settings
from tests.app.members import member
from tests.app.seeded import accept, seed
from tests.app.working import work
from tests.fakes import tiny_reference, tiny_sae

HTMX = {"HX-Request": "true"}
CHECKS = [
    {"name": "Model", "state": "warn", "text": "the SAE does not say which model it was trained on"},
    {"name": "Reconstruction", "state": "fail", "text": "block 1 is reconstructed better than the hook"},
]
FORM = {
    "name": "gemma",
    "model": "google/gemma-2-9b",
    "sae": "gemma-scope-9b-pt-res-canonical/layer_31/width_16k/canonical",
}


@pytest.fixture
def reference(sessions: sessionmaker[Session]) -> Reference:
    info = {"d_in": 32, "d_sae": 64, "architecture": "topk", "l0": 8, "context": 64, "hook": "blocks.2.hook_resid_post"}
    with sessions.begin() as session:
        row = Reference(name="tiny", model="/models/tiny", sae="/saes/tiny", layer=2, info=info)
        session.add(row)
    return row


@pytest.fixture
def failed(sessions: sessionmaker[Session], reference: Reference, project: Project) -> Preflight:
    report = {"tokens": 2000, "checks": CHECKS, "figures": {"fvu": 0.4, "l0": 8.0}, "passed": False}
    with sessions.begin() as session:
        row = Preflight(reference_id=reference.id, project_id=project.id, passed=False, report=report, author="owner")
        session.add(row)
    return row


def test_the_list_says_what_to_do_when_empty_and_shows_what_there_is(
    client: TestClient, sessions: sessionmaker[Session]
) -> None:
    assert "No references yet" in client.get("/references").text
    with sessions.begin() as session:
        session.add(Reference(name="tiny", model="m", sae="s", layer=2, info={}))
    assert "block 2" in client.get("/references").text


def test_a_row_of_the_registry_fills_the_form(client: TestClient) -> None:
    page = client.get("/references/registry?q=9b-pt-res-canonical layer_31/width_16k").text
    link = re.search(r'href="(/references\?[^"]+)"', page)
    assert link is not None
    form = client.get(link[1].replace("&amp;", "&")).text
    assert f'value="{FORM["model"]}"' in form and f'value="{FORM["sae"]}"' in form


def test_the_registry_is_searched_and_paged_by_the_server(client: TestClient) -> None:
    page, fragment = client.get("/references/registry").text, client.get("/references/registry", headers=HTMX).text
    assert "<html" not in fragment and fragment.strip() in page
    assert len(re.findall("<tr>", fragment)) == 51  # with its head
    assert "gemma-2-9b/31-gemmascope-res-16k" in client.get("/references/registry?q=31-gemmascope-res-16k").text
    assert "page=3" in client.get("/references/registry?q=gemma&page=2").text
    assert "Nothing holds" in client.get("/references/registry?q=zzzz").text
    assert "Nothing holds" in client.get("/references/registry?q=2b-pt-transcoders layer_3").text
    assert "predicts another place" in client.get("/references/registry?q=2b-pt-transcoders layer_3&every=true").text
    assert client.get("/references/registry?page=0").status_code == 422


def test_adding_a_reference_is_a_job(client: TestClient, sessions: sessionmaker[Session]) -> None:
    assert client.post("/references", data=FORM).status_code == 303
    with sessions() as session:
        job = session.scalars(select(Job)).one()
        assert (job.kind, job.project_id, job.args) == ("reference", None, FORM)
    assert f'id="job-{job.id}"' in client.get("/references").text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "a/b"}, "letters, digits"),
        ({"model": "http://evil.test/x"}, "model: give an id"),
        ({"model": "../../etc"}, "model: give an id"),
        ({"model": "/etc"}, "inside the data directory"),
        ({"sae": "nonsense"}, "sae: give an id"),
        ({"sae": "a/../b"}, "sae: give an id"),
        ({"sae": "/proc/self"}, "inside the data directory"),
        ({"layer": "-1"}, "layer: give"),
    ],
)
def test_a_bad_form_comes_back_as_itself(
    client: TestClient, sessions: sessionmaker[Session], change: dict[str, str], said: str
) -> None:
    answer = client.post("/references", data=FORM | change, headers=HTMX)
    assert answer.status_code == 422 and said in answer.text and "<html" not in answer.text
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []


def test_folders_are_taken_from_the_data_directory_only(
    client: TestClient, settings: Settings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    inside, outside = settings.data_dir / "saes" / "mini", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    (settings.data_dir / "link").symlink_to(outside)
    assert client.post("/references", data=FORM | {"sae": str(inside)}).status_code == 303
    for path in (outside, settings.data_dir / "link", settings.data_dir / "none"):
        assert client.post("/references", data=FORM | {"sae": str(path)}).status_code == 422
    with sessions() as session:
        assert session.scalars(select(Job)).one().args["sae"] == str(inside.resolve())


def test_folders_that_lie_there_are_offered(client: TestClient, settings: Settings) -> None:
    model, sae, made = (
        settings.data_dir / "assets" / "tiny",
        settings.data_dir / "saes" / "a",
        settings.artifacts_dir / "classifier-1",
    )
    for file in (model / "config.json", sae / "config.json", sae / "ae.safetensors", made / "config.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    page = client.get("/references").text
    offered = [re.findall(r'value="([^"]*)"', part) for part in re.findall(r"<datalist.*?</datalist>", page)]
    assert offered == [[str(model)], [str(sae)]]


def test_a_harmful_checkpoint_is_refused_by_the_job_and_the_server_stays_up(
    client: TestClient, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    model, sae = settings.data_dir / "model", settings.data_dir / "sae"
    tiny_reference(model)
    tiny_sae(sae)
    (sae / "sae_weights.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    config = json.loads((model / "config.json").read_text())
    for path, content, said in (
        (sae / "cfg.json", None, "longer than the file"),
        (model / "config.json", json.dumps(config | {"auto_map": {"AutoModel": "m.M"}}), "its own code"),
    ):
        if content is not None:
            tiny_sae(sae)
            path.write_text(content)
        assert client.post("/references", data=FORM | {"model": str(model), "sae": str(sae)}).status_code == 303
        work(settings, sessions)
        page = client.get("/references")
        assert page.status_code == 200 and said in page.text
    with sessions() as session:
        assert session.scalars(select(Reference)).all() == []


def test_the_page_shows_the_parts_and_starts_a_check(
    client: TestClient, reference: Reference, project: Project, sessions: sessionmaker[Session]
) -> None:
    page = client.get(f"/references/{reference.id}").text
    assert "blocks.2.hook_resid_post" in page and "Not checked yet" in page
    assert client.post(f"/projects/{project.slug}/references/{reference.id}/preflight").status_code == 303
    with sessions() as session:
        job = session.scalars(select(Job)).one()
        assert (job.kind, job.project_id, job.args) == ("preflight", project.id, {"reference_id": reference.id})
    assert f'id="job-{job.id}"' in client.get(f"/references/{reference.id}").text


def test_missing_references_and_projects_are_not_found(
    client: TestClient, reference: Reference, project: Project
) -> None:
    assert client.get("/references/999").status_code == 404
    assert client.get(f"/references/{2**40}").status_code == 404
    assert client.get("/projects/none/references").status_code == 404
    for action in ("preflight", "override"):
        assert client.post(f"/projects/{project.slug}/references/999/{action}").status_code == 404
        assert client.post(f"/projects/none/references/{reference.id}/{action}").status_code == 404


def test_a_failed_check_is_overridden_with_a_reason_that_is_kept(
    client: TestClient, reference: Reference, failed: Preflight, project: Project, sessions: sessionmaker[Session]
) -> None:
    url = f"/projects/{project.slug}/references/{reference.id}/override"
    assert "reconstructed better" in client.get(f"/references/{reference.id}").text
    answer = client.post(url, data={"reason": "  "}, headers=HTMX)
    assert answer.status_code == 422 and "say why" in answer.text.lower() and "<html" not in answer.text
    assert client.post(url, data={"reason": "a toy <model>"}).status_code == 303
    assert "Overridden by" in (page := client.get(f"/references/{reference.id}").text)
    assert "a toy &lt;model&gt;" in page
    with sessions() as session:
        row = session.scalars(select(PreflightOverride)).one()
        assert (row.preflight_id, row.reason) == (failed.id, "a toy <model>")


def test_only_a_failed_check_can_be_overridden(client: TestClient, reference: Reference, project: Project) -> None:
    url = f"/projects/{project.slug}/references/{reference.id}/override"
    assert client.post(url, data={"reason": "why not"}).status_code == 422


def test_references_of_one_corpus_are_compared_and_changed(
    client: TestClient, project: Project, settings: Settings, sessions: sessionmaker[Session], reference: Reference
) -> None:
    seed(sessions, settings, project)  # "planted", with store and discovery
    accept(sessions, project, 0, 1)
    with sessions.begin() as session:
        for row in session.scalars(select(Artifact)):
            row.info = {"reference_id": project.reference_id, "fired": 4, "selective": 2, "l0": 1.5, "tokens": 133}
    page = client.get("/projects/medicine/references").text
    assert page.index("planted") < page.index(">tiny<")
    assert "in use" in page and "133" in page and "How selective the latents are" in page
    assert "latent-0" in client.get("/projects/medicine/latents?minimum=0").text
    client.post("/projects/medicine/reference", data={"reference_id": reference.id})
    assert "No candidates yet" in client.get("/projects/medicine/latents").text
    client.post("/projects/medicine/reference", data={"reference_id": project.reference_id})
    assert "latent-0" in client.get("/projects/medicine/latents?minimum=0").text  # nothing was lost


def test_a_rule_belongs_to_the_reference_whose_latents_it_holds(
    project: Project, settings: Settings, sessions: sessionmaker[Session], reference: Reference
) -> None:
    seed(sessions, settings, project)
    with sessions.begin() as session:
        first = save_rule(session, project.id, {"k": 1}, [3, 5], [], "owner")
        session.get_one(Project, project.id).reference_id = reference.id
        session.flush()
        assert newest_rule(session, project.id) is None
        other = save_rule(session, project.id, {"k": 1}, [3, 5], [], "owner")
        assert (first.version, other.version) == (1, 2)
        assert [r.reference_id for r in session.scalars(select(Rule).order_by(Rule.id))] == [
            project.reference_id,
            reference.id,
        ]
        store = session.scalars(select(Artifact).where(Artifact.kind == "store")).one()
        labels = LabelSet(project_id=project.id, rule_id=first.id, store_id=store.id, artifact_id=store.id, info={})
        session.add(labels)
        session.flush()
        assert labels_under(session, project.id, reference.id) is None
        assert labels_under(session, project.id, project.reference_id) is labels


def test_the_web_process_never_loads_torch() -> None:
    code = "import sys, app.main, app.routes.references; print([m for m in ('torch', 'sae_lens', 'transformers') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=MIGRATIONS.parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_a_curator_sees_their_own_projects_checks_and_names_no_folder(
    app: FastAPI, settings: Settings, sessions: sessionmaker[Session], project: Project, reference: Reference,
    failed: Preflight,
) -> None:  # fmt: skip
    with sessions.begin() as session:
        mine = Project(slug="mine", name="Mine")
        session.add(mine)
    curator = member(app, sessions, settings, "cora", "curator", mine)
    page = curator.get(f"/references/{reference.id}").text
    assert "Preflight on Mine" in page and "reconstructed better" not in page
    url = f"/projects/{project.slug}/references/{reference.id}"
    assert curator.post(f"{url}/override", data={"reason": "mine now"}).status_code == 404
    inside = settings.data_dir / "saes"
    inside.mkdir()
    assert "only an admin" in curator.post("/references", data=FORM | {"sae": str(inside)}).text
    assert curator.post("/references", data=FORM).status_code == 303
    with sessions() as session:
        job = session.scalars(select(Job)).one()
    assert curator.get(f"/jobs/{job.id}").status_code == 200
