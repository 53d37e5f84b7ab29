"""The queue, its pages, and what a person reads of a job."""

import threading
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import MAX_ATTEMPTS, claim, curves, enqueue, figures, pace, request_cancel, shown_state
from app.models import Job, JobMetric, Project, now

HX = {"HX-Request": "true"}


def add(sessions: sessionmaker[Session], project: Project, **fields: object) -> int:
    with sessions.begin() as session:
        job = Job(**{"kind": "label", "project_id": project.id, "author": "owner", **fields})
        session.add(job)
        session.flush()
        return job.id


def stale() -> dict[str, object]:
    return {"state": "running", "worker": "dead", "lease_until": now() - timedelta(seconds=1), "attempts": 1}


def alive() -> dict[str, object]:
    return {"state": "running", "worker": "w", "lease_until": now() + timedelta(hours=1), "attempts": 1}


def test_the_oldest_job_is_claimed_first(sessions: sessionmaker[Session], project: Project):
    first, second = add(sessions, project), add(sessions, project)
    with sessions() as session:
        claimed = [claim(session, "w", 10) for _ in range(3)]
    assert [job and job.id for job in claimed] == [first, second, None]
    assert claimed[0] is not None
    assert (claimed[0].state, claimed[0].worker, claimed[0].attempts) == ("running", "w", 1)


def test_two_workers_cannot_claim_one_job(sessions: sessionmaker[Session], project: Project):
    for _ in range(12):
        add(sessions, project)
    taken: list[int] = []
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        barrier.wait()
        with sessions() as session:
            while (job := claim(session, name, 60)) is not None:
                taken.append(job.id)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        assert sorted(taken) == sorted(session.scalars(select(Job.id)))


def test_a_silent_worker_s_job_is_claimed_again_and_a_live_one_s_is_not(sessions, project: Project):
    add(sessions, project, **alive())
    lost = add(sessions, project, **stale())
    with sessions() as session:
        job = claim(session, "w", 10)
        assert job is not None and (job.id, job.worker, job.attempts) == (lost, "w", 2)
        assert claim(session, "w2", 10) is None


def test_a_job_that_kills_its_workers_fails_in_the_end(sessions: sessionmaker[Session], project: Project):
    job_id = add(sessions, project, **{**stale(), "attempts": MAX_ATTEMPTS})
    with sessions() as session:
        assert claim(session, "w", 10) is None
        job = session.get_one(Job, job_id)
        assert job.state == "failed" and "memory" in (job.message or "")


def test_the_same_job_twice_in_a_row_is_one_job(sessions: sessionmaker[Session], project: Project):
    with sessions.begin() as session:
        one = enqueue(session, "label", project.id, {"rule_id": 1}, "owner")
        assert enqueue(session, "label", project.id, {"rule_id": 1}, "owner").id == one.id
        assert enqueue(session, "label", project.id, {"rule_id": 2}, "owner").id != one.id
        one.state = "done"
        assert enqueue(session, "label", project.id, {"rule_id": 1}, "owner").id != one.id


@pytest.mark.parametrize(
    ("fields", "state", "asked"),
    [({}, "cancelled", False), (stale(), "cancelled", False), (alive(), "running", True)],
)
def test_cancelling_stops_at_once_what_nobody_runs(sessions, project: Project, fields, state, asked):
    job_id = add(sessions, project, **fields)
    with sessions.begin() as session:
        request_cancel(session, session.get_one(Job, job_id))
    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.cancel_requested) == (state, asked)


def test_a_finished_job_cannot_be_cancelled(sessions: sessionmaker[Session], project: Project):
    job_id = add(sessions, project, state="done")
    with sessions.begin() as session:
        request_cancel(session, session.get_one(Job, job_id))
        assert session.get_one(Job, job_id).state == "done"


def test_the_shown_state_is_truthful():
    assert shown_state(Job(**alive())) == "running"
    assert shown_state(Job(**stale())) == "interrupted"
    assert shown_state(Job(**alive(), cancel_requested=True)) == "stopping"
    assert shown_state(Job(state="done")) == "done"


def test_the_pace_counts_from_where_the_stage_began():
    began = (now() - timedelta(seconds=10)).isoformat()
    going = pace(Job(**alive(), done=300, total=500, result={"stage": [began, 100]}))  # 200 units in 10 s
    assert going is not None and going.rate == pytest.approx(20, rel=0.01)
    assert going.remaining == pytest.approx(10, rel=0.01)
    assert pace(Job(**alive(), done=100, total=500, result={"stage": [began, 100]})) is None


def test_curves_and_figures(sessions: sessionmaker[Session], project: Project):
    job_id = add(sessions, project)
    with sessions.begin() as session:
        for name, step, value in [("loss", 0, 2.0), ("f1", None, 0.5), ("loss", 10, 1.0), ("f1", None, 0.75)]:
            session.add(JobMetric(job_id=job_id, name=name, step=step, value=value))
    with sessions() as session:
        assert curves(session, job_id) == {"loss": [(0, 2.0), (10, 1.0)]}
        assert figures(session, job_id) == {"f1": 0.75}


def test_the_jobs_page_shows_each_job_s_widget_verbatim(client: TestClient, sessions, project: Project):
    job_id = add(sessions, project, **alive(), done=30, total=80, unit="shards")
    page = client.get("/projects/medicine/jobs").text
    fragment = client.get(f"/jobs/{job_id}", headers=HX).text
    assert "<html" not in fragment and fragment.strip() in page
    assert "30 of 80 shards" in fragment and 'hx-trigger="every 1s"' in fragment


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_finished_job_stops_polling(client: TestClient, sessions, project: Project, state: str):
    job_id = add(sessions, project, state=state, message="<b>no</b>")
    fragment = client.get(f"/jobs/{job_id}", headers=HX)
    assert "hx-trigger" not in fragment.text and "<b>no" not in fragment.text
    assert fragment.headers["Vary"] == "HX-Request"


def test_a_job_has_a_page_of_its_own(client: TestClient, sessions, project: Project):
    job_id = add(sessions, project, state="failed", message="no family is on the forget side", traceback="Traceback: x")
    page = client.get(f"/jobs/{job_id}").text
    assert "no family is on the forget side" in page and "Traceback: x" in page and "<title>Label" in page


def test_cancel_and_run_again_from_the_page(client: TestClient, sessions, project: Project):
    job_id = add(sessions, project)
    assert "cancelled" in client.post(f"/jobs/{job_id}/cancel", headers=HX).text
    again = client.post(f"/jobs/{job_id}/retry")
    assert again.status_code == 303 and again.headers["location"] == f"/jobs/{job_id + 1}"
    assert client.post(f"/jobs/{job_id + 1}/retry", headers=HX).status_code == 409
    assert client.post(f"/jobs/{job_id + 1}/cancel").status_code == 303


def test_missing_jobs_and_projects_are_404(client: TestClient, project: Project):
    for path in ("/jobs/99", "/projects/nothing/jobs"):
        page = client.get(path)
        assert page.status_code == 404 and "There is no" in page.text
    assert client.post("/jobs/99/cancel", headers=HX).headers["HX-Reswap"] == "none"
    assert client.get("/jobs/99", headers={"Accept": "application/json"}).json() == {"detail": "There is no job 99."}
    assert client.get("/jobs/abc").status_code == 422


def test_no_jobs_yet_says_what_to_do(client: TestClient, project: Project):
    assert "/projects/medicine/corpus" in client.get("/projects/medicine/jobs").text
