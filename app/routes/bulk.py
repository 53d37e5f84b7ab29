"""Bulk verdicts: a filter over suggestions, what it picks, one verdict on all of it, and taking it back."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import bulk_queries as bulk
from app import queries
from app.access import ProjectDep
from app.bulk import LOOK_AT, BulkFilter, Haul, find
from app.db import SessionDep
from app.gold import SPLITS
from app.models import Project, Rule
from app.pages import redirect, render
from app.review_queries import StaleVersion
from app.roles import Viewer, ViewerDep
from app.routes.review import SourcesDep
from app.suggestions import Sources
from labeling.functions import parse

router = APIRouter(prefix="/projects/{slug}/review/bulk")
BY = {
    "": "rule or classifier", "rule": "rule", "classifier": "classifier", "both": "rule and classifier",
    "rule_only": "rule alone", "classifier_only": "classifier alone",
}  # fmt: skip


def functions_of(rule: Rule | None) -> list[str]:
    """Names of the rule's functions that a page can ask."""
    if rule is None:
        return []
    others = [function for function in map(parse, rule.functions) if function.kind not in ("classifier", "latent")]
    return [*(f.name for f in others), *(f"latent {latent}" for latent in rule.latents)]


def asked_of(values: Any) -> tuple[BulkFilter, dict[str, str]]:
    """The filter as asked, and what is wrong with it by field."""
    try:
        return BulkFilter.model_validate(dict(values)), {}
    except ValidationError as invalid:
        return BulkFilter.model_validate({}), {str((*error["loc"], "")[0]): error["msg"] for error in invalid.errors()}


def haul(session: Session, project: Project, sources: Sources, viewer: Viewer, asked: BulkFilter) -> Haul:
    rule = sources.label_set.rule if sources.label_set else None
    return find(asked, sources, rule, bulk.candidates(session, project.id, viewer, asked))


@router.get("")
def index(
    request: Request, project: ProjectDep, session: SessionDep, sources: SourcesDep, viewer: ViewerDep
) -> Response:
    """The filter, and what it picks now."""
    asked, errors = asked_of(request.query_params)
    picked = Haul([], None)
    try:
        picked = picked if errors else haul(session, project, sources, viewer, asked)
    except ValueError as error:
        errors = {"function": str(error)}
    return render(
        request, "review/bulk.html", "review/_bulk.html", 422 if errors else 200,
        project=project, sources=sources, asked=asked, errors=errors, haul=picked, by=BY, look_at=LOOK_AT,
        functions=functions_of(sources.label_set.rule if sources.label_set else None),
        families=queries.sides_of(session, project.id), splits=SPLITS, bulks=bulk.bulks_of(session, project.id, viewer),
    )  # fmt: skip


async def posted(request: Request) -> dict[str, str]:
    """The form, read before the handler's own thread."""
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


@router.post("")
def give(
    request: Request, project: ProjectDep, session: SessionDep, sources: SourcesDep, viewer: ViewerDep,
    form: Annotated[dict[str, str], Depends(posted)],
) -> Response:  # fmt: skip
    """The verdict on everything the filter picks; refused if that is no longer what the preview showed."""
    asked, errors = asked_of(form)
    if errors:
        raise HTTPException(422, "; ".join(f"{field}: {message}" for field, message in errors.items()))
    picked = haul(session, project, sources, viewer, asked)
    if not picked.found or str(picked.suggestions) != form.get("expected"):
        raise HTTPException(409, "This is not what the preview showed: somebody reviewed meanwhile. Look again.")
    try:
        bulk.give(session, project.id, asked, picked, viewer)
    except StaleVersion:
        raise HTTPException(409, "Somebody changed one of these documents meanwhile. Nothing was written.") from None
    return redirect(request, f"/projects/{project.slug}/review/bulk")


@router.post("/{bulk_id}/undo")
def undo(request: Request, project: ProjectDep, session: SessionDep, viewer: ViewerDep, bulk_id: int) -> Response:
    """Take a bulk verdict back wherever nobody went on from it."""
    found = bulk.bulk_of(session, project.id, viewer, bulk_id)
    if found is None:
        raise HTTPException(404, "There is no such bulk verdict of yours in this project.")
    if bulk.is_undone(session, found.id):
        raise HTTPException(409, "This bulk verdict was taken back already.")
    bulk.take_back(session, found, viewer)
    return redirect(request, f"/projects/{project.slug}/review/bulk")
