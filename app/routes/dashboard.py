"""One latent's dashboard, and a person's own text run through it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import dashboard, jobs, queries
from app.access import ProjectDep, SettingsDep, StoreDep, TableDep
from app.artifacts import LatentTable, LatentWeights, open_weights
from app.dashboard import Texts
from app.db import SessionDep
from app.latents import nearest_family
from app.models import Job, Project
from app.pages import is_fragment, redirect, render
from app.routes.jobs import job_context
from app.routes.latents import QueryDep, known, panel
from app.security import CurrentUser
from app.settings import Settings
from labeling.evidence import Firings, token_profile

router = APIRouter(prefix="/projects/{slug}/latents")
Sample = Literal["all", "top", "75", "50", "25"]


def weights_of(session: Session, settings: Settings, project: Project) -> LatentWeights | None:
    artifact = queries.weights_of(session, project.reference_id) if project.reference_id else None
    return open_weights(settings, artifact) if artifact else None


@router.get("/{latent}")
def show(
    request: Request, latent: int, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep,
    table: TableDep, query: QueryDep, family: str = "", at: Sample = "all",
) -> Response:  # fmt: skip
    """The evidence; asked for as a fragment, its examples alone."""
    found = known(table, latent)
    if store is None:
        raise HTTPException(404, "The project's activation store is gone; harvest again.")
    firings, texts = Firings.of(store, latent), Texts(session, project)
    groups = dashboard.example_groups(firings, texts, float(found["max"][latent]), at, family)
    context: dict[str, Any] = {"project": project, "latent": latent, "query": query, "family": family, "at": at}
    context |= {"groups": groups, "families": found.families, "peak": float(found["max"][latent])}
    if not is_fragment(request):
        weights, sides = weights_of(session, settings, project), queries.sides_of(session, project.id)
        context |= panel(session, project, found, query, latent) | dashboard.pictures(firings, found, sides, latent)
        context |= {
            "sides": sides,
            "complete": found.complete,
            "surfaces": found.surfaces(latent),
            "nearest": nearest_family(found, latent),
            "profile": token_profile(firings, found.words) if found.words else None,
            "near": dashboard.near(found, weights, context["verdicts"], latent),
            "weights": weights,
            "neuronpedia": dashboard.neuronpedia(weights, latent),
            "can_explain": bool(settings.explain_url),
        }
    return render(request, "latents/show.html", "latents/_examples.html", **context)


@router.post("/{latent}/trials")
def start_trial(
    request: Request,
    latent: int,
    project: ProjectDep,
    session: SessionDep,
    table: TableDep,
    user: CurrentUser,
    text: Annotated[str, Form(min_length=1, max_length=4000)],
) -> Response:
    """Queue the text for a worker: the web process has no model."""
    known(table, latent)
    if project.reference_id is None:
        raise HTTPException(409, "The project has no reference; choose one first.")
    args = {"latent": latent, "text": text, "reference_id": project.reference_id}
    job = jobs.enqueue(session, "try", project.id, args, user)
    where = f"/projects/{project.slug}/latents/{latent}/trials/{job.id}"
    if not is_fragment(request):
        return redirect(request, where)
    return render(request, "latents/trial.html", "latents/_trial.html", **_trial(session, project, table, job))


@router.get("/{latent}/trials/{job_id}")
def trial(
    request: Request, latent: int, job_id: int, project: ProjectDep, session: SessionDep, table: TableDep
) -> Response:
    """The text shaded, or how far the job is."""
    job = session.get(Job, job_id)
    if job is None or job.kind != "try" or job.project_id != project.id or job.args["latent"] != latent:
        raise HTTPException(404, f"There is no text {job_id} tried on latent {latent}.")
    return render(request, "latents/trial.html", "latents/_trial.html", **_trial(session, project, table, job))


def _trial(session: Session, project: Project, table: LatentTable | None, job: Job) -> dict[str, Any]:
    latent, text, tokens = int(job.args["latent"]), job.args["text"], job.result.get("tokens") or []
    starts, ends, values = zip(*tokens, strict=True) if tokens else ((), (), ())
    top = max([float(known(table, latent)["max"][latent]), *values])
    context = {"project": project, "latent": latent, "text": text, "strongest": max(values, default=0.0), "peak": top}
    return context | job_context(session, job) | {"pieces": dashboard.shaded(text, starts, ends, values, top)}
