"""Run a job in this process, as the command line does: recorded, leased and resumable like any other."""

import os
import socket
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.db import reading
from app.jobs import is_active
from app.models import Job, now
from app.progress import console, drawn
from app.settings import Settings
from app.worker import run_one


def _alive(worker: str | None) -> bool:
    """Whether the process named in a lease may still run; on another machine only the lease can tell."""
    host, _, rest = (worker or "").partition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(rest.split(":")[0]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return int(rest.split(":")[0]) != os.getpid()


def start_here(
    settings: Settings, sessions: sessionmaker[Session], kind: str, project_id: int, args: dict[str, Any], author: str
) -> Job:
    """A job of this process's own. One that was interrupted in the same work is taken up again, with its shards."""
    told = False
    while True:
        with sessions.begin() as session:
            same = select(Job).where(Job.kind == kind, Job.project_id == project_id).order_by(Job.id.desc())
            job = next((j for j in session.scalars(same) if j.args == args and is_active(j)), None)
            free = (
                job is None
                or job.state == "queued"
                or not _alive(job.worker)
                or job.lease_until is None
                or job.lease_until < now()
            )
            if free:
                if job is None:
                    job = Job(kind=kind, project_id=project_id, args=args, author=author, attempts=0, result={})
                    session.add(job)
                job.state, job.worker = "running", f"{socket.gethostname()}:{os.getpid()}:here"
                job.lease_until = now() + timedelta(seconds=settings.lease_seconds)
                job.attempts, job.started_at, job.cancel_requested = job.attempts + 1, now(), False
                session.flush()
                return job
        if not told:
            console.print(f"{kind}: another worker is at this already; waiting for it")
            told = True
        time.sleep(1)


def run_job(
    settings: Settings, sessions: sessionmaker[Session], kind: str, project_id: int, args: dict[str, Any], author: str
) -> Job:
    """Run a step here and now with bars. Raises ValueError with the step's message if it fails."""
    job = start_here(settings, sessions, kind, project_id, args, author)
    try:
        run_one(settings, job, sessions, watch=drawn)
    except KeyboardInterrupt:
        with sessions.begin() as session:
            session.get_one(Job, job.id).lease_until = now()
        raise
    with reading(sessions) as session:
        finished = session.get_one(Job, job.id)
    if finished.state != "done":
        raise ValueError(f"{kind} {finished.state}: {finished.message or 'stopped'}")
    return finished
