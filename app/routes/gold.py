"""Gold out to, and in from, other annotation tools."""

import shutil
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from app import queries
from app.access import ProjectDep, SettingsDep
from app.artifacts import folder_of
from app.db import SessionDep, reading
from app.gold import count_gold, gold_texts
from app.jobs import enqueue
from app.models import Artifact, Project
from app.pages import redirect, render
from app.routes.jobs import job_context
from app.security import CurrentUser
from labeling.documents import Rejection
from labeling.gold_formats import FORMATS

router = APIRouter(prefix="/projects/{slug}")


def _page(request: Request, project: Project, session: SessionDep, status: int = 200, **more: Any) -> Response:
    imports = queries.newest_jobs(session, project.id, ["gold"], 5)
    context = {
        "gold": count_gold(session, project.id), "formats": FORMATS.values(),
        "imports": [job_context(session, job) for job in imports], "form": {"format": "jsonl"}, "error": None,
    }  # fmt: skip
    partial = "gold/_form.html" if status == 422 else None
    return render(request, "gold/index.html", partial, status, project=project, **(context | more))


@router.get("/gold")
def index(request: Request, project: ProjectDep, session: SessionDep) -> Response:
    return _page(request, project, session)


@router.post("/gold")
def upload(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, user: CurrentUser,
    file: UploadFile, format: Annotated[str, Form(max_length=20)] = "",
) -> Response:  # fmt: skip
    if format not in FORMATS or not file.filename:
        error = f"format must be one of {', '.join(FORMATS)}" if file.filename else "choose a file"
        return _page(request, project, session, 422, error=error, form={"format": format})
    folder = settings.data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{uuid.uuid4().hex}{FORMATS[format].suffix}"
    with target.open("xb") as out:
        shutil.copyfileobj(file.file, out, 1024 * 1024)
    args = {"path": str(target.absolute()), "filename": file.filename, "format": format}
    enqueue(session, "gold", project.id, args, user)
    return redirect(request, f"/projects/{project.slug}/gold")


@router.get("/gold/left-out/{artifact_id}")
def left_out(project: ProjectDep, session: SessionDep, settings: SettingsDep, artifact_id: int) -> Response:
    """Every record an import left out, with its reason."""
    artifact = session.get(Artifact, artifact_id)
    if artifact is None or artifact.project_id != project.id or artifact.kind != "gold":
        raise HTTPException(404, "There is no such import in this project.")
    return FileResponse(
        folder_of(settings, artifact) / "left-out.jsonl", filename=f"{project.slug}-left-out-{artifact.id}.jsonl"
    )


@router.get("/gold.jsonl")
def gold(request: Request, project: ProjectDep) -> Response:
    return download(request, project, "jsonl")


@router.get("/gold/{format}")
def download(request: Request, project: ProjectDep, format: str) -> Response:
    """Everything that is gold, streamed from a session of its own."""
    chosen = FORMATS.get(format)
    if chosen is None:
        raise HTTPException(404, f"Gold can be had as {', '.join(FORMATS)}.")

    def pieces(session: Session) -> Iterator[bytes]:
        with session:
            for piece in chosen.write(gold_texts(session, project.id)):
                yield f"# left out: {piece.reason}\n\n".encode() if isinstance(piece, Rejection) else piece

    name = f"{project.slug}-gold{'' if format == 'jsonl' else '-' + format}{chosen.suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    kind = "application/jsonl" if chosen.suffix == ".jsonl" else "application/octet-stream"
    return StreamingResponse(pieces(reading(request.app.state.sessions)), media_type=kind, headers=headers)
