"""LF analysis: what each labeling function of a rule contributes, over train documents."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app import plots
from app.access import ProjectDep, SettingsDep
from app.db import SessionDep
from app.pages import redirect, render
from app.rule_results import Finding, page_context, start
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/rule/analysis")
Column = Literal[
    "name", "kind", "side", "coverage", "overlap", "conflict", "precision", "recall", "judged", "group", "redundancy",
    "lost", "gained", "f1_without", "family",
]  # fmt: skip
PAGE = 50


class AnalysisQuery(BaseModel):
    """What the table shows, as the address says it."""

    sort: Column = "coverage"
    down: bool = True
    family: Annotated[str, Field(max_length=200)] = ""
    page: Annotated[int, Field(ge=1, le=10**6)] = 1
    version: Annotated[int | None, Field(ge=1, lt=2**31)] = None

    def link(self, **changes: object) -> str:
        return "?" + urlencode(self.model_copy(update=changes).model_dump(exclude_defaults=True))

    def sorted_by(self, column: str) -> str:
        return self.link(sort=column, down=not self.down if self.sort == column else True, page=1)


@dataclass(frozen=True)
class Table:
    """One page of reports; `family` is the column that holds one family's coverage."""

    rows: list[dict[str, Any]]
    first: int
    pages: int


def table_of(found: Finding, query: AnalysisQuery) -> Table:
    families: list[str] = found.said["families"]
    if query.family and query.family not in families:
        raise HTTPException(404, f"The analysis has no family {query.family!r}.")
    at = families.index(query.family) if query.family else None
    rows = [row | {"family": row["families"][at] if at is not None else None} for row in found.said["reports"]]
    known = [row for row in rows if row[query.sort] is not None]
    unknown = [row for row in rows if row[query.sort] is None]
    known.sort(key=lambda row: row[query.sort], reverse=query.down)
    pages = max(1, -(-len(rows) // PAGE))
    first = (min(query.page, pages) - 1) * PAGE
    return Table((known + unknown)[first : first + PAGE], first, pages)


def pictures(found: Finding) -> dict[str, Any]:
    """Precision over coverage, who fires together (functions ordered by group), coverage per family."""
    reports, families = found.said["reports"], found.said["families"]
    judged = [r for r in reports if r["precision"] is not None]
    dots = [(r["name"], r["coverage"], r["precision"], r["judged"], r["side"]) for r in judged]
    order = sorted(range(len(reports)), key=lambda i: (reports[i]["group"] or 10**9, -reports[i]["coverage"]))[:120]
    names = [reports[i]["name"] for i in order]
    alike = found.array("alike")[np.ix_(order, order)] if order else np.zeros((0, 0))
    shares = [[reports[i]["families"][f] for i in order] for f in range(len(families))]
    return {
        "scatter": plots.scatter(dots, 440, 220),
        "alike": plots.heat(alike.tolist(), names, names, 1.0),
        "shares": plots.heat(shares, families, names),
        "drawn": len(order),
        "groups": groups_of(reports),
    }


def groups_of(reports: list[dict[str, Any]]) -> list[tuple[int, list[str]]]:
    found: dict[int, list[str]] = {}
    for report in reports:
        if report["group"]:
            found.setdefault(report["group"], []).append(report["name"])
    return sorted(found.items())


@router.get("")
def index(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    query: Annotated[AnalysisQuery, Query()],
) -> Response:
    context = page_context(session, settings, project, "analysis", "analyse", query.version)
    found: Finding | None = context["found"]
    if found is None and query.version is not None:
        raise HTTPException(404, f"Rule version {query.version} has not been analysed.")
    if found is not None:
        context |= {"table": table_of(found, query), **pictures(found)}
    return render(request, "analysis/index.html", "analysis/_table.html" if found else None, query=query, **context)


@router.post("")
def analyse(request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser) -> Response:
    """Queue the analysis of the newest rule."""
    if start(session, project, "analyse", user) is None:
        raise HTTPException(409, "Save a rule first: an analysis looks at its functions.")
    return redirect(request, f"/projects/{project.slug}/rule/analysis")
