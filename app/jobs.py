"""The queue: jobs are rows, claimed by conditional UPDATE, alive only while their lease is fresh.

No broker: a worker that dies simply stops renewing, its job shows as interrupted, and the next
claim takes it over. Steps write in shards, so the second attempt goes on where the first stopped.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from app.models import Job, JobMetric, now

# Dotted names that only the worker resolves: the web process never loads torch.
KINDS = {
    "import": "app.steps:import_files",
    "gold": "app.steps:import_gold",
    "reference": "app.references:add_reference",
    "preflight": "app.preflights:check",
    "harvest": "app.steps:harvest",
    "discover": "app.steps:discover",
    "vote": "app.voting:vote",
    "label": "app.steps:label",
    "analyse": "app.rule_steps:analyse",
    "aggregate": "app.rule_steps:aggregate",
    "ladder": "app.rule_steps:ladder",
    "transfer": "app.rule_steps:transfer",
    "take labels": "app.rule_steps:take_labels",
    "train": "app.steps:train",
    "evaluate": "app.steps:evaluate",
    "threshold": "app.thresholds:choose",
    "filter": "app.steps:filter_corpus",
    "explain": "app.latent_steps:explain",
    "try": "app.latent_steps:try_text",
}
MAX_ATTEMPTS = 3  # a job that kills its worker this often is not tried again by itself
ACTIVE = ("queued", "running")


@dataclass(frozen=True)
class JobView:
    """What a step may know of the job that runs it."""

    id: int
    project_id: int | None
    args: dict[str, Any]
    author: str


class Pace(NamedTuple):
    """How fast the present stage goes, in its units a second, and how long it will still take."""

    rate: float
    remaining: float | None


def enqueue(session: Session, kind: str, project_id: int | None, args: dict[str, Any], author: str) -> Job:
    """Add a job; the same job still waiting or running is returned instead, so a double click runs it once."""
    assert kind in KINDS, kind
    waiting = select(Job).where(Job.kind == kind, Job.project_id == project_id, Job.state.in_(ACTIVE))
    for job in session.scalars(waiting):
        if job.args == args and not job.cancel_requested:
            return job
    job = Job(kind=kind, project_id=project_id, args=args, author=author)
    session.add(job)
    session.flush()
    return job


def _claimable() -> ColumnElement[bool]:
    return or_(Job.state == "queued", and_(Job.state == "running", Job.lease_until < now()))


def claim(session: Session, worker: str, lease: float) -> Job | None:
    """Take the oldest job that waits or whose worker fell silent. Two workers never get the same one.

    Commits by itself, so that the claim is visible before the step starts.
    """
    while (job := session.scalars(select(Job).where(_claimable()).order_by(Job.id).limit(1)).first()) is not None:
        values: dict[str, Any]
        if job.cancel_requested:
            values = {"state": "cancelled", "finished_at": now()}
        elif job.attempts >= MAX_ATTEMPTS:
            message = f"The worker stopped without a word {MAX_ATTEMPTS} times, most likely out of memory."
            values = {"state": "failed", "message": message, "finished_at": now()}
        else:
            until = now() + timedelta(seconds=lease)
            values = {"state": "running", "worker": worker, "lease_until": until, "attempts": job.attempts + 1,
                      "started_at": now(), "finished_at": None, "message": None, "traceback": None}  # fmt: skip
        taken = update(Job).where(Job.id == job.id, Job.attempts == job.attempts, _claimable()).values(**values)
        won = session.execute(taken, execution_options={"synchronize_session": False}).rowcount == 1  # type: ignore[attr-defined]
        session.commit()
        session.refresh(job)
        if won and values["state"] == "running":
            return job
        session.commit()
    return None


def request_cancel(session: Session, job: Job) -> None:
    """Ask a running job to stop; one that nobody runs is cancelled at once."""
    if job.state == "queued" or shown_state(job) == "interrupted":
        job.state, job.finished_at = "cancelled", now()
    elif job.state == "running":
        job.cancel_requested = True


def shown_state(job: Job) -> str:
    """The state as a person should read it: a stale lease is `interrupted`, an asked cancel `stopping`."""
    if job.state != "running":
        return job.state
    if job.lease_until is None or job.lease_until < now():
        return "interrupted"
    return "stopping" if job.cancel_requested else "running"


def is_active(job: Job) -> bool:
    return job.state in ACTIVE


def pace(job: Job) -> Pace | None:
    """The present stage's pace, once there is enough of it to judge.

    While a job runs, the worker keeps in `result["stage"]` when the stage began and at how many
    units (above 0 where a rerun skipped what was whole).
    """
    if job.state != "running" or "stage" not in job.result:
        return None
    began, first = job.result["stage"]
    elapsed, advanced = (now() - datetime.fromisoformat(began)).total_seconds(), job.done - first
    if elapsed < 2 or advanced <= 0:
        return None
    rate = advanced / elapsed
    return Pace(rate, (job.total - job.done) / rate if job.total else None)


def curves(session: Session, job_id: int) -> dict[str, list[tuple[float, float]]]:
    """Metric name -> (step, value) points in order; single figures are left out."""
    points = select(JobMetric.name, JobMetric.step, JobMetric.value).where(JobMetric.job_id == job_id)
    series: dict[str, list[tuple[float, float]]] = {}
    for name, step, value in session.execute(points.where(JobMetric.step.is_not(None)).order_by(JobMetric.id)):
        series.setdefault(name, []).append((step or 0, value))
    return series


def figures(session: Session, job_id: int) -> dict[str, float]:
    """Metric name -> newest single figure (a metric without a step)."""
    points = select(JobMetric.name, JobMetric.value).where(JobMetric.job_id == job_id, JobMetric.step.is_(None))
    return dict(session.execute(points.order_by(JobMetric.id)).tuples().all())
