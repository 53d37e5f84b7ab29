"""Running a job: events become rows, a cancel frees what the step holds, a lost job is left alone."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app import worker
from app.db import MIGRATIONS
from app.jobs import claim, enqueue, request_cancel, shown_state
from app.models import Artifact as ArtifactRow
from app.models import Job, JobMetric, Project, now
from app.settings import Settings
from labeling.events import Artifact, Event, Metric, Progress

Steps = Iterator[Event]
Run = Callable[..., Job]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, settings: Settings, sessions: sessionmaker[Session], project: Project) -> Run:
    """Enqueue a job whose step is the given function, run it in this thread, return its row."""

    def run_step(step: Callable[..., Steps], **kwargs: object) -> Job:
        monkeypatch.setattr(worker, "resolve", lambda kind: step)
        with sessions.begin() as session:
            enqueue(session, "label", project.id, {"rule_id": 7}, "ada")
        with sessions() as session:
            job = claim(session, "w", settings.lease_seconds)
        assert job is not None
        worker.run_one(settings, job, sessions, **kwargs)
        with sessions() as session:
            return session.get_one(Job, job.id)

    return run_step


def test_events_become_rows(run: Run, sessions: sessionmaker[Session], settings: Settings, project: Project):
    def step(settings: Settings, sessions: sessionmaker[Session], job) -> Steps:
        assert (job.project_id, job.args, job.author) == (project.id, {"rule_id": 7}, "ada")
        yield Progress(1, 4, "tokens", "label")
        yield Metric("loss", 0.5, 0)
        yield Metric("loss", 0.25, 1)
        with sessions.begin() as session:
            session.add(ArtifactRow(project_id=job.project_id, job_id=job.id, kind="labels", path="artifacts/labels-1"))
        yield Artifact("labels", Path("/data/artifacts/labels-1"))
        yield Progress(4, 4, "tokens", "label")
        return {"rule_version": 2}

    job = run(step)
    assert (job.state, job.done, job.total, job.unit, job.note) == ("done", 4, 4, "tokens", "label")
    assert job.result == {"labels": "labels-1", "labels_id": 1, "rule_version": 2}
    assert job.finished_at is not None and job.lease_until is None and job.traceback is None
    with sessions() as session:
        points = session.scalars(select(JobMetric).order_by(JobMetric.id)).all()
        assert [(p.name, p.step, p.value) for p in points] == [("loss", 0, 0.5), ("loss", 1, 0.25)]


def test_progress_is_written_a_few_times_a_second(run: Run, monkeypatch: pytest.MonkeyPatch):
    writes = []
    write = worker.Recorder.write
    monkeypatch.setattr(worker.Recorder, "write", lambda self, **final: (writes.append(1), write(self, **final)))

    def step(*_: object) -> Steps:
        for i in range(2000):
            yield Progress(i, 2000)

    began = time.monotonic()
    assert run(step).done == 1999
    assert len(writes) <= 4 + (time.monotonic() - began) / worker.WRITE_SECONDS


def test_the_command_line_watches_the_same_events(run: Run):
    seen: list[Event] = []

    def step(*_: object) -> Steps:
        yield Progress(1, 2)
        yield Progress(2, 2)
        return {"made": 1}

    job = run(step, watch=lambda events: (seen.append(event) or event for event in events))
    assert (job.result, seen) == ({"made": 1}, [Progress(1, 2), Progress(2, 2)])


class Ballast:
    """Stands for a model in memory."""


def test_cancelling_runs_finally_and_frees_memory(run: Run, sessions: sessionmaker[Session]):
    closed, held = [], []

    def step(settings: Settings, sessions: sessionmaker[Session], job) -> Steps:
        ballast = Ballast()
        held.append(weakref.ref(ballast))
        try:
            yield Progress(1, 100)
            with sessions.begin() as session:
                request_cancel(session, session.get_one(Job, job.id))
            for i in range(2, 10_000):
                time.sleep(0.01)
                yield Progress(i, 10_000)
            raise AssertionError("the cancel was not noticed")
        finally:
            closed.append(ballast.__class__.__name__)
            del ballast

    job = run(step)
    gc.collect()
    assert (job.state, closed, held[0]()) == ("cancelled", ["Ballast"], None)
    assert 0 < job.done < 1000


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("raise k: no latent reaches it"), "raise k: no latent reaches it"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (KeyError("x"), "Unexpected KeyError: 'x'"),
        (MemoryError(), "This step ran out of memory."),
    ],
)
def test_failures_say_what_happened(run: Run, error: Exception, message: str):
    def step(*_: object) -> Steps:
        yield Progress(1, 2)
        raise error

    job = run(step)
    assert (job.state, job.message, job.done) == ("failed", message, 1)
    assert "Traceback" in (job.traceback or "")


def test_the_lease_is_renewed_while_a_step_is_silent(run: Run, sessions: sessionmaker[Session], settings: Settings):
    settings.lease_seconds = 0.4
    seen = []

    def step(settings: Settings, sessions: sessionmaker[Session], job) -> Steps:
        time.sleep(1)
        with sessions() as session:
            seen.append(shown_state(session.get_one(Job, job.id)))
        yield Progress(1, 1)

    assert run(step).state == "done"
    assert seen == ["running"]


def test_a_worker_that_lost_its_job_writes_nothing_more(run: Run):
    closed = []

    def step(settings: Settings, sessions: sessionmaker[Session], job) -> Steps:
        try:
            yield Progress(1, 3)
            with sessions.begin() as session:
                session.execute(update(Job).values(worker="other", attempts=2, done=2))
            time.sleep(worker.WRITE_SECONDS)
            yield Progress(3, 3)
        finally:
            closed.append(True)

    job = run(step)
    assert (job.state, job.worker, job.done, closed) == ("running", "other", 2, [True])


def test_a_worker_that_is_told_to_stop_gives_its_job_back(run: Run):
    stop = threading.Event()

    def step(*_: object) -> Steps:
        for i in range(10_000):
            stop.set()
            time.sleep(0.02)
            yield Progress(i)

    job = run(step, stop=stop)
    assert (job.state, job.attempts, job.lease_until, job.finished_at) == ("queued", 0, None, None)


def test_a_worker_runs_the_queue_until_stopped(monkeypatch, settings: Settings, sessions, project: Project):
    ran = []

    def step(settings: Settings, sessions: sessionmaker[Session], job) -> Steps:
        ran.append(job.id)
        yield Progress(1, 1)

    monkeypatch.setattr(worker, "resolve", lambda kind: step)
    with sessions.begin() as session:
        ids = [enqueue(session, "label", project.id, {"rule_id": i}, "ada").id for i in range(3)]
        session.get_one(Job, ids[0]).state = "running"  # a dead worker's job is among them
        session.get_one(Job, ids[0]).lease_until = now() - timedelta(seconds=1)
    stop = threading.Event()
    thread = threading.Thread(target=worker.run_forever, args=(settings, stop))
    thread.start()
    wait_until(lambda: len(ran) == 3)
    stop.set()
    thread.join(5)
    assert ran == ids and not thread.is_alive()


WORKER = """
import time
from app import worker
from app.settings import Settings
from labeling.events import Progress

def step(settings, sessions, job):
    for done in range(1000):
        yield Progress(done, 1000, "shards")
        time.sleep(0.05)

worker.resolve = lambda kind: step
worker.run_forever(Settings())
"""


def test_a_killed_worker_s_job_shows_as_interrupted_and_is_taken_up(
    run: Run, settings: Settings, sessions, project: Project
):
    env = os.environ | {
        "TOKENSIEVE_DATA_DIR": str(settings.data_dir),
        "TOKENSIEVE_DATABASE_URL": settings.database_url,
        "TOKENSIEVE_LEASE_SECONDS": "1",
    }
    with sessions.begin() as session:
        job_id = enqueue(session, "label", project.id, {"rule_id": 7}, "ada").id
    process = subprocess.Popen([sys.executable, "-c", WORKER], env=env, cwd=MIGRATIONS.parent)

    def state() -> tuple[str, int]:
        with sessions() as session:
            job = session.get_one(Job, job_id)
            return shown_state(job), job.done

    wait_until(lambda: state()[1] > 0)
    process.kill()
    process.wait()
    wait_until(lambda: state()[0] == "interrupted", seconds=3)

    def rest(*_: object) -> Steps:
        yield Progress(1000, 1000, "shards")

    job = run(rest)  # the same job: enqueueing it again adds none
    assert (job.id, job.state, job.attempts, job.done) == (job_id, "done", 2, 1000)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_kind_names_a_step():
    for kind in worker.KINDS:
        assert callable(worker.resolve(kind))
