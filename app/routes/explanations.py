"""Explanations of latents by a language model: what it would cost, then the job."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import explaining, jobs, queries
from app import latents as candidates
from app.access import ProjectDep, SettingsDep, TableDep
from app.artifacts import LatentTable
from app.db import SessionDep
from app.latents import LatentQuery
from app.models import Project
from app.pages import redirect, render
from app.routes.latents import QueryDep, known
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/explanations")
MOST_AT_ONCE = 500
Only = Annotated[int | None, Query(ge=0)]


def _chosen(
    session: Session, project: Project, table: LatentTable | None, query: LatentQuery, only: int | None
) -> list[int]:
    """One latent, or all that the list's filter finds."""
    if table is None or project.reference_id is None:
        raise HTTPException(409, "Run discovery first: there are no latents to explain yet.")
    if only is not None:
        known(table, only)
        return [only]
    verdicts, explanations = queries.verdicts_of(session, project), queries.explanations_of(session, project)
    return [int(n) for n in candidates.order(table, query, verdicts, explanations)][:MOST_AT_ONCE]


@router.get("")
def preview(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, table: TableDep,
    query: QueryDep, latent: Only = None,
) -> Response:  # fmt: skip
    """Tokens and price before anything is sent."""
    chosen = _chosen(session, project, table, query, latent)
    context: dict[str, Any] = {"project": project, "query": query, "latent": latent, "chosen": chosen}
    context["most"] = MOST_AT_ONCE
    if settings.explain_url:
        context |= {"estimate": explaining.estimate(session, settings, project, chosen)}
        context |= {"host": urlsplit(settings.explain_url).hostname, "model": settings.explain_model}
    return render(request, "explanations/index.html", "explanations/_preview.html", **context)


@router.post("")
def run(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, table: TableDep,
    query: QueryDep, user: CurrentUser, latent: Only = None,
) -> Response:  # fmt: skip
    chosen = _chosen(session, project, table, query, latent)
    if not settings.explain_url:
        raise HTTPException(409, "No endpoint is configured; set TOKENSIEVE_EXPLAIN_URL and TOKENSIEVE_EXPLAIN_MODEL.")
    job = jobs.enqueue(session, "explain", project.id, {"latents": chosen}, user)
    return redirect(request, f"/jobs/{job.id}")
