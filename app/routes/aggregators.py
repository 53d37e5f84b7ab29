"""The vote, the majority and Dawid-Skene side by side, and where they differ."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import Response

from app import queries
from app.access import ProjectDep, SettingsDep
from app.artifacts import open_store
from app.db import SessionDep
from app.differences import differences
from app.jobs import enqueue
from app.models import Artifact
from app.pages import redirect, render
from app.rule_results import Finding, page_context, start
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/rule/aggregators")
Aggregator = Literal["vote", "majority", "dawid_skene"]
NAMES = {"vote": "Vote", "majority": "Majority", "dawid_skene": "Dawid-Skene"}


def _differ(session: SessionDep, settings: SettingsDep, project: ProjectDep, found: Finding, a: str, b: str) -> Any:
    store = open_store(settings, session.get_one(Artifact, found.artifact.info["store_id"]))
    texts = lambda keys: queries.texts_by_key(session, project.id, keys)  # noqa: E731
    shown = differences(store, found.array(a), found.array(b), texts)
    ids = queries.document_ids(session, project.id, [row.key for row in shown.documents])
    return {"shown": shown, "document_ids": ids}


@router.get("")
def index(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    a: Aggregator = "vote",
    b: Aggregator = "dawid_skene",
) -> Response:
    context = page_context(session, settings, project, "aggregation", "aggregate")
    context |= {"names": NAMES, "a": a, "b": b, "sides": queries.sides_of(session, project.id)}
    if found := context["found"]:
        context |= {"old_name": NAMES[a], "new_name": NAMES[b], **_differ(session, settings, project, found, a, b)}
    return render(request, "aggregators/index.html", "aggregators/_differ.html" if found else None, **context)


@router.post("")
def compare(request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser) -> Response:
    if start(session, project, "aggregate", user) is None:
        raise HTTPException(409, "Save a rule first: aggregators work on its functions.")
    return redirect(request, f"/projects/{project.slug}/rule/aggregators")


@router.post("/labels")
def take(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    artifact_id: Annotated[int, Form(ge=1, lt=2**31)],
    aggregator: Annotated[Aggregator, Form()],
) -> Response:
    """Weak labels from one aggregator's column, to train on."""
    artifact = session.get(Artifact, artifact_id)
    if artifact is None or (artifact.project_id, artifact.kind) != (project.id, "aggregation"):
        raise HTTPException(404, "There is no such comparison in this project.")
    enqueue(session, "take labels", project.id, {"artifact_id": artifact_id, "aggregator": aggregator}, user)
    return redirect(request, f"/projects/{project.slug}/rule/versions")
