"""The sealed documents and the access log. Looking at this page shows no document."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import access_log, sealing
from app.access import ProjectDep
from app.db import SessionDep
from app.models import Project
from app.pages import redirect, render
from app.roles import ViewerDep

router = APIRouter(prefix="/projects/{slug}/sealed")


def _page(
    request: Request, project: Project, session: Session, status: int = 200, error: str | None = None
) -> Response:
    return render(
        request, "sealed/index.html", status=status,
        project=project, families=sealing.families(session, project.id), error=error,
        revealed=sealing.revealed(session, project.id), log=access_log.entries(session, project.id),
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep) -> Response:
    return _page(request, project, session)


@router.post("/seal")
def seal(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep,
    per_family: Annotated[int, Form(ge=1, le=1_000_000)],
) -> Response:  # fmt: skip
    try:
        sealing.seal(session, project.id, per_family, viewer)
    except ValueError as error:
        return _page(request, project, session, 422, str(error))
    return redirect(request, f"/projects/{project.slug}/sealed")


@router.post("/reveal")
def reveal(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep,
    reason: Annotated[str, Form(max_length=2000)] = "",
) -> Response:  # fmt: skip
    try:
        sealing.reveal(session, project.id, reason, viewer)
    except ValueError as error:
        return _page(request, project, session, 422, str(error))
    return redirect(request, f"/projects/{project.slug}/sealed")
