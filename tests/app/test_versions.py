"""Versions never change; any two are compared; one goes out as ids and indices and comes back the same."""

import json

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app import queries
from app.models import Artifact, Family, Function, Job, LabelSet, Project, Reference, Rule
from app.settings import Settings
from labeling.artifacts import sha256_file
from tests.app.seeded import accept, seed
from tests.app.working import work
from tests.conftest import TEXTS

HTMX = {"HX-Request": "true"}
RULE = "/projects/medicine/rule"
URL = f"{RULE}/versions"
CONTROLS = {"k": "2", "z": "1", "boundary": "seeds", "grow_above": "0", "min_tokens": "1", "close_gap": "0"}


@pytest.fixture
def two(client: TestClient, project: Project, settings: Settings, sessions: sessionmaker[Session]) -> Project:
    """Version 1: latents 0 and 1, k=2. Version 2: also latent 3 and a term list, k=1. Both labeled."""
    seed(sessions, settings, project)
    accept(sessions, project, 0, 1)
    client.post(RULE, data=CONTROLS)
    accept(sessions, project, 3)
    with sessions.begin() as session:
        config = {"kind": "terms", "terms": ["troponin"], "votes": "forget"}
        session.add(Function(project_id=project.id, name="terms", config=config, author="owner"))
    client.post(RULE, data=CONTROLS | {"k": "1"})
    work(settings, sessions)
    return project


def rules(sessions: sessionmaker[Session]) -> list[Rule]:
    with sessions() as session:
        return list(session.scalars(select(Rule).order_by(Rule.version)))


def test_an_empty_project_has_no_versions(client: TestClient, project: Project) -> None:
    assert "No rule yet" in client.get(URL).text
    assert client.get(f"{URL}/1.json").status_code == 404
    assert client.get(f"{URL}/diff?old=1&new=2").status_code == 404
    assert client.post(f"{URL}/1/restore").status_code == 404
    assert client.post(f"{URL}/rescore").status_code == 409


def test_each_version_has_its_hash_and_lineage(
    client: TestClient, two: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    page = client.get(URL).text
    with sessions() as session:
        sets = session.scalars(select(LabelSet).order_by(LabelSet.id)).all()
    for rule, labels in zip(rules(sessions), sets, strict=True):
        assert rule.sha256[:10] in page and labels.info["sha256"][:8] in page
        assert rule.lineage["definition"] == 1 and rule.lineage["reference"]["name"] == "planted"
        assert labels.info["lineage"]["rule_sha256"] == rule.sha256
        assert labels.info["lineage"]["verdicts_sha256"] == rule.lineage["verdicts"]["sha256"]
        assert len(labels.info["lineage"]["corpus_sha256"]) == 64
    assert [rule.lineage["verdicts"]["accept"] for rule in rules(sessions)] == [2, 3]
    files = {sha256_file(file) for file in settings.artifacts_dir.glob("labels-*/labels.npy")}
    assert {labels.info["sha256"] for labels in sets} == files


def test_a_saved_version_cannot_be_changed(two: Project, sessions: sessionmaker[Session]) -> None:
    for model, field, value in ((Rule, "latents", [9]), (LabelSet, "info", {})):
        with pytest.raises(AssertionError, match="cannot change"), sessions.begin() as session:
            setattr(session.scalars(select(model)).first(), field, value)
        with pytest.raises(AssertionError, match="cannot change"), sessions.begin() as session:
            session.delete(session.scalars(select(model).order_by(model.id.desc())).first())


def test_two_versions_differ_by_functions_and_by_tokens(client: TestClient, two: Project) -> None:
    page = client.get(f"{URL}/diff?old=1&new=2").text
    assert "+3</a>" in page and "terms troponin" in page and "Functions added" in page
    assert "Where they differ most" in page and "only-new" in page and "sport" in page
    back = client.get(f"{URL}/diff?old=2&new=1").text
    assert "−3</a>" in back and "Functions removed" in back and 'class="tok only-old"' in back
    same = client.get(f"{URL}/diff?old=2&new=2").text
    assert "Both say the same" in same and "They agree on every train token" in same
    assert client.get(f"{URL}/diff?old=1&new=9").status_code == 404
    assert client.get(f"{URL}/diff?old=x&new=1").status_code == 422


def test_versions_without_labels_differ_by_functions_alone(client: TestClient, two: Project) -> None:
    client.post(RULE, data=CONTROLS | {"k": "3"})
    page = client.get(f"{URL}/diff?old=2&new=3").text
    assert "Version 3 has no labels yet" in page and "<td>k</td>" in page


def test_going_back_is_a_new_version_that_says_the_same(
    client: TestClient, two: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    assert client.post(f"{URL}/1/restore").status_code == 303
    first, second, third = rules(sessions)
    assert (third.sha256, third.latents, third.version) == (first.sha256, [0, 1], 3)
    assert third.lineage["restored from version"] == 1
    with sessions() as session:
        project = session.get_one(Project, two.id)
        assert queries.accepted_latents(session, project) == [0, 1]
        assert queries.verdict_history(session, project, 3)[0].note == "restored from version 1"
        assert queries.functions_of(session, project.id) == []
    work(settings, sessions)
    with sessions() as session:
        sets = session.scalars(select(LabelSet).order_by(LabelSet.id)).all()
    assert sets[2].info["sha256"] == sets[0].info["sha256"] != sets[1].info["sha256"]
    assert client.post(f"{URL}/2/restore").status_code == 303
    assert rules(sessions)[3].sha256 == second.sha256
    with sessions() as session:
        assert [f.config["terms"] for f in queries.functions_of(session, two.id)] == [["troponin"]]


def test_a_file_carries_ids_and_indices_and_no_text(client: TestClient, two: Project) -> None:
    answer = client.get(f"{URL}/2.json")
    assert answer.headers["content-disposition"] == 'attachment; filename="medicine-rule-2.json"'
    said = answer.json()
    assert said["rule"]["latents"] == [0, 1, 3]
    found = {d["id"]: d["spans"] for d in said["labels"]["documents"]}
    assert found["clinic-1"][0] == [4, 11]  # "patient"
    said["rule"]["functions"] = []  # a person's own words, which the rule is made of
    for texts in TEXTS.values():
        for text in texts:
            assert not any(word in json.dumps(said) for word in text.split() if len(word) > 7), text


def upload(client: TestClient, content: bytes, **headers: str):
    return client.post(f"{URL}/import", files={"file": ("rule.json", content)}, headers=headers)


def test_a_file_comes_back_as_the_same_rule(
    client: TestClient, two: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    content = client.get(f"{URL}/1.json").content
    assert upload(client, content).status_code == 303
    first, _, third = rules(sessions)
    assert third.sha256 == first.sha256 and third.lineage["imported from"] == "medicine version 1"
    work(settings, sessions)
    assert "as exported" in client.get(URL).text


def test_a_file_that_does_not_fit_is_refused_by_name(
    client: TestClient, two: Project, sessions: sessionmaker[Session]
) -> None:
    said = client.get(f"{URL}/1.json").json()
    other = said | {"source": said["source"] | {"sae": "another"}}
    for content, message in (
        (b"not json", "not a version file"),
        (json.dumps(said | {"rule": said["rule"] | {"latents": [5]}}).encode(), "was edited"),
        (json.dumps(other).encode(), "its latents are of another, layer 2; this project uses tiny"),
    ):
        answer = upload(client, content, **HTMX)
        assert answer.status_code == 422 and message in answer.text and "<html" not in answer.text
    assert len(rules(sessions)) == 2
    with sessions.begin() as session:
        reference = Reference(name="other", model="tiny", sae="larger", layer=2)
        session.add(reference)
        session.flush()
        session.get_one(Project, two.id).reference_id = reference.id
    answer = client.post(f"{URL}/1/restore")
    assert answer.status_code == 409 and "this project uses larger" in answer.text
    with sessions.begin() as session:  # as before rules kept a lineage
        session.execute(update(Rule).values(lineage={}))
        session.execute(update(Rule).where(Rule.version == 2).values(reference_id=reference.id))
    assert client.post(f"{URL}/1/restore").status_code == 409
    assert "of different references" in client.get(f"{URL}/diff?old=1&new=2").text


def test_a_changed_scope_is_shown_and_scored_again_in_one_click(
    client: TestClient, two: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    assert "The scope changed" not in client.get(URL).text
    client.post("/projects/medicine/definition", data={"includes": "Drugs alone.", "excludes": "All else."})
    with sessions.begin() as session:
        session.execute(update(Family).where(Family.name == "biology").values(side="mixed"))
        # What the reference's weights say does not depend on the scope: it is there already.
        reference = session.get_one(Project, two.id).reference_id
        session.add(Artifact(project_id=two.id, kind="weights", path="weights", info={"reference_id": reference}))
    page = client.get(URL).text
    assert "definition 1 → 2" in page and "Drugs alone." in page and "Score again" in page
    assert client.post(f"{URL}/rescore").status_code == 303
    with sessions() as session:
        queued = session.scalars(select(Job.kind).where(Job.state == "queued").order_by(Job.id)).all()
    assert queued == ["discover", "label", "analyse", "aggregate", "ladder"]
    work(settings, sessions)
    with sessions() as session:
        assert {job.message for job in session.scalars(select(Job)) if job.state != "done"} == set()
        newest = queries.newest_label_set(session, two.id)
        assert newest is not None and newest.info["lineage"]["definition"] == 2
        discovery = queries.newest_artifact(session, two.id, "discovery")
        assert discovery is not None and discovery.info["sides"]["biology"] == "mixed"
    assert "The scope changed" not in client.get(URL).text
