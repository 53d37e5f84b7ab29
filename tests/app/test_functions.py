"""Labeling functions: a form drawn from the model, checked by it, stored as it says."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import function_preview
from app.function_forms import KINDS
from app.models import Function, Job, Project, Reference
from app.settings import Settings
from tests.app.seeded import seed

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/functions"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_its_form_verbatim_in_the_page(client: TestClient, project: Project, kind: str) -> None:
    page, fragment = client.get(f"{URL}?kind={kind}").text, client.get(f"{URL}?kind={kind}", headers=HTMX).text
    assert f'value="{kind}"' in fragment and 'name="weight"' in fragment and "<html" not in fragment
    assert fragment.strip() in page


def test_unknown_kinds_have_no_form(client: TestClient, project: Project) -> None:
    assert client.get(f"{URL}?kind=magic").status_code == 404
    assert client.post(URL, data={"kind": "magic"}).status_code == 422


def test_a_latent_may_vote_with_a_weight_of_its_own_if_the_sae_has_it(
    client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    seed(sessions, settings, project)
    assert client.post(URL, data={"kind": "latent", "latent": "6", "weight": "3"}).status_code == 422
    assert client.post(URL, data={"kind": "latent", "latent": "3", "weight": "3"}).status_code == 303
    assert "latent 3" in client.get(URL).text
    with sessions.begin() as session:  # in another SAE, latent 3 is something else
        other = Reference(name="other", model="tiny", sae="larger", layer=2)
        session.add(other)
        session.flush()
        session.get_one(Project, project.id).reference_id = other.id
    assert "latent 3" not in client.get(URL).text


def test_a_term_list_is_stored_as_its_model_says(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    data = {
        "kind": "terms",
        "terms": "knee\r\n\r\n hamstring \r\n",
        "votes": "retain",
        "veto": "true",
        "whole_words": "true",
        "weight": "2",
    }
    assert client.post(URL, data=data).status_code == 303
    with sessions() as session:
        row = session.scalars(select(Function)).one()
    assert row.config == {"kind": "terms", "terms": ["knee", "hamstring"], "votes": "retain", "veto": True,
                          "whole_words": True, "ignore_case": False, "weight": 2}  # fmt: skip
    assert "hamstring" in client.get(URL).text


def test_an_invalid_form_comes_back_with_its_values_and_the_reason(client: TestClient, project: Project) -> None:
    answer = client.post(URL, data={"kind": "pattern", "pattern": "(?=x)ab", "weight": "1"}, headers=HTMX)
    assert answer.status_code == 422
    assert "RE2" in answer.text and "(?=x)ab" in answer.text and "<html" not in answer.text
    assert client.post(URL, data={"kind": "pattern", "pattern": "a", "weight": "many"}).status_code == 422
    veto = client.post(URL, data={"kind": "pattern", "pattern": "a", "votes": "forget", "veto": "true"}, headers=HTMX)
    assert veto.status_code == 422 and "final word" in veto.text


def test_a_family_or_classifier_must_be_of_this_project(client: TestClient, project: Project) -> None:
    assert client.post(URL, data={"kind": "classifier", "classifier": "/etc", "above": "0.5"}).status_code == 422
    assert client.post(URL, data={"kind": "family", "family": "nobody"}).status_code == 422
    assert client.post(URL, data={"kind": "family", "family": "sport", "votes": "retain"}).status_code == 303


def test_retiring_takes_it_out_of_force_and_keeps_it(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    client.post(URL, data={"kind": "pattern", "pattern": "<i>x", "name": "Marked <b>"})
    page = client.get(URL).text
    assert "Marked &lt;b&gt;" in page and "<i>x" not in page
    assert client.post(f"{URL}/1/retire").status_code == 303
    with sessions() as session:
        assert session.scalars(select(Function)).one().retired_at is not None
    assert "Retired" in client.get(URL).text
    assert client.post(f"{URL}/99/retire").status_code == 404


def test_editing_makes_a_new_row_and_retires_the_old_one(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    client.post(URL, data={"kind": "terms", "terms": "knee\nhip", "name": "Joints"})
    form = client.get(f"{URL}/1", headers=HTMX).text
    assert "knee\nhip" in form and 'value="Joints"' in form and f'action="{URL}/1"' in form and "<html" not in form
    assert form.strip() in client.get(f"{URL}/1").text
    assert (
        client.post(f"{URL}/1", data={"kind": "terms", "terms": "", "name": "Joints"}, headers=HTMX).status_code == 422
    )
    assert client.post(f"{URL}/1", data={"kind": "terms", "terms": "ankle", "name": "Joints"}).status_code == 303
    assert client.post(f"{URL}/1", data={"kind": "terms", "terms": "toe"}).status_code == 409  # a stale page
    with sessions() as session:
        old, new = session.scalars(select(Function).order_by(Function.id)).all()
    assert old.retired_at is not None and old.config["terms"] == ["knee", "hip"]
    assert new.retired_at is None and new.config["terms"] == ["ankle"]
    assert client.get(f"{URL}/99").status_code == 404


def test_a_list_comes_as_a_file_and_a_long_one_stays_when_the_rest_is_edited(
    client: TestClient, project: Project, sessions: sessionmaker[Session]
) -> None:
    lines = [f"term {i}" for i in range(3000)]
    body = ("\ufeff" + "\r\n".join([*lines, "", " term 7 "])).encode()
    answer = client.post(URL, data={"kind": "terms", "name": "Long"}, files={"terms_file": ("list.txt", body)})
    assert answer.status_code == 303
    form = client.get(f"{URL}/1", headers=HTMX).text
    assert "term 2999" not in form and "3,000 lines" in form and 'name="keep"' in form
    assert client.post(f"{URL}/1", data={"kind": "terms", "terms": "", "keep": "1", "weight": "2"}).status_code == 303
    with sessions() as session:
        new = session.scalars(select(Function).order_by(Function.id.desc())).first()
    assert new is not None and new.config["terms"] == lines and new.config["weight"] == 2
    assert client.get(f"{URL}/2/terms.txt").text.split("\n")[2999] == "term 2999"


@pytest.mark.parametrize(
    ("body", "reason"), [(b"fine\n\xff", "list.txt, line 2: not UTF-8"), (b"a\0b", "line 1: holds a NUL")]
)
def test_a_broken_list_is_refused_by_its_line(client: TestClient, project: Project, body: bytes, reason: str) -> None:
    answer = client.post(URL, data={"kind": "terms"}, files={"terms_file": ("list.txt", body)}, headers=HTMX)
    assert answer.status_code == 422 and reason in answer.text


def test_the_preview_votes_on_train_documents_only(
    client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        function_preview, "SECONDS", 60.0
    )  # a busy machine shows fewer samples in its second and a half
    found = client.post(f"{URL}/preview", data={"kind": "terms", "terms": "knee\nstriker\nwarfarin"}).text
    assert "<html" not in found and '<span class="tok seed">striker</span>' in found
    assert ">knee<" not in found  # sport-4 is of the test split
    assert "6" in found[found.index("On sample documents") :][:120]
    problem = client.post(f"{URL}/preview", data={"kind": "pattern", "pattern": "(a"})
    assert problem.status_code == 200 and "not an RE2 pattern" in problem.text and "function-preview" in problem.text
    empty = client.post(f"{URL}/preview", data={"kind": "pattern", "pattern": ""}).text
    assert "as you type" in empty and 'role="alert"' not in empty
    latent = client.post(f"{URL}/preview", data={"kind": "latent", "latent": "1"}).text
    assert "harvest the corpus first" in latent


def test_a_new_function_has_its_votes_cast_by_a_job(
    client: TestClient, project: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    assert client.post(f"{URL}/count").status_code == 409  # nothing harvested
    seed(sessions, settings, project)
    client.post(URL, data={"kind": "family", "family": "sport", "votes": "retain"})
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []  # needs no text
    client.post(URL, data={"kind": "terms", "terms": "knee"})
    with sessions() as session:
        assert [job.kind for job in session.scalars(select(Job))] == ["vote"]
