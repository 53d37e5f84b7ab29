"""Agreement between annotators, and adjudication of what they dispute."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Path, Request
from fastapi.responses import Response

from app import adjudication
from app.access import ProjectDep
from app.adjudication import Read, closed_to, questions, read_twice
from app.db import SessionDep
from app.pages import redirect, render
from app.review_queries import StaleVersion, newest_annotation
from app.roles import ViewerDep

router = APIRouter(prefix="/projects/{slug}")


def get_read(
    project: ProjectDep, session: SessionDep, viewer: ViewerDep, document_id: Annotated[int, Path(ge=1, lt=2**31)]
) -> Read:
    found = read_twice(session, project.id, document_id)
    if not found:
        raise HTTPException(404, "There is no such document in this project that two people finished.")
    if document_id in closed_to(session, project.id, viewer):
        raise HTTPException(403, "You read this document blind: finish it before you see what others say.")
    return found[0]


ReadDep = Annotated[Read, Depends(get_read, scope="function")]


@router.get("/agreement")
def index(request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep) -> Response:
    reads = read_twice(session, project.id)
    closed = closed_to(session, project.id, viewer)
    open_ones = [read for read in reads if not read.adjudicated and read.disputed]
    return render(
        request, "agreement/index.html",
        project=project, table=adjudication.agreement_table(reads), closed=closed,
        disputed=sorted(open_ones, key=lambda r: -sum(e - s for s, e in r.disputed)),
        decided=[read for read in reads if read.adjudicated],
    )  # fmt: skip


@router.get("/adjudication/{document_id}")
def show(request: Request, project: ProjectDep, session: SessionDep, read: ReadDep) -> Response:
    head = newest_annotation(session, read.document.id)
    return render(
        request, "agreement/show.html",
        project=project, read=read, questions=questions(read), version=head.version if head else 0,
    )  # fmt: skip


@router.post("/adjudication/{document_id}")
def decide(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep, read: ReadDep,
    version: Annotated[int, Form(ge=0, lt=2**31)], seen: Annotated[str, Form(max_length=10_000)],
    forget: Annotated[list[str], Form()] = [],  # noqa: B006 (FastAPI copies it)
) -> Response:  # fmt: skip
    """`forget` holds the disputed stretches that are forget, as START-END; the others are retain."""
    try:
        chosen = {(int(start), int(end)) for start, _, end in (item.partition("-") for item in forget)}
        if seen != read.seen:
            raise HTTPException(409, "Somebody changed this document since this page was loaded; look at it again.")
        adjudication.adjudicate(session, read, chosen, version, viewer.name)
    except StaleVersion:
        raise HTTPException(409, "Somebody else adjudicated this document meanwhile; look at it again.") from None
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return redirect(request, f"/projects/{project.slug}/agreement")
