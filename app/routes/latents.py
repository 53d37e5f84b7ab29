"""Candidate latents: the list, and people's verdicts."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import latents as candidates
from app import queries
from app.access import ProjectDep, TableDep
from app.artifacts import LatentTable
from app.db import SessionDep
from app.latents import PAGE, LatentQuery
from app.models import Project, Verdict
from app.pages import redirect, render
from app.queries import Page
from app.routes.jobs import job_context
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/latents")
Decision = Literal["accept", "reject", "unsure", "clear"]
MOST_AT_ONCE = 2000


def checked_query(query: Annotated[LatentQuery, Query()], table: TableDep) -> LatentQuery:
    """Refuses a column that the project's discovery does not have."""
    if table is not None and (unknown := candidates.unknown_columns(table, query)):
        raise HTTPException(422, f"This discovery has no column {unknown[0]}; discover again or choose another column.")
    return query


QueryDep = Annotated[LatentQuery, Depends(checked_query)]


def tally(verdicts: dict[int, Verdict]) -> dict[str, int]:
    decisions = [verdict.decision for verdict in verdicts.values()]
    return {decision: decisions.count(decision) for decision in ("accept", "reject", "unsure")}


def _list_context(session: Session, project: Project, table: LatentTable | None, query: LatentQuery) -> dict[str, Any]:
    if table is None:
        newest = queries.newest_jobs(session, project.id, ["harvest", "discover"], 1)
        return {"project": project, "query": query, "page": None, "jobs": [job_context(session, job) for job in newest]}
    verdicts, explanations = queries.verdicts_of(session, project), queries.explanations_of(session, project)
    ids = candidates.order(table, query, verdicts, explanations)
    number = queries.nearest_page(query.page, len(ids), PAGE)
    shown = ids[(number - 1) * PAGE : number * PAGE]
    return {
        "project": project,
        "query": query,
        "page": Page(candidates.rows(table, shown, verdicts, explanations), number, PAGE, len(ids)),
        "columns": candidates.columns_of(table),
        "shown_columns": candidates.SHOWN,
        "undecided": int(np.isin(ids, list(verdicts), invert=True).sum()),
        "tally": tally(verdicts),
        "d_sae": len(table),
        "l0": table.info.get("l0"),
        "complete": table.complete,
        "sides": queries.sides_of(session, project.id),
        "made_with": table.info.get("sides"),
    }


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, table: TableDep, query: QueryDep) -> Response:
    context = _list_context(session, project, table, query)
    return render(request, "latents/index.html", "latents/_table.html" if table else None, **context)


@router.post("/verdicts")
def judge_all(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    table: TableDep,
    query: QueryDep,
    user: CurrentUser,
    decision: Annotated[Literal["accept", "reject"], Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """One verdict for every latent of the current filter that has none."""
    if table is None or project.reference_id is None:
        raise HTTPException(409, "Run discovery first: there are no latents to judge yet.")
    verdicts, explanations = queries.verdicts_of(session, project), queries.explanations_of(session, project)
    found = [int(n) for n in candidates.order(table, query, verdicts, explanations) if int(n) not in verdicts]
    if len(found) > MOST_AT_ONCE:
        raise HTTPException(422, f"{len(found):,} latents are too many at once; narrow the filter to {MOST_AT_ONCE:,}.")
    note = note.strip() or f"all with ratio ≥ {query.ratio:g} and at least {query.minimum} strong forget tokens"
    for latent in found:
        session.add(_verdict(project, latent, decision, note, user))
    return redirect(request, f"/projects/{project.slug}/latents{query.link(page=1)}")


def _verdict(project: Project, latent: int, decision: str, note: str, user: str) -> Verdict:
    assert project.reference_id is not None
    return Verdict(
        project_id=project.id,
        reference_id=project.reference_id,
        latent=latent,
        decision=decision,
        note=note,
        author=user,
    )


def known(table: LatentTable | None, latent: int) -> LatentTable:
    if table is None or not 0 <= latent < len(table):
        raise HTTPException(404, f"There is no latent {latent} in this project's discovery.")
    return table


def panel(session: Session, project: Project, table: LatentTable, query: LatentQuery, latent: int) -> dict[str, Any]:
    """What the verdict panel shows: the state, its history, and the way on."""
    verdicts, explanations = queries.verdicts_of(session, project), queries.explanations_of(session, project)
    ids = candidates.order(table, query, verdicts, explanations)
    before, after, place = candidates.neighbours(ids, latent)
    return {
        "project": project,
        "query": query,
        "latent": latent,
        "values": candidates.values_of(table, latent),
        "verdicts": verdicts,
        "verdict": verdicts.get(latent),
        "explanation": explanations.get(latent),
        "history": queries.verdict_history(session, project, latent),
        "before": before,
        "after": after,
        "place": place,
        "found": len(ids),
    }


@router.post("/{latent}/verdict")
def judge(
    request: Request,
    latent: int,
    project: ProjectDep,
    session: SessionDep,
    table: TableDep,
    query: QueryDep,
    user: CurrentUser,
    decision: Annotated[Decision, Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
    scale: Annotated[float, Form(ge=0, le=1)] = 1.0,
) -> Response:
    """Comes back as the list's row (its bars drawn at the list's `scale`) or as the dashboard's panel."""
    found = known(table, latent)
    if project.reference_id is None:
        raise HTTPException(409, "The project has no reference; choose one first.")
    session.add(_verdict(project, latent, decision, note.strip(), user))
    session.flush()
    if "HX-Request" not in request.headers:
        return redirect(request, f"/projects/{project.slug}/latents/{latent}{query.link()}")
    context = panel(session, project, found, query, latent)
    if request.headers.get("HX-Target") == "verdict":
        return render(request, "latents/show.html", "latents/_verdict.html", **context)
    explanations = {latent: context["explanation"]} if context["explanation"] else {}
    context |= {"tally": tally(context["verdicts"]), "most": scale, "columns": candidates.columns_of(found)}
    context["shown_columns"] = candidates.SHOWN
    context["row"] = candidates.rows(found, np.array([latent]), context["verdicts"], explanations)[0]
    return render(request, "latents/index.html", "latents/_judged.html", **context)
