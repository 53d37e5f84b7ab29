"""The pages around a rule: each is empty, then a job fills it, then it shows what the job found."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.models import Annotation, Artifact, Document, Function, Job, LabelSet, Project
from app.plots import heat, scatter
from app.routes.ladder import budgets_of
from app.settings import Settings
from app.steps import weak_documents
from app.training import with_probabilities
from labeling.examples import Labelled
from labeling.rule import RuleConfig
from labeling.transfer import Screen, transfer_corpus
from tests.app.seeded import accept, seed
from tests.app.working import work
from tests.labeling.test_transfer import SIDES, planted_families

HTMX = {"HX-Request": "true"}
RULE = "/projects/medicine/rule"
PAGES = ("analysis", "aggregators", "ladder", "transfer")
CONTROLS = {"k": "1", "z": "1", "boundary": "grow_positive", "grow_above": "0", "min_tokens": "1", "close_gap": "0"}


@pytest.fixture
def ready(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    """Two latents and a term list, and gold on two train documents, a validation one and a test one."""
    seed(sessions, settings, project)
    accept(sessions, project, 0, 1)
    gold = {"clinic-1": [[4, 43]], "sport-1": [], "biology-3": [], "clinic-4": [[0, 5]]}
    with sessions.begin() as session:
        config = {"kind": "terms", "terms": ["INR", "<i>"], "votes": "forget"}
        session.add(Function(project_id=project.id, name="terms", config=config, author="owner"))
        for key, spans in gold.items():
            document = session.scalars(select(Document).where(Document.key == key)).one()
            session.add(
                Annotation(
                    document_id=document.id, version=1, action="import", spans=spans, judged=[],
                    state="done" if spans else "clean", author="owner",
                )
            )  # fmt: skip
    return project


@pytest.fixture
def saved(ready: Project, client: TestClient, settings: Settings, sessions: sessionmaker[Session]) -> Project:
    """With a rule saved and its labels made."""
    assert client.post(RULE, data=CONTROLS).status_code == 303
    work(settings, sessions)
    return ready


def finish(client: TestClient, settings: Settings, sessions: sessionmaker[Session], page: str, **form: str) -> str:
    """Start a page's job, run it, and return the page."""
    assert client.post(f"{RULE}/{page}", data=form).status_code == 303
    assert "Waits for a worker" in client.get(f"{RULE}/{page}").text
    work(settings, sessions)
    answer = client.get(f"{RULE}/{page}")
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.parametrize("page", PAGES)
def test_without_a_rule_the_page_says_what_to_do(client: TestClient, project: Project, page: str) -> None:
    assert "No rule yet" in client.get(f"{RULE}/{page}").text
    assert client.post(f"{RULE}/{page}").status_code == 409
    assert client.get(f"/projects/nowhere/rule/{page}").status_code == 404


def test_analysis(client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]) -> None:
    page = finish(client, settings, sessions, "analysis")
    for shown in ("latent 0", "terms INR, &lt;i&gt;", "Votes per token", "F1 on gold", "Coverage per family"):
        assert shown in page, shown
    assert "<i>" not in page and "about version" not in page
    fragment = client.get(f"{RULE}/analysis", headers=HTMX).text
    assert "<html" not in fragment and fragment.strip() in page
    by_family = client.get(f"{RULE}/analysis?family=clinic&sort=family&down=0", headers=HTMX)
    assert by_family.status_code == 200 and "in clinic" in by_family.text
    assert client.get(f"{RULE}/analysis?family=nobody").status_code == 404
    assert client.get(f"{RULE}/analysis?sort=nonsense").status_code == 422
    assert client.get(f"{RULE}/analysis?version=7").status_code == 404
    client.post(RULE, data=CONTROLS | {"k": "2"})
    assert "This is about version 1; the newest rule is version 2" in client.get(f"{RULE}/analysis").text


def test_a_rule_is_not_chosen_by_gold_of_the_test_split(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    for page in ("analysis", "aggregators", "ladder"):
        finish(client, settings, sessions, page)
    with sessions() as session:
        made = session.execute(select(Artifact.kind, Artifact.info)).tuples().all()
    counted = {kind: info["gold"] for kind, info in made if "gold" in info}
    assert counted == {"analysis": 3, "aggregation": 3, "ladder": 3}  # of four annotated documents


def test_every_column_sorts_both_ways(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    finish(client, settings, sessions, "analysis")
    for column in ("name", "side", "coverage", "precision", "recall", "group", "lost", "gained", "f1_without"):
        for down in ("true", "false"):
            assert client.get(f"{RULE}/analysis?sort={column}&down={down}", headers=HTMX).status_code == 200, column


def test_aggregators(client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]) -> None:
    page = finish(client, settings, sessions, "aggregators")
    for shown in ("Dawid-Skene", "Majority", "Who agrees", "Where they differ most", "Use as labels"):
        assert shown in page, shown
    fragment = client.get(f"{RULE}/aggregators?a=vote&b=majority", headers=HTMX).text
    assert "<html" not in fragment and 'id="differ"' in fragment
    assert client.get(f"{RULE}/aggregators", headers=HTMX).text.strip() in page
    assert client.get(f"{RULE}/aggregators?a=oracle").status_code == 422


def test_labels_are_taken_from_an_aggregator_or_a_rung(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    finish(client, settings, sessions, "aggregators")
    finish(client, settings, sessions, "ladder", budgets="5, 20")
    with sessions() as session:
        made = {
            kind: session.scalars(select(Artifact.id).where(Artifact.kind == kind)).one()
            for kind in ("aggregation", "ladder")
        }
    take = {"artifact_id": str(made["aggregation"]), "aggregator": "dawid_skene"}
    assert client.post(f"{RULE}/aggregators/labels", data=take).status_code == 303
    assert (
        client.post(f"{RULE}/ladder/labels", data={"artifact_id": str(made["ladder"]), "rung": "2"}).status_code == 303
    )
    work(settings, sessions)
    with sessions() as session:
        sets = session.scalars(select(LabelSet).order_by(LabelSet.id)).all()
    assert [s.info.get("aggregator", s.info.get("budget")) for s in sets] == [None, "dawid_skene", 0.2]
    assert all(s.rule_id == sets[0].rule_id and len(s.info["sha256"]) == 64 for s in sets)
    assert "by dawid-skene" in client.get(f"{RULE}/versions").text
    for labels, soft in zip(sets, (False, True, False), strict=True):  # Dawid-Skene's probabilities are kept to learn
        examples = [Labelled(d, split) for d, split in weak_documents(settings, sessions, labels.id)]
        given = [e.soft for e in with_probabilities(settings, sessions, labels.id, examples)]
        assert all((p is not None) == soft for p in given)
        if soft:
            assert [p.spans(0.5) for p in given if p] == [e.document.spans for e in examples]
            assert len({float(value) for p in given if p for value in p.p}) > 2
    wrong = {"artifact_id": str(made["ladder"]), "aggregator": "vote"}
    assert client.post(f"{RULE}/aggregators/labels", data=wrong).status_code == 404
    assert (
        client.post(f"{RULE}/ladder/labels", data={"artifact_id": str(made["ladder"]), "rung": "3"}).status_code == 404
    )
    assert client.post(f"{RULE}/ladder/labels", data={"artifact_id": "99", "rung": "1"}).status_code == 404


def test_ladder(client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]) -> None:
    page = finish(client, settings, sessions, "ladder", budgets="5%, 20, 60")
    for shown in ("Nested sets", "5% budget", "all there is", "What it catches", "FPR sport", "rung-1"):
        assert shown in page, shown
    for bad in ("", "0", "100", "a lot", "1,2,3,4,5,6,7"):
        answer = client.post(f"{RULE}/ladder", data={"budgets": bad or ","}, headers=HTMX)
        assert answer.status_code == 422 and "budgets" in answer.text and "<html" not in answer.text, bad


def test_budgets_as_people_type_them() -> None:
    assert budgets_of("1, 3%,5 ; 3") == [0.01, 0.03, 0.05]


def test_transfer_needs_two_families_of_each_side(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    page = finish(client, settings, sessions, "transfer", ratio="2", minimum="1", z="1", among="rule")
    assert "needs at least two of them" in page
    for bad in ({"ratio": "0"}, {"z": "nan"}, {"among": "some"}, {"minimum": "-1"}):
        assert client.post(f"{RULE}/transfer", data=bad).status_code == 422, bad


def test_the_transfer_matrix(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    store = planted_families(settings.artifacts_dir / "store-9")
    out, config = settings.artifacts_dir / "transfer-9", RuleConfig(k=1, z=2, boundary="seeds")
    info = {"rule": 1, "rule_sha256": "0" * 64}
    *_, made = transfer_corpus(store.path, SIDES, config, Screen(3, 20, 2), [], out, info)
    with sessions.begin() as session:
        session.add(
            Artifact(
                project_id=saved.id, kind="transfer", path=out.relative_to(settings.data_dir).as_posix(), info=made.info
            )
        )
    page = client.get(f"{RULE}/transfer").text
    assert 'class="heat forget h' in page and " own" in page and "pubmed" in page


def test_a_damaged_folder_is_refused(
    client: TestClient, saved: Project, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    finish(client, settings, sessions, "ladder")
    with sessions.begin() as session:
        artifact = session.scalars(select(Artifact).where(Artifact.kind == "ladder")).one()
        job = session.scalars(select(Job).where(Job.kind == "ladder")).one()
        assert job.state == "done" and job.result["ladder_id"] == artifact.id
        session.execute(update(Artifact).where(Artifact.id == artifact.id).values(path="artifacts/gone"))
    answer = client.get(f"{RULE}/ladder")
    assert answer.status_code == 409 and "not a finished Tokensieve folder" in answer.text


def test_plots() -> None:
    plot = scatter([("a", 0.01, 0.5, 4, "forget"), ("b", 0.1, 1.0, 1, "retain"), ("never", 0, 1, 1, "none")], 100, 50)
    assert [(d.name, d.x, d.y, d.r) for d in plot.dots] == [("a", 0, 25, 8.5), ("b", 100, 0, 5.5)]
    assert plot.x_ticks == [(0, "1%"), (100, "10%")]
    assert scatter([], 100, 50).dots == []
    assert [(c.x, c.y, c.strength) for c in heat([[0, 2], [1, 0]], ["r", "s"], ["c", "d"])] == [(1, 0, 1), (0, 1, 0.5)]
