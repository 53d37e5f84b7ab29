"""Runs claimed jobs: iterates a step's events and stores them as rows the pages poll.

A step never sees the queue. It yields; the runner writes at most four short transactions a
second, notices a cancel between events and closes the generator, whose `finally` frees what it
holds. A thread renews the lease meanwhile; a worker that lost it stops without writing more.
"""

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.db import session_factory
from app.jobs import KINDS, JobView, claim
from app.models import Artifact as ArtifactRow
from app.models import Job, JobMetric, now
from app.settings import Settings
from app.threads import beside
from labeling.events import Artifact, Event, Metric, Progress

log = logging.getLogger("tokensieve")
WRITE_SECONDS = 0.25
STOP_SECONDS = 8.0
Steps = Generator[Event, None, dict[str, Any] | None]
Watch = Callable[[Iterator[Event]], Iterator[Event]]
Step = Callable[[Settings, sessionmaker[Session], JobView], Steps]


class Cancelled(Exception):
    """A person asked the job to stop."""


class LeaseLost(Exception):
    """Another worker took the job over; this one writes nothing more."""


class Stopped(Exception):
    """The worker itself is shutting down; the job goes back to the queue."""


def resolve(kind: str) -> Step:
    """The step behind a job kind, imported only now: it may bring torch along."""
    module, _, name = KINDS[kind].partition(":")
    step: Step = getattr(import_module(module), name)
    return step


class Recorder:
    """Stores what a step yields on the job's row, as long as the job is still this worker's."""

    def __init__(self, sessions: sessionmaker[Session], job: Job, stop: threading.Event) -> None:
        self.sessions, self.job_id, self.worker, self.attempt = sessions, job.id, job.worker, job.attempts
        self.stop = stop
        self.progress: Progress | None = None
        self.metrics: list[Metric] = []
        self.result: dict[str, Any] = {k: v for k, v in job.result.items() if k != "stage"}
        self.stage: tuple[str, str] | None = None
        self.written = 0.0

    def add(self, event: Event) -> None:
        match event:
            case Progress():
                if self.stage != (stage := (event.note, event.unit)):
                    self.stage, self.result["stage"] = stage, [now().isoformat(), event.done]
                    self.written = 0.0  # a new stage shows at once
                self.progress = event
            case Metric():
                self.metrics.append(event)
            case Artifact():
                self.result[event.kind] = event.path.name
        if time.monotonic() - self.written >= WRITE_SECONDS:
            self.write()

    def write(self, **final: Any) -> None:
        """One short transaction. Raises when the job was cancelled, lost or the worker has to stop."""
        values: dict[str, Any] = {"result": dict(self.result), **final}
        if self.progress is not None:
            p = self.progress
            values |= {"done": p.done, "total": p.total, "unit": p.unit, "note": p.note}
        with self.sessions.begin() as session:
            self.update(session, **values)
            for metric in self.metrics:
                session.add(JobMetric(job_id=self.job_id, name=metric.name, step=metric.step, value=metric.value))
            cancel = session.scalar(select(Job.cancel_requested).where(Job.id == self.job_id))
        self.metrics.clear()
        self.written = time.monotonic()
        if cancel and not final:
            raise Cancelled
        if self.stop.is_set() and not final:
            raise Stopped

    def update(self, session: Session, **values: Any) -> None:
        mine = (Job.id == self.job_id, Job.state == "running", Job.worker == self.worker, Job.attempts == self.attempt)
        if session.execute(update(Job).where(*mine).values(**values)).rowcount != 1:  # type: ignore[attr-defined]
            raise LeaseLost

    def finish(self, state: str, **values: Any) -> None:
        """The last write; what the step made is listed by its id."""
        self.result.pop("stage", None)
        with self.sessions() as session:
            made = select(ArtifactRow).where(ArtifactRow.job_id == self.job_id).order_by(ArtifactRow.id)
            self.result |= {f"{artifact.kind}_id": artifact.id for artifact in session.scalars(made)}
        self.write(state=state, lease_until=None, finished_at=None if state == "queued" else now(), **values)


@contextmanager
def heartbeat(recorder: Recorder, lease: float) -> Iterator[None]:
    """Renews the lease four times in its length, from a thread, however long the step is silent."""

    def beat(ended: threading.Event) -> None:
        while not ended.wait(lease / 4):
            try:
                with recorder.sessions.begin() as session:
                    recorder.update(session, lease_until=now() + timedelta(seconds=lease))
            except LeaseLost:
                return
            except Exception:
                log.warning("job %s: could not renew the lease; trying again", recorder.job_id, exc_info=True)

    with beside(beat, f"heartbeat-{recorder.job_id}", daemon=True):
        yield


def _kept(step: Steps, recorder: Recorder) -> Iterator[Event]:
    """A step may return a dict of ids, which joins the job's result."""
    recorder.result |= (yield from step) or {}


def _drain(step: Steps, recorder: Recorder, watch: Watch) -> None:
    """Iterate to the end; whatever ends it, every generator on the way is closed."""
    events = watch(kept := _kept(step, recorder))
    try:
        for event in events:
            recorder.add(event)
    finally:
        for generator in (events, kept, step):
            if hasattr(generator, "close"):
                generator.close()


def run_one(
    settings: Settings,
    job: Job,
    sessions: sessionmaker[Session] | None = None,
    stop: threading.Event | None = None,
    watch: Watch = iter,
) -> None:
    """Run a claimed job to its end, whatever that is, and say on its row how it ended.

    `watch` sees the events on their way: the command line draws its bars with it.
    """
    sessions = sessions or session_factory(settings)
    recorder = Recorder(sessions, job, stop or threading.Event())
    view = JobView(job.id, job.project_id, job.args, job.author)
    log.info("job %s: %s", job.id, job.kind)
    try:
        with heartbeat(recorder, settings.lease_seconds):
            _drain(resolve(job.kind)(settings, sessions, view), recorder, watch)
        recorder.finish("done")
    except LeaseLost:
        log.warning("job %s: another worker took it over", job.id)
    except Cancelled:
        recorder.finish("cancelled")
    except Stopped:
        recorder.finish("queued", attempts=max(0, job.attempts - 1))
    except Exception as error:
        foreseen = isinstance(error, ValueError | OSError)  # its message says it all, to the person who reads it
        log.log(logging.INFO if foreseen else logging.ERROR, "job %s failed", job.id, exc_info=True)
        recorder.finish("failed", message=_message(error), traceback=traceback.format_exc())


def _message(error: Exception) -> str:
    """What the person sees; `labeling` raises ValueError with what to change."""
    if isinstance(error, ValueError | OSError):
        return str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return "This step ran out of memory."
    return f"Unexpected {type(error).__name__}: {error}"


def work_once(settings: Settings, sessions: sessionmaker[Session], worker: str, stop: threading.Event) -> bool:
    """Claim and run one job; False if none waits.

    Should the database itself fail, the job's lease runs out and it is claimed again.
    """
    try:
        with sessions() as session:
            job = claim(session, worker, settings.lease_seconds)
        if job is not None:
            run_one(settings, job, sessions, stop)
        return job is not None
    except (LeaseLost, OperationalError):
        log.exception("could not reach the job's row; going on with the next")
        return False


def _stop_on_signals(stop: threading.Event) -> None:
    """A step that stays silent too long after the signal is left to the next worker, as after a crash."""

    def on_signal(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            timer = threading.Timer(STOP_SECONDS, os._exit, (1,))
            timer.daemon = True
            timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def run_forever(settings: Settings, stop: threading.Event | None = None) -> None:
    """Work until told to stop (SIGTERM, Ctrl-C, or `stop`); a job in hand goes back to the queue."""
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        _stop_on_signals(stop)
    sessions = session_factory(settings)
    worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
    log.info("worker %s waits for jobs", worker)
    try:
        while not stop.is_set():
            if not work_once(settings, sessions, worker, stop):
                stop.wait(settings.poll_seconds)
    finally:
        sessions.kw["bind"].dispose()
