"""The rule: what-if on a planted store, versions, saving."""

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import claim
from app.models import Annotation, Document, Function, Job, Project, Rule
from app.settings import Settings
from app.shading import decile, pieces
from app.votes import Ballot
from app.whatif import answer, flags_of, sample_documents
from app.worker import run_one
from labeling.functions import parse
from labeling.rule import RuleConfig, rule_hash
from tests.app.seeded import accept, seed

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/rule"
CONTROLS = {"k": "2", "z": "1", "boundary": "seeds", "grow_above": "0", "min_tokens": "1", "close_gap": "0"}


@pytest.fixture
def ready(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    seed(sessions, settings, project)
    accept(sessions, project, 0, 1)
    return project


def test_pieces_join_neighbours_of_one_class_and_keep_every_character() -> None:
    text = "give warfarin now, please"
    marked = pieces(text, [0, 5, 14, 19], [4, 13, 17, 25], ["", "seed", "seed", ""])
    assert marked == [("give ", ""), ("warfarin now", "seed"), (", please", "")]
    apart = pieces(text, [5, 14], [13, 17], ["t9", "t9"], join=False)
    assert apart == [("give ", ""), ("warfarin", "t9"), (" ", ""), ("now", "t9"), (", please", "")]


def test_deciles() -> None:
    assert [decile(p) for p in (0.0, 0.09, 0.1, 0.99, 1.0)] == ["t0", "t0", "t1", "t9", "t9"]


def test_shares_and_samples_of_a_planted_rule(
    project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    store = seed(sessions, settings, project)
    flags = flags_of(store, [0, 1], RuleConfig(k=2, z=1.0, boundary="seeds"), Ballot((), (), ()))
    found = {share.family: share for share in answer(store, flags).shares}
    # latents 0 and 1 meet on patient and warfarin (clinic-1) and on prednisone (clinic-2): 3 of 14 + 9 words
    assert found["clinic"].tokens == 23
    assert found["clinic"].seed == pytest.approx(3 / 23)
    assert found["sport"].flagged == found["biology"].flagged == found["clinic"].grown == 0
    texts = dict.fromkeys(store.keys, "x" * 80)
    samples = sample_documents(store, flags, None, {"clinic": "forget"}, texts.__getitem__)
    assert [sample.family == "clinic" for sample in samples] == [True, False, False]
    assert len({sample.key for sample in samples}) == 3


def test_two_samples_hold_still_while_a_control_moves_and_the_third_is_where_most_changes(
    project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    store = seed(sessions, settings, project)
    saved, *moved = (
        flags_of(store, [0, 1], RuleConfig(k=k, z=1.0, boundary="seeds"), Ballot((), (), ())) for k in (3, 2, 1)
    )
    texts = dict.fromkeys(store.keys, "x" * 80)
    drawn = [sample_documents(store, flags, saved, {"clinic": "forget"}, texts.__getitem__) for flags in moved]
    assert [s.key for s in drawn[0][:2]] == [s.key for s in drawn[1][:2]]
    changes = [
        int((flags != saved)[store.document(store.index_of(s[2].key))].sum())
        for flags, s in zip(moved, drawn, strict=True)
    ]
    assert changes == [s[2].changed for s in drawn] and changes[1] > 0


def test_without_votes_the_page_says_what_to_do(client: TestClient, project: Project) -> None:
    assert "Nothing to vote with" in client.get(URL).text
    assert client.post(URL, data=CONTROLS).status_code == 409


def test_the_preview_stands_verbatim_in_the_page(client: TestClient, ready: Project) -> None:
    url = f"{URL}?k=2&z=1&boundary=seeds"
    page, fragment = client.get(url).text, client.get(url, headers=HTMX).text
    assert "<html" not in fragment and '<span class="tok seed">' in fragment
    assert fragment.strip() in page


def test_a_bad_control_is_named_and_nothing_is_saved(
    client: TestClient, ready: Project, sessions: sessionmaker[Session]
) -> None:
    for bad in ("k=0", "z=nan", "boundary=everywhere", "z=x"):
        answer = client.get(f"{URL}?{bad}", headers=HTMX)
        assert answer.status_code == 422 and 'role="alert"' in answer.text, bad
    assert client.post(URL, data=CONTROLS | {"k": "0"}, headers=HTMX).status_code == 422
    with sessions() as session:
        assert session.scalars(select(Rule)).all() == []


def test_saving_appends_a_version_with_its_hash_and_labels(
    client: TestClient, ready: Project, sessions: sessionmaker[Session]
) -> None:
    assert client.post(URL, data=CONTROLS).status_code == 303
    assert client.post(URL, data=CONTROLS).status_code == 303  # says the same: no new version
    assert client.post(URL, data=CONTROLS | {"k": "1"}).status_code == 303
    with sessions() as session:
        rules = session.scalars(select(Rule).order_by(Rule.version)).all()
        jobs = session.scalars(select(Job).order_by(Job.id)).all()
    assert [rule.version for rule in rules] == [1, 2] and "window" not in rules[0].config
    assert rules[0].latents == [0, 1] and rules[0].config["k"] == 2
    assert rules[0].sha256 == rule_hash([1, 0], RuleConfig(**rules[0].config)) != rules[1].sha256
    assert [(job.kind, job.args) for job in jobs] == [
        ("label", {"rule_id": rules[0].id}),
        ("label", {"rule_id": rules[1].id}),
    ]
    assert client.post(URL, data=CONTROLS | {"window": "4"}).status_code == 303
    with sessions() as session:
        assert session.scalars(select(Rule).order_by(Rule.version.desc())).first().config["window"] == 4
    assert (
        client.get(URL).text.count("/rule?window=0&amp;") == 2
    )  # links to the versions before name what they leave out
    others = client.get(f"{URL}?window=0").text.split("&amp;draw=1")[0]
    assert "window=0" in others[others.rindex("/rule?") :]
    page = client.get(f"{URL}?k=2").text
    assert "against saved version 3" in page and rules[0].sha256[:10] in page


def test_functions_vote_in_the_preview_once_a_job_has_cast_their_votes(
    client: TestClient, ready: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    configs = [
        {"kind": "terms", "terms": ["striker"], "votes": "forget", "weight": 9},
        {"kind": "family", "family": "biology", "votes": "forget", "weight": 9},
    ]
    with sessions.begin() as session:
        for config in configs:
            session.add(
                Function(
                    project_id=ready.id,
                    name=str(config["kind"]),
                    config=parse(config).model_dump(mode="json"),
                    author="owner",
                )
            )
    url = f"{URL}?k=2&z=1&boundary=seeds"
    page = client.get(url, headers=HTMX).text
    assert "until their votes are counted: terms striker" in page
    assert removed(page, "sport") == "0%" and removed(page, "biology") == "100%"  # a family needs no text
    assert client.post("/projects/medicine/functions/count").status_code == 303
    run_next(settings, sessions)
    page = client.get(url, headers=HTMX).text
    assert "until their votes are counted" not in page and removed(page, "sport") == "4.3%"  # 1 of 23 words
    assert "1" in client.get("/projects/medicine/functions").text


def test_gold_shows_recall_and_false_positives_but_never_of_test_documents(
    client: TestClient, ready: Project, sessions: sessionmaker[Session]
) -> None:
    url = f"{URL}?k=2&z=1&boundary=seeds"
    assert "On gold" not in client.get(url).text
    with sessions.begin() as session:
        for key, spans, state in (
            ("clinic-1", [[0, 11]], "done"),
            ("sport-1", [], "clean"),
            ("clinic-4", [[0, 5]], "done"),
        ):
            document = session.scalars(select(Document).where(Document.key == key)).one()
            session.add(
                Annotation(
                    document_id=document.id,
                    version=1,
                    action="state",
                    spans=spans,
                    judged=[],
                    state=state,
                    author="owner",
                )
            )
    page = client.get(url, headers=HTMX).text
    assert "words of 2 annotated documents" in page  # clinic-4 is of the test split
    gold = page[page.index("On gold") :]
    clinic, sport = (gold[gold.index(f"<td>{name}</td>") :] for name in ("clinic", "sport"))
    assert "50.0%" in clinic[: clinic.index("</tr>")]  # of "The patient", only "patient" is flagged
    assert "0%" in sport[: sport.index("</tr>")]


def removed(page: str, family: str) -> str:
    """The share that a family's row shows as removed."""
    row = page[page.index(f"<td>{family}</td>") :]
    return re.findall(r'class="num">([\d.]+%)', row[: row.index("</tr>")])[2]


def run_next(settings: Settings, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        job = claim(session, "tester", 60)
    assert job is not None
    run_one(settings, job, sessions)
    with sessions() as session:
        assert session.get_one(Job, job.id).state == "done", session.get_one(Job, job.id).traceback
