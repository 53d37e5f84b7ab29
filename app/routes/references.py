"""References: the list, a new one from sae-lens's registry or a folder, its preflight, and a comparison."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import preflights, queries
from app import reference_queries as found
from app.access import ProjectDep, SettingsDep
from app.artifacts import open_table
from app.db import SessionDep
from app.jobs import enqueue, is_active
from app.models import Reference
from app.pages import redirect, render
from app.queries import Page
from app.roles import Viewer, ViewerDep, memberships
from app.routes.jobs import job_context
from app.security import CurrentUser
from app.server_paths import checked_folder, checkpoints
from app.settings import Settings
from labeling.sae_registry import search

router = APIRouter()
SHOWN = 50
NAME = re.compile(r"[\w][\w.-]{0,79}")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SAE_ID = re.compile(r"[\w.-]+(/[\w.:+-]+)+")


def get_reference(reference_id: int, session: SessionDep) -> Reference:
    row = session.get(Reference, reference_id) if reference_id < 2**31 else None
    if row is None:
        raise HTTPException(404, "There is no such reference.")
    return row


ReferenceDep = Annotated[Reference, Depends(get_reference, scope="function")]


def _index(
    request: Request, session: Session, settings: Settings, viewer: Viewer, form: dict[str, str], error: str | None = None
) -> Response:  # fmt: skip
    models, saes = checkpoints(settings) if viewer.may("admin") else ([], [])
    jobs = [job for job in found.adding_jobs(session) if is_active(job) or job.state == "failed"]
    return render(
        request, "references/index.html", "references/_form.html" if error else None, 422 if error else 200,
        references=queries.references(session), form=form, error=error, models=models, saes=saes,
        jobs=[job_context(session, job) for job in jobs],
    )  # fmt: skip


@router.get("/references")
def index(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    viewer: ViewerDep,
    model: Annotated[str, Query(max_length=500)] = "",
    sae: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """The list; `model` and `sae` fill the form, as a row of the registry does."""
    return _index(request, session, settings, viewer, {"model": model, "sae": sae})


@router.post("/references")
def add(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    viewer: ViewerDep,
    name: Annotated[str, Form(max_length=80)] = "",
    model: Annotated[str, Form(max_length=500)] = "",
    sae: Annotated[str, Form(max_length=500)] = "",
    layer: Annotated[str, Form(max_length=4)] = "",
) -> Response:
    """Fetching and checking take a while and need torch: a job."""
    form = {"name": name.strip(), "model": model.strip(), "sae": sae.strip(), "layer": layer.strip()}
    try:
        args = _checked(form, settings, viewer)
    except ValueError as error:
        return _index(request, session, settings, viewer, form, str(error))
    enqueue(session, "reference", None, args, viewer.name)
    return redirect(request, "/references")


def _checked(form: dict[str, str], settings: Settings, viewer: Viewer) -> dict[str, str | int]:
    """The job's arguments. Raises ValueError naming the field."""
    if not NAME.fullmatch(form["name"]):
        raise ValueError("give it a name of letters, digits, '-', '_' and '.'")
    args: dict[str, str | int] = {"name": form["name"]}
    for field, known, example in (("model", HUB_ID, "google/gemma-2-2b"), ("sae", SAE_ID, "release/sae_id")):
        value = form[field]
        if value.startswith(("/", "~")):
            if not viewer.may("admin"):
                raise ValueError(
                    f"{field}: only an admin may name a folder on the server; give an id such as {example}"
                )
            value = str(checked_folder(value, [*settings.import_roots, settings.data_dir]))
        elif not known.fullmatch(value) or ".." in value:
            raise ValueError(f"{field}: give an id such as {example}, or the full path of a folder on the server")
        args[field] = value
    if form["layer"]:
        if not form["layer"].isdecimal():
            raise ValueError("layer: give a block's number, or leave it empty")
        args["layer"] = int(form["layer"])
    return args


@router.get("/references/registry")
def registry(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    every: bool = False,
) -> Response:
    """sae-lens's registry, read without sae-lens; `every` also shows what cannot be used here, and why."""
    entries = search(q, usable=not every)
    number = queries.nearest_page(page, len(entries), SHOWN)
    rows = Page(entries[(number - 1) * SHOWN : number * SHOWN], number, SHOWN, len(entries))
    return render(request, "references/registry.html", "references/_registry.html", page=rows, q=q, every=every)


@router.get("/references/{reference_id}")
def show(request: Request, session: SessionDep, reference: ReferenceDep, viewer: ViewerDep) -> Response:
    return _show(request, session, reference, viewer)


def _show(
    request: Request, session: Session, reference: Reference, viewer: Viewer, error: str | None = None
) -> Response:
    """Its parts, and its preflight on each project that the viewer may see."""
    rows = found.checked_projects(session, reference.id, memberships(session, viewer))
    newest = found.preflight_jobs(session, reference.id, [project.id for project, *_ in rows])
    return render(
        request, "references/show.html", "references/_checklist.html", 422 if error else 200,
        reference=reference, rows=rows, error=error, checking=any(map(is_active, newest)),
        jobs=[job_context(session, job) for job in newest if is_active(job) or job.state == "failed"],
    )  # fmt: skip


@router.post("/projects/{slug}/references/{reference_id}/preflight")
def check(
    request: Request, session: SessionDep, reference: ReferenceDep, project: ProjectDep, user: CurrentUser
) -> Response:
    """Run the checklist on 2,000 tokens of a project's text."""
    enqueue(session, "preflight", project.id, {"reference_id": reference.id}, user)
    return redirect(request, f"/references/{reference.id}")


@router.post("/projects/{slug}/references/{reference_id}/override")
def override(
    request: Request, session: SessionDep, reference: ReferenceDep, project: ProjectDep, viewer: ViewerDep,
    reason: Annotated[str, Form(max_length=2000)] = "",
) -> Response:  # fmt: skip
    """Harvest although a check failed; the reason is kept."""
    checked = preflights.newest_preflight(session, reference.id, project.id)
    try:
        preflights.override(session, checked, reason, viewer.name)
    except ValueError as error:
        return _show(request, session, reference, viewer, str(error))
    return redirect(request, f"/references/{reference.id}")


@router.get("/projects/{slug}/references")
def compare(request: Request, session: SessionDep, settings: SettingsDep, project: ProjectDep) -> Response:
    """All references on one corpus, side by side."""
    rows = found.compared(session, project)
    curves = {r.reference.name: found.selectivity(open_table(settings, r.discovery)) for r in rows if r.discovery}
    return render(
        request, "references/compare.html", project=project, rows=rows, curves=curves,
        families=queries.families_of(session, project.id), labelled=[row for row in rows if row.labels],
    )  # fmt: skip
