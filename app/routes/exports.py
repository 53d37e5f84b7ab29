"""Filter runs: files through a classifier into files."""

import shutil
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request, UploadFile
from fastapi.responses import Response

from app import jobs, queries
from app import review_queries as review
from app.access import ProjectDep, SettingsDep
from app.archives import zip_response
from app.artifacts import folder_of
from app.db import SessionDep
from app.models import Artifact, Project
from app.pages import redirect, render
from app.security import CurrentUser
from app.server_paths import checked
from app.settings import Settings
from labeling.documents import SUFFIXES, format_of

router = APIRouter(prefix="/projects/{slug}/filters")
TREATMENTS = {
    "mask": "forget tokens stay as context; their loss is left out",
    "remove": "forget tokens are replaced by one placeholder and not learned",
    "document": "documents with too many forget tokens are dropped whole",
}


def _page(
    request: Request, project: Project, session: SessionDep, settings: Settings, form: dict[str, Any],
    error: str | None = None, status: int = 200,
) -> Response:  # fmt: skip
    runs = review.filter_runs(session, project.id)
    return render(
        request, "exports/index.html", "exports/_form.html" if error else None, status,
        project=project, runs=runs, classifiers=queries.classifiers_of(session, project.id), treatments=TREATMENTS,
        roots=settings.import_roots, suffixes=SUFFIXES, form=form, error=error,
        curves={job.id: jobs.curves(session, job.id) for job, _ in runs},
        figures={job.id: jobs.figures(session, job.id) for job, _ in runs},
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Response:
    return _page(request, project, session, settings, {"treatment": "mask", "cut": "own"})


@router.post("")
def start(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    user: CurrentUser,
    classifier_id: Annotated[int, Form(ge=1, lt=2**31)],
    treatment: Annotated[str, Form(max_length=20)] = "mask",
    cut: Annotated[Literal["own", "threshold", "budget"], Form()] = "own",
    threshold: Annotated[str, Form(max_length=20)] = "",
    budget: Annotated[str, Form(max_length=20)] = "",
    path: Annotated[str, Form(max_length=4000)] = "",
    files: list[UploadFile] = [],  # noqa: B006 (FastAPI copies it)
) -> Response:
    if review.classifier_of(session, project.id, classifier_id) is None:
        raise HTTPException(404, "There is no such classifier in this project.")
    form = {"classifier_id": classifier_id, "treatment": treatment, "cut": cut}
    form |= {"threshold": threshold, "budget": budget, "path": path}
    try:
        args = {"classifier_id": classifier_id, **chosen_cut(treatment, cut, threshold, budget)}
        args["inputs"] = inputs_of(path.strip(), [file for file in files if file.filename], settings)
    except ValueError as error:
        return _page(request, project, session, settings, form, str(error), 422)
    jobs.enqueue(session, "filter", project.id, args, user)
    return redirect(request, f"/projects/{project.slug}/filters")


def chosen_cut(treatment: str, cut: str, threshold: str, budget: str) -> dict[str, Any]:
    """Treatment and, if chosen, a threshold or a budget. Raises ValueError."""
    if treatment not in TREATMENTS:
        raise ValueError(f"treatment must be one of {', '.join(TREATMENTS)}")
    if cut == "own":
        return {"treatment": treatment}
    try:
        value = float(threshold if cut == "threshold" else budget)
    except ValueError:
        value = -1.0
    if cut == "budget":
        if not 0 < value <= 100:
            raise ValueError("the budget is the share of tokens to remove, in percent: more than 0, at most 100")
        return {"treatment": treatment, "budget": value / 100}
    if not 0 < value < 1:
        raise ValueError("the threshold is a probability between 0 and 1")
    return {"treatment": treatment, "threshold": value}


def inputs_of(path: str, uploads: list[UploadFile], settings: Settings) -> list[str]:
    """Server path or uploads, as absolute paths. Raises ValueError if neither, both, or not allowed."""
    if bool(path) == bool(uploads):
        raise ValueError("choose files to upload or give the path of one on the server: one of the two")
    if path:
        found = checked(path, settings.import_roots)
        format_of(found.name)
        return [str(found)]
    suffixes = [format_of(upload.filename or "") for upload in uploads]
    folder = settings.data_dir / "uploads"
    return [str(_save(upload, suffix, folder)) for upload, suffix in zip(uploads, suffixes, strict=True)]


def _save(upload: UploadFile, suffix: str, folder: Path) -> Path:
    """Under a name of our own: the browser's only says how to read the file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{uuid.uuid4().hex}{suffix}"
    with target.open("xb") as file:
        shutil.copyfileobj(upload.file, file, 1024 * 1024)
    return target.absolute()


@router.get("/{artifact_id}/download")
def download(project: ProjectDep, session: SessionDep, settings: SettingsDep, artifact_id: int) -> Response:
    """A run's shards, sidecar and manifest as a zip."""
    artifact = session.get(Artifact, artifact_id)
    if artifact is None or artifact.project_id != project.id or artifact.kind != "filter":
        raise HTTPException(404, "There is no such filter run in this project.")
    return zip_response(folder_of(settings, artifact), "filter", f"{project.slug}-filter-{artifact.id}")
