"""Leave one family out: the transfer matrix."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import Response

from app import queries
from app.access import ProjectDep, SettingsDep
from app.db import SessionDep
from app.pages import redirect, render
from app.rule_results import page_context, start
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/rule/transfer")


def shade(share: float | None, side: str) -> str:
    """h0 … h9 of static/plots.css, in the colour of the family's side."""
    return (
        ""
        if share is None
        else f"heat {side} h{min(9, int(share * 10 + 0.999) if share < 0.1 else int(share * 10) + 1)}"
    )


def matrix(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows with their cells, forget families first in both directions."""
    order = sorted(range(len(said["families"])), key=lambda i: (said["families"][i]["side"] != "forget", said["families"][i]["side"], said["families"][i]["name"]))  # fmt: skip
    place = {said["families"][i]["name"]: at for at, i in enumerate(order)}
    base = said["rows"][0]["shares"]
    rows = []
    for row in sorted(said["rows"], key=lambda r: -1 if r["held_out"] is None else place[r["held_out"]]):
        cells = []
        for i in order:
            family, share = said["families"][i], row["shares"][i]
            change = share - base[i] if share is not None and base[i] is not None else None
            cells.append({"share": share, "change": change, "class": shade(share, family["side"]),
                          "own": family["name"] == row["held_out"]})  # fmt: skip
        rows.append(row | {"cells": cells})
    return rows


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Response:
    context = page_context(session, settings, project, "transfer", "transfer")
    if found := context["found"]:
        families = sorted(found.said["families"], key=lambda f: (f["side"] != "forget", f["side"], f["name"]))
        context |= {"rows": matrix(found.said), "families": families}
    sides = queries.sides_of(session, project.id)
    return render(request, "transfer/index.html", sides=sides, **context)


@router.post("")
def leave_out(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    ratio: Annotated[float, Form(gt=0, le=10**6, allow_inf_nan=False)] = 10,
    minimum: Annotated[int, Form(ge=0, le=10**9)] = 20,
    z: Annotated[float, Form(ge=0, le=100, allow_inf_nan=False)] = 4,
    among: Annotated[Literal["all", "rule"], Form()] = "all",
) -> Response:
    """Queue a selection without each family in turn."""
    if start(session, project, "transfer", user, ratio=ratio, minimum=minimum, z=z, among=among) is None:
        raise HTTPException(409, "Save a rule first: its k, z and boundary label each selection.")
    return redirect(request, f"/projects/{project.slug}/rule/transfer")
