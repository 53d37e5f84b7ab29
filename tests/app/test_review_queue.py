"""The orders of the review queue."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from app.assignments import pace_of
from app.db import reading
from app.models import Annotation, Project, now
from app.review_queries import Filters
from app.review_queue import desk, latent_profiles, ordered, queue_page
from app.roles import SOLO
from app.sealing import reveal, seal
from app.suggestions import sources_of
from tests.app.reviewed import documents_of, seed


@pytest.fixture
def at(settings, sessions, project):
    """The solo user's desk over the planted project."""
    seed(settings, sessions, project)
    with reading(sessions) as session:
        yield desk(session, session.get_one(Project, project.id), sources_of(session, settings, project))


def keys(at, why: str, **filters) -> list[str]:
    return [entry.document.key for entry in queue_page(at, Filters(why, **filters), 1).rows]


def test_the_classifier_is_unsure_where_p_is_near_its_threshold(at):
    # threshold 0.6: unsure between 0.3 and 0.8; clinic has 0.75 and 0.65, sport 0.7, biology nothing
    found = keys(at, "uncertain")
    assert found[:4] == [f"clinic-{n}" for n in (1, 2, 3, 4)] and found[4:] == [f"sport-{n}" for n in (1, 2, 3, 4)]
    assert "classifier unsure of 2" in queue_page(at, Filters("uncertain"), 1).rows[0].reasons


def test_every_line_of_a_queue_says_why_it_is_there(at):
    whys = ("flagged", "disagreement", "uncertain", "retain", "random", "strata")
    assert all(entry.reasons for why in whys for entry in queue_page(at, Filters(why), 1).rows)
    first = queue_page(at, Filters("flagged"), 1).rows[0]
    assert first.reasons[:2] == ["rule flags 2", "classifier alone flags 1"]


def test_a_random_sample_stays_the_same_and_is_not_the_import_order(at):
    drawn = keys(at, "random")
    assert drawn == keys(at, "random") and sorted(drawn) == sorted(keys(at, "all")) and drawn != keys(at, "all")


def test_a_stratified_sample_takes_each_family_in_turn(at):
    drawn = [key.split("-")[0] for key in keys(at, "strata")]
    for turn in range(4):
        assert sorted(drawn[3 * turn : 3 * turn + 3]) == ["biology", "clinic", "sport"]


def test_similar_documents_are_those_in_which_the_same_latents_fire(at):
    assert keys(at, "similar", to=1) == ["clinic-2", "clinic-3", "clinic-4"]
    assert keys(at, "similar", to=12) == []  # no latent of the rule fires in it
    profiles = latent_profiles(at.sources)
    assert profiles is not None and np.allclose(np.linalg.norm(profiles[:4], axis=1), 1)


def test_filters_narrow_every_order(at):
    assert keys(at, "random", family="sport", split="test") == ["sport-4"]
    assert keys(at, "flagged", family="sport") == []


def test_sealing_and_revealing_change_what_is_in_the_queue(at, sessions, settings, project):
    with sessions.begin() as session:
        seal(session, project.id, 5, SOLO)
    with sessions() as session:
        assert len(ordered(desk(session, project, at.sources), Filters())) == 9
    with sessions.begin() as session:
        reveal(session, project.id, "the final test", SOLO)
    with sessions() as session:
        again = desk(session, project, at.sources)
        assert len(ordered(again, Filters(split="revealed"))) == 3 == 12 - len(ordered(again, Filters())) + 3


def test_pace_counts_documents_in_an_hour_of_work(sessions, project):
    begun = now()
    with sessions.begin() as session:
        for i, document in enumerate(documents_of(session, project)[:4]):
            # two minutes each, a night between the second and the third
            at = begun - timedelta(hours=10 if i < 2 else 1) + timedelta(minutes=2 * i)
            session.add(
                Annotation(
                    document_id=document.id, layer="ann", version=1, action="state", spans=[], judged=[], state="clean",
                    author="ann", created_at=at,
                )
            )  # fmt: skip
    with sessions() as session:
        pace = pace_of(session, project.id, "ann")
        assert (pace.finished, pace.today, pace.week) == (4, 4, 4)
        assert pace.per_hour == pytest.approx(60)  # four documents in four minutes of work
        assert pace_of(session, project.id, "bob").per_hour is None
        assert session.scalars(select(Annotation.layer).distinct()).all() == ["ann"]
