"""Labeling functions: a form drawn from the model, checked by it, stored as it says."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Function, Project
from app.routes.functions import KINDS

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/functions"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_its_form_verbatim_in_the_page(client: TestClient, project: Project, kind: str) -> None:
    page, fragment = client.get(f"{URL}?kind={kind}").text, client.get(f"{URL}?kind={kind}", headers=HTMX).text
    assert f'value="{kind}"' in fragment and 'name="weight"' in fragment and "<html" not in fragment
    assert fragment.strip() in page


def test_unknown_kinds_and_latents_have_no_form(client: TestClient, project: Project) -> None:
    assert client.get(f"{URL}?kind=latent").status_code == 404
    assert client.post(URL, data={"kind": "latent", "latent": "3"}).status_code == 422


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
