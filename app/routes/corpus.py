"""The corpus: families and their sides, documents, files taken in."""

import shutil
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import Response

from app import queries
from app.access import ProjectDep, SettingsDep
from app.db import SessionDep
from app.jobs import enqueue
from app.models import Family, Import, Project
from app.pages import is_fragment, redirect, render
from app.routes.jobs import job_context
from app.security import CurrentUser
from labeling.documents import SIDES, SUFFIXES, format_of

router = APIRouter(prefix="/projects/{slug}/corpus")


def _context(session: SessionDep, project: Project, **more: Any) -> dict[str, Any]:
    return {
        "project": project,
        "families": queries.families_of(session, project.id),
        "counts": queries.document_counts(session, project.id),
        "splits": queries.SPLITS,
        "sides": SIDES,
        "suffixes": SUFFIXES,
        "imports": queries.imports_of(session, project.id),
        "jobs": [job_context(session, job) for job in queries.newest_jobs(session, project.id, ["import"], 3)],
        "form": {},
        "error": None,
    } | more


@router.get("")
def index(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    q: Annotated[str, Query(max_length=200)] = "",
    family: str = "",
    split: str = "",
    page: int = 1,
) -> Response:
    documents = queries.documents_page(session, project.id, q, family, split, page)
    context: dict[str, Any] = {"documents": documents, "q": q, "family": family, "split": split, "project": project}
    if not is_fragment(request):
        context |= _context(session, project)
    return render(request, "corpus/index.html", "corpus/_documents.html", **context)


def _save(upload: UploadFile, folder: Path) -> Path:
    """Under a name of our own: the browser's only says how to read the file."""
    suffix = format_of(upload.filename or "")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{uuid.uuid4().hex}{suffix}"
    with target.open("xb") as file:
        shutil.copyfileobj(upload.file, file, 1024 * 1024)
    return target.absolute()


@router.post("")
def upload(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    user: CurrentUser,
    file: UploadFile,
    family: Annotated[str, Form(max_length=200)] = "",
    side: Annotated[str, Form()] = "unknown",
    text_field: Annotated[str, Form(max_length=200)] = "text",
    id_field: Annotated[str, Form(max_length=200)] = "id",
) -> Response:
    form = {"family": family.strip(), "side": side}
    form |= {"text_field": text_field.strip() or "text", "id_field": id_field.strip() or "id"}
    try:
        if not form["family"]:
            raise ValueError("name the family (source register) these documents belong to")
        if side not in SIDES:
            raise ValueError(f"side must be one of {', '.join(SIDES)}")
        declared = queries.sides_of(session, project.id).get(form["family"], side)
        if declared != side:
            raise ValueError(
                f"family {form['family']!r} is declared {declared}; choose that side or change the family first"
            )
        path = _save(file, settings.data_dir / "uploads")
    except ValueError as error:
        documents = queries.documents_page(session, project.id)
        context = _context(
            session, project, documents=documents, q="", family="", split="", form=form, error=str(error)
        )
        return render(request, "corpus/index.html", "corpus/_form.html", 422, **context)
    enqueue(session, "import", project.id, {"path": str(path), "filename": file.filename, **form}, user)
    return redirect(request, f"/projects/{project.slug}/corpus")


@router.post("/families/{family_id}")
def set_side(
    request: Request, family_id: int, project: ProjectDep, session: SessionDep, side: Annotated[str, Form()]
) -> Response:
    family = session.get(Family, family_id)
    if family is None or family.project_id != project.id:
        raise HTTPException(404, "There is no such family in this project.")
    if side not in SIDES:
        raise HTTPException(422, f"side must be one of {', '.join(SIDES)}")
    family.side = side
    if not is_fragment(request):
        return redirect(request, f"/projects/{project.slug}/corpus")
    session.flush()
    return render(request, "corpus/_families.html", **_context(session, project))


@router.get("/imports/{import_id}")
def issues(request: Request, import_id: int, project: ProjectDep, session: SessionDep, page: int = 1) -> Response:
    """The rows one import left out, and why."""
    taken = session.get(Import, import_id)
    if taken is None or taken.project_id != project.id:
        raise HTTPException(404, "There is no such import in this project.")
    found = queries.issues_page(session, import_id, page)
    return render(request, "corpus/issues.html", "corpus/_issues.html", project=project, taken=taken, issues=found)
