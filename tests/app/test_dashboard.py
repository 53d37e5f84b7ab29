"""One latent's page: its pictures, neighbours, output tokens, and a person's own text."""

import json
import re

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import charts
from app.artifacts import LatentWeights
from app.dashboard import neuronpedia
from app.jobs import claim
from app.models import Artifact, Job, Project
from app.settings import Settings
from labeling.artifacts import staged
from tests.app.seeded import LATENTS, accept, seed

HTMX = {"HX-Request": "true"}
URL = "/projects/medicine/latents"


@pytest.fixture
def planted(project: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    seed(sessions, settings, project)
    return project


@pytest.fixture
def weighed(planted: Project, sessions: sessionmaker[Session], settings: Settings) -> Project:
    """Weights that say: each latent's neighbour is the next one, and all promote ' insulin'."""
    near = (np.arange(LATENTS)[:, None] + [1, 2]) % LATENTS
    columns = {"near": near, "near_cosine": np.tile([0.9, 0.5], (LATENTS, 1))}
    for name in ("promoted", "suppressed"):
        columns[name], columns[f"{name}_logit"] = np.full((LATENTS, 1), 7), np.full((LATENTS, 1), 2.5)
    info = {"reference_id": planted.reference_id, "neuronpedia": "gpt2-small/8-res-jb", "logits": True}
    with staged(settings.artifacts_dir / "weights-1", "weights", info) as folder:
        np.savez(folder / "weights.npz", **columns)
        (folder / "tokens.json").write_text(json.dumps({"7": " insulin"}))
    with sessions.begin() as session:
        session.add(Artifact(project_id=planted.id, kind="weights", path="artifacts/weights-1", info=info))
    return planted


def test_the_page_draws_what_a_look_is_quicker_for(client: TestClient, weighed: Project) -> None:
    page = client.get(f"{URL}/0?minimum=0").text
    assert page.count("<svg") > 6 and 'style="' not in page
    assert "95% interval" in page and ">strong</text>" in page
    for said in ("Stop words", "Punctuation", "Word starts", " insulin", "Promoted", "Suppressed"):
        assert said in page, said
    assert 'href="https://www.neuronpedia.org/gpt2-small/8-res-jb/0"' in page


def test_every_shaded_token_says_its_value_and_one_of_each_text_takes_focus(
    client: TestClient, planted: Project
) -> None:
    page = client.get(f"{URL}/0?minimum=0").text
    tokens = re.findall(r'<span class="tok t\d" tabindex="(-1|0)" data-value="([\d.]+)">', page)
    assert tokens and all(float(value) == 6 for _, value in tokens)
    assert sum(tab == "0" for tab, _ in tokens) == page.count('<article class="example">')


def test_neighbours_are_one_key_away_with_their_verdicts(
    client: TestClient, weighed: Project, sessions: sessionmaker[Session]
) -> None:
    accept(sessions, weighed, 1)
    page = client.get(f"{URL}/0?minimum=0").text
    assert re.search(rf'data-key="1" href="{URL}/1\?minimum=0"', page) and re.search(
        rf'data-key="2" href="{URL}/2', page
    )
    assert re.search(rf'data-key="6" href="{URL}/1', page)  # fires on patient, warfarin and prednisone too
    near = page[page.index("Nearest latents") :]
    assert "state-accept" in near and "0.90" in near


def test_examples_by_strength(client: TestClient, planted: Project) -> None:
    every = client.get(f"{URL}/2?minimum=0", headers=HTMX).text
    assert "<html" not in every and "Strongest" in every
    middle = client.get(f"{URL}/2?minimum=0&at=50&family=sport", headers=HTMX).text
    assert 'aria-current="true">50%' in middle and "warfarin" not in middle
    assert client.get(f"{URL}/2?at=33").status_code == 422


def test_an_older_discovery_still_opens_and_asks_to_be_run_again(
    client: TestClient, planted: Project, settings: Settings
) -> None:
    folder = settings.artifacts_dir / "discovery-1"
    with np.load(folder / "latents.npz") as table:
        new = {"documents", "top_tokens", "family_ratio", "near_fired", "near_fired_share"}
        columns = {name: table[name] for name in table.files if name not in new}
    info = json.loads((folder / "MANIFEST.json").read_text())["info"]
    with staged(folder, "discovery", {k: v for k, v in info.items() if k not in ("l0", "tokens")}) as made:
        np.savez(made / "latents.npz", **columns)
    for url in (f"{URL}?minimum=0", f"{URL}?minimum=0&text=warfarin", f"{URL}/0?minimum=0"):
        page = client.get(url)
        assert page.status_code == 200 and "Discover again" in page.text, url
    refused = client.get(f"{URL}?sort=documents")
    assert refused.status_code == 422 and "discover again" in refused.text


def test_own_text_waits_for_a_worker_and_then_shows_shaded(
    client: TestClient, planted: Project, sessions: sessionmaker[Session], settings: Settings
) -> None:
    answer = client.post(f"{URL}/0/trials", data={"text": "Take <b>warfarin</b> now"}, headers=HTMX)
    assert answer.status_code == 200 and "<html" not in answer.text and "hx-get=" in answer.text
    with sessions() as session:
        job = claim(session, "w", 60)
        assert job is not None and job.kind == "try" and job.args["text"] == "Take <b>warfarin</b> now"
    with sessions.begin() as session:
        row = session.get_one(Job, job.id)
        row.state, row.result = "done", {"tokens": [[0, 4, 0.0], [8, 16, 3.0]]}
    where = f"{URL}/0/trials/{job.id}"
    done = client.get(where, headers=HTMX).text
    assert "hx-get=" not in done and 'data-value="3">warfarin</span>' in done and "&lt;b&gt;" in done
    assert done.strip() in client.get(where).text


def test_own_text_that_cannot_be_tried(client: TestClient, planted: Project, sessions: sessionmaker[Session]) -> None:
    assert client.post(f"{URL}/0/trials", data={"text": ""}).status_code == 422
    assert client.post(f"{URL}/0/trials", data={"text": "x" * 4001}).status_code == 422
    assert client.post(f"{URL}/99/trials", data={"text": "x"}).status_code == 404
    assert client.get(f"{URL}/0/trials/1").status_code == 404
    where = client.post(f"{URL}/0/trials", data={"text": "x"}).headers["location"]
    assert client.get(where.replace("/0/", "/1/")).status_code == 404
    with sessions.begin() as session:
        job = session.scalar(select(Job))
        assert job is not None
        job.state, job.message = "failed", "the model is gone"
    assert "the model is gone" in client.get(where).text


def test_only_plain_ids_become_links() -> None:
    def link(name: object) -> str:
        return neuronpedia(LatentWeights({}, {}, {"neuronpedia": name}), 3)

    assert link("gemma-2-2b/20-gemmascope-res-16k") == "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/3"
    assert [link(name) for name in (None, "", "a b", '"><script>', "//evil")] == [""] * 5


def test_both_sides_share_one_log_axis() -> None:
    chart = charts.overlay([0.1, 0.001, 0], [0.01, 0, 0], 30, 100)
    assert len(chart.bars) == 2 and chart.bars[0][3] > chart.bars[1][3] > 0
    assert [value for _, value in chart.y_ticks] == [0.001, 0.01, 0.1]
    at = {value: y for y, value in chart.y_ticks}
    assert chart.bars[0][1] == at[0.1] and f"V{at[0.01]:g}H10" in chart.outline
    assert charts.overlay([0, 0], [0, 0], 30, 100) == charts.Overlay([], "", [])


def test_intervals_lie_on_a_log_axis_and_zero_has_no_point() -> None:
    chart = charts.intervals([(0.001, 0.01, 0.1), (0.0, 0.0, 0.02)], 200)
    assert chart.whiskers[0] == charts.Whisker(0.0, 0.0, 100.0) or chart.whiskers[0].x is not None
    assert chart.whiskers[1].x is None and chart.whiskers[1].low == 0 < chart.whiskers[1].high
    assert charts.intervals([(0, 0, 0)], 200) == charts.Intervals([], [])
