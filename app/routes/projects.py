"""Projects: the list, a new one, and where one stands."""

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from app import queries
from app.access import ProjectDep, StoreDep
from app.db import SessionDep
from app.jobs import enqueue
from app.models import Project, Reference
from app.overview import next_step, steps
from app.pages import redirect, render
from app.roles import ViewerDep, join_project, memberships
from app.routes.jobs import job_context
from app.security import CurrentUser

router = APIRouter()


@router.get("/")
def home() -> Response:
    return RedirectResponse("/projects", status_code=303)


def _mine(session: SessionDep, viewer: ViewerDep) -> list[tuple[Project, int, int, int]]:
    mine = memberships(session, viewer)
    return [row for row in queries.projects_with_counts(session) if mine is None or row[0].id in mine]


@router.get("/projects")
def index(request: Request, session: SessionDep, viewer: ViewerDep) -> Response:
    return render(request, "projects/index.html", projects=_mine(session, viewer), form={}, error=None)


@router.post("/projects")
def create(
    request: Request,
    session: SessionDep,
    viewer: ViewerDep,
    name: Annotated[str, Form(max_length=120)] = "",
    includes: Annotated[str, Form(max_length=20_000)] = "",
    excludes: Annotated[str, Form(max_length=20_000)] = "",
) -> Response:
    try:
        project = queries.create_project(session, name, includes, excludes, viewer.name)
        join_project(session, viewer, project.id)
    except ValueError as error:
        form = {"name": name, "includes": includes, "excludes": excludes}
        projects = _mine(session, viewer)
        return render(
            request, "projects/index.html", "projects/_form.html", 422, projects=projects, form=form, error=str(error)
        )  # fmt: skip
    return redirect(request, f"/projects/{project.slug}")


@router.get("/projects/{slug}")
def show(request: Request, project: ProjectDep, session: SessionDep, store: StoreDep) -> Response:
    flow = steps(session, project)
    return render(
        request,
        "projects/show.html",
        project=project,
        flow=flow,
        next=next_step(flow),
        families=queries.families_of(session, project.id),
        counts=queries.document_counts(session, project.id),
        splits=queries.SPLITS,
        store=store,
        labels=queries.newest_label_set(session, project.id),
        jobs=[job_context(session, job) for job in queries.newest_jobs(session, project.id, limit=3)],
        definition=queries.definition_of(session, project.id),
        references=queries.references(session),
    )


@router.post("/projects/{slug}/definition")
def define(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    includes: Annotated[str, Form(max_length=20_000)] = "",
    excludes: Annotated[str, Form(max_length=20_000)] = "",
) -> Response:
    queries.revise_definition(session, project.id, includes, excludes, user)
    return redirect(request, f"/projects/{project.slug}#definition")


@router.post("/projects/{slug}/reference")
def choose_reference(
    request: Request, project: ProjectDep, session: SessionDep, reference_id: Annotated[int, Form()]
) -> Response:
    if session.get(Reference, reference_id) is None:
        raise HTTPException(404, "There is no such reference.")
    project.reference_id = reference_id
    return redirect(request, f"/projects/{project.slug}")


@router.post("/projects/{slug}/discover")
def discover(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    again: Annotated[bool, Form()] = False,
) -> Response:
    """Rank the latents, after a harvest if there was none yet (or `again` is asked for)."""
    if project.reference_id is None:
        raise HTTPException(409, "Choose a reference (model and SAE) first.")
    if not queries.document_counts(session, project.id):
        raise HTTPException(409, "Import some documents first.")
    enqueue(session, "discover", project.id, {"again": True} if again else {}, user)
    return redirect(request, f"/projects/{project.slug}")
