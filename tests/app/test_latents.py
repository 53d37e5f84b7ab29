"""Latents: order and filter, the evidence page, verdicts."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import LatentTable
from app.latents import LatentQuery, neighbours, order
from app.models import Project, Verdict
from app.settings import Settings
from tests.app.seeded import accept, seed

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/latents"
ALL = "?minimum=0"


@pytest.fixture
def planted(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    seed(sessions, settings, project)
    return project


def test_order_filters_and_sorts_by_the_asked_column() -> None:
    columns = {
        "strong_forget": np.array([50, 5, 50, 50]),
        "ratio": np.array([2.0, 99.0, 8.0, np.nan]),
        "density": np.zeros(4),
    }
    table = LatentTable(columns, [], {})
    verdicts = {2: SimpleNamespace(decision="accept")}
    assert order(table, LatentQuery(), verdicts).tolist() == [2, 0]  # type: ignore[arg-type]
    assert order(table, LatentQuery(ratio=1), verdicts).tolist() == [2, 0]  # type: ignore[arg-type]
    assert order(table, LatentQuery(ratio=1, down=False), verdicts).tolist() == [0, 2]  # type: ignore[arg-type]
    assert order(table, LatentQuery(state="todo", minimum=0, ratio=1), verdicts).tolist() == [1, 0]  # type: ignore[arg-type]
    assert order(table, LatentQuery(state="accept", ratio=1000), verdicts).tolist() == [2]  # type: ignore[arg-type]


def test_neighbours_follow_the_order() -> None:
    ids = np.array([5, 2, 9])
    assert neighbours(ids, 2) == (5, 9, 2)
    assert neighbours(ids, 9) == (2, None, 3)
    assert neighbours(ids, 7) == (None, 5, None)


def test_links_leave_defaults_out() -> None:
    assert LatentQuery().link() == "?"
    assert LatentQuery(page=3).link(sort="auroc") == "?sort=auroc&page=3"
    assert LatentQuery().sorted_by("ratio") == "?down=False"


def test_without_discovery_the_page_says_what_to_do(client: TestClient, project: Project) -> None:
    assert "No candidates yet" in client.get(URL).text


def test_the_list_shows_the_planted_latent_first_with_its_words(client: TestClient, planted: Project) -> None:
    page = client.get(URL + ALL).text
    assert page.index("latent-0") < page.index("latent-2")
    assert "<code>warfarin</code>" in page


def test_the_fragment_stands_verbatim_in_the_page(client: TestClient, planted: Project) -> None:
    page, fragment = client.get(URL + ALL).text, client.get(URL + ALL, headers=HTMX).text
    assert "<html" not in fragment and "latent-0" in fragment
    assert fragment.strip() in page


def test_every_htmx_link_has_its_address(client: TestClient, planted: Project) -> None:
    for url in (URL + ALL, f"{URL}/0", "/projects/medicine/functions", "/projects/medicine/corpus"):
        for tag in re.findall(r"<a [^>]*hx-get=[^>]*>", client.get(url).text):
            assert re.search(r'hx-get="([^"]*)"', tag)[1] == re.search(r' href="([^"]*)"', tag)[1]  # type: ignore[index]


def test_a_bad_query_is_refused(client: TestClient, planted: Project) -> None:
    for bad in ("?sort=secret", "?page=0", "?minimum=x", "?ratio=-1"):
        assert client.get(URL + bad).status_code == 422, bad


def test_the_dashboard_shows_evidence_and_the_way_on(client: TestClient, planted: Project) -> None:
    page = client.get(f"{URL}/0{ALL}").text
    assert "warfarin" in page and 'class="tok t9"' in page and 'rel="next"' in page
    assert client.get(f"{URL}/5{ALL}").status_code == 200  # never fires
    assert client.get(f"{URL}/6").status_code == 404
    assert client.get(f"{URL}/-1").status_code == 404


def test_examples_of_one_family(client: TestClient, planted: Project) -> None:
    found = client.get(f"{URL}/2?family=sport", headers=HTMX | {"HX-Target": "examples"}).text
    assert "<html" not in found and "striker" in found and "warfarin" not in found


def test_a_verdict_is_a_new_row_and_the_newest_counts(
    client: TestClient, planted: Project, sessions: sessionmaker[Session]
) -> None:
    first = client.post(
        f"{URL}/0/verdict", data={"decision": "accept", "note": "drugs"}, headers=HTMX | {"HX-Target": "latent-0"}
    )
    assert first.status_code == 200
    assert first.text.lstrip().startswith('<tr id="latent-0"') and 'hx-swap-oob="true"' in first.text
    panel = client.post(f"{URL}/0/verdict", data={"decision": "reject"}, headers=HTMX | {"HX-Target": "verdict"})
    assert "state-reject" in panel.text and "drugs" in panel.text
    assert client.post(f"{URL}/0/verdict", data={"decision": "clear"}).status_code == 303
    with sessions() as session:
        assert [v.decision for v in session.scalars(select(Verdict).order_by(Verdict.id))] == [
            "accept",
            "reject",
            "clear",
        ]
    assert 'id="latent-0"' not in client.get(f"{URL}?state=reject").text


def test_bad_verdicts_are_refused(client: TestClient, planted: Project) -> None:
    assert client.post(f"{URL}/0/verdict", data={"decision": "maybe"}).status_code == 422
    assert client.post(f"{URL}/77/verdict", data={"decision": "accept"}).status_code == 404


def test_one_verdict_for_all_that_have_none(
    client: TestClient, planted: Project, sessions: sessionmaker[Session]
) -> None:
    accept(sessions, planted, 1)
    answer = client.post(f"{URL}/verdicts?minimum=1&ratio=2", data={"decision": "accept"})
    assert answer.status_code == 303
    with sessions() as session:
        rows = session.scalars(select(Verdict).order_by(Verdict.id)).all()
    assert [row.latent for row in rows].count(1) == 1  # it had one already
    assert 0 in [row.latent for row in rows] and all("ratio" in row.note for row in rows[1:])


def test_ranges_text_and_family_ratios_narrow_and_order_the_list(client: TestClient, planted: Project) -> None:
    def found(query: str) -> list[int]:
        page = client.get(f"{URL}?minimum=0&{query}", headers=HTMX)
        assert page.status_code == 200, page.text
        return [int(n) for n in re.findall(r'<tr id="latent-(\d+)"', page.text)]

    assert found("text=WARFARIN") == [0, 1] and found("text=nowhere") == []
    assert 2 in found("column=density_retain&least=0.05&most=") and 0 not in found(
        "column=density_retain&least=0.05&most="
    )
    assert found("column=density&least=0.0001&most=&column=ratio&least=&most=1.5&text=the") == [2]
    assert found("sort=ratio:biology")[0] == 0
    assert found("sort=documents")[0] == 2
    page = client.get(f"{URL}?minimum=0&column=auroc&least=0.5&most=0.9").text
    assert 'value="0.5"' in page and 'value="0.9"' in page
    assert "column=auroc&amp;least=0.5&amp;most=0.9" in page  # heads and pages keep the range


def test_the_near_miss_family_is_named(client: TestClient, planted: Project) -> None:
    row = client.get(URL + ALL, headers=HTMX).text.split('id="latent-3"')[1].split("</tr>")[0]
    assert 'title="against biology"' in row


@pytest.mark.parametrize("bad", ["?column=secret&least=1&most=", "?column=ratio&least=x&most=", "?sort=ratio:clinic"])
def test_bad_ranges_are_refused(client: TestClient, planted: Project, bad: str) -> None:
    assert client.get(URL + bad).status_code == 422
