"""Who reads what: sharing documents out, and how far everybody is."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app import accounts, assignments, queries
from app.access import ProjectDep
from app.db import SessionDep
from app.gold import SPLITS
from app.models import Project
from app.pages import redirect, render
from app.review_queries import Filters
from app.review_queue import ORDERS, Desk, desk, ordered
from app.roles import ViewerDep
from app.routes.review import SourcesDep

router = APIRouter(prefix="/projects/{slug}/assignments")
Order = Literal["strata", "random", "flagged", "disagreement", "uncertain", "all"]
ORDER_NAMES = ("strata", "random", "flagged", "disagreement", "uncertain", "all")
FORM: dict[str, Any] = {
    "why": "strata",
    "family": "",
    "split": "",
    "count": 50,
    "readers": 2,
    "blind": True,
    "users": [],
}


def _page(
    request: Request, project: Project, session: Session, status: int = 200, form: dict[str, Any] = FORM,
    error: str | None = None,
) -> Response:  # fmt: skip
    people = accounts.members(session, project.id)
    return render(
        request, "assignments/index.html", "assignments/_form.html" if error else None, status,
        project=project, members=assignments.members_of(session, project.id, people),
        families=list(queries.sides_of(session, project.id)), splits=SPLITS,
        orders=[(name, ORDERS[name]) for name in ORDER_NAMES], form=form, error=error,
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep) -> Response:
    return _page(request, project, session)


@router.post("")
def share_out(
    request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep, sources: SourcesDep,
    count: Annotated[int, Form(ge=1, le=100_000)], readers: Annotated[int, Form(ge=1, le=20)] = 1,
    why: Annotated[Order, Form()] = "strata", family: Annotated[str, Form(max_length=200)] = "",
    split: Annotated[Literal["", "train", "validation", "test", "revealed"], Form()] = "",
    blind: Annotated[bool, Form()] = False,
    users: Annotated[list[str], Form()] = [],  # noqa: B006 (FastAPI copies it)
) -> Response:  # fmt: skip
    """Give the next documents of a queue to these people; documents somebody has already are passed over."""
    form = {
        "why": why,
        "family": family,
        "split": split,
        "count": count,
        "readers": readers,
        "blind": blind,
        "users": users,
    }
    try:
        known = {account.name for account in accounts.members(session, project.id)}
        if not users or not known.issuperset(users):
            raise ValueError("choose who is to read, among the members of this project")
        free = _free(desk(session, project, sources, viewer), Filters(why, family, split), count)
        if not free:
            raise ValueError("no such document is left to assign; loosen the filters")
        pairs = assignments.share_out(free, users, readers)
    except ValueError as error:
        return _page(request, project, session, 422, form, str(error))
    assignments.assign(session, pairs, blind, viewer.name)
    return redirect(request, f"/projects/{project.slug}/assignments")


def _free(at: Desk, filters: Filters, count: int) -> list[int]:
    """The first documents of a queue that nobody is assigned to."""
    ids = ordered(at, filters)
    taken = assignments.assigned_ids(at.session, at.project.id)
    return [int(id_) for id_ in ids[~np.isin(ids, list(taken))][:count]]
