"""Jobs: the list of a project's, one widget that refreshes itself, cancelling and trying again."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import jobs
from app.db import SessionDep
from app.models import Job, Project
from app.pages import redirect, render
from app.security import CurrentUser

router = APIRouter()
SHOWN = 50


def get_job(session: Session, job_id: int) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise HTTPException(404, f"There is no job {job_id}.")
    return job


def job_context(session: Session, job: Job) -> dict[str, Any]:
    """What `_job.html` draws besides the row itself."""
    return {"job": job, "curves": jobs.curves(session, job.id), "figures": jobs.figures(session, job.id)}


@router.get("/projects/{slug}/jobs")
def index(request: Request, session: SessionDep, slug: str) -> Response:
    project = session.scalar(select(Project).where(Project.slug == slug))
    if project is None:
        raise HTTPException(404, f"There is no project {slug!r}.")
    newest = select(Job).where(Job.project_id == project.id).order_by(Job.id.desc()).limit(SHOWN)
    shown = [job_context(session, job) for job in session.scalars(newest)]
    return render(request, "jobs/index.html", "jobs/_list.html", project=project, shown=shown)


@router.get("/jobs/{job_id}")
def show(request: Request, session: SessionDep, job_id: int) -> Response:
    """The widget alone, for polling; opened in a browser, a page of its own with all details."""
    job = get_job(session, job_id)
    project = session.get(Project, job.project_id) if job.project_id else None
    return render(request, "jobs/show.html", "_job.html", project=project, **job_context(session, job))


@router.post("/jobs/{job_id}/cancel")
def cancel(request: Request, session: SessionDep, user: CurrentUser, job_id: int) -> Response:
    job = get_job(session, job_id)
    jobs.request_cancel(session, job)
    return _widget_or_page(request, session, job)


@router.post("/jobs/{job_id}/retry")
def retry(request: Request, session: SessionDep, user: CurrentUser, job_id: int) -> Response:
    """Queue the same job again; its step skips the shards that are whole."""
    job = get_job(session, job_id)
    if jobs.is_active(job):
        raise HTTPException(409, "This job is still active.")
    again = jobs.enqueue(session, job.kind, job.project_id, job.args, user)
    return _widget_or_page(request, session, again)


def _widget_or_page(request: Request, session: Session, job: Job) -> Response:
    session.flush()
    if "HX-Request" in request.headers:
        return render(request, "_job.html", **job_context(session, job))
    return redirect(request, f"/jobs/{job.id}")
