"""Versions of the rule: their lineage, the difference of any two, going back, files in and out, a changed scope."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, UploadFile
from fastapi.responses import Response

from app import queries
from app.access import ProjectDep, SettingsDep, StoreDep
from app.db import SessionDep
from app.differences import differences
from app.jobs import enqueue
from app.models import Project, Rule
from app.pages import redirect, render
from app.routes.jobs import job_context
from app.security import CurrentUser
from app.settings import Settings
from app.versions import (
    definitions,
    label_sets,
    labels_of,
    opened,
    rescore,
    restore,
    rule_of,
    scope,
    take_in,
    written,
)
from labeling.versions import diff_rules, read_version

router = APIRouter(prefix="/projects/{slug}/rule/versions")
Version = Annotated[int, Query(ge=1, lt=2**31)]
FILE_BYTES = 64 * 1024**2
JOBS = ("label", "take labels", "discover")


def get_rule(project: ProjectDep, session: SessionDep, version: int) -> Rule:
    rule = rule_of(session, project.id, version) if 0 < version < 2**31 else None
    if rule is None:
        raise HTTPException(404, f"There is no rule version {version} in this project.")
    return rule


def _page(request: Request, project: Project, session: SessionDep, error: str | None = None) -> Response:
    labels = label_sets(session, project.id)
    jobs = [job for job in queries.newest_jobs(session, project.id, JOBS, 3) if job.state != "done"]
    rules = [rule for rule, _ in queries.rules_of(session, project.id)]
    return render(
        request, "versions/index.html", "versions/_import.html" if error else None, 422 if error else 200,
        project=project, rules=[(rule, labels.get(rule.id, [])) for rule in rules], scope=scope(session, project),
        definitions=definitions(session, project.id), error=error, jobs=[job_context(session, job) for job in jobs],
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep) -> Response:
    return _page(request, project, session)


def _token_diff(session: SessionDep, settings: Settings, project: Project, old: Rule, new: Rule) -> dict[str, Any]:
    """What the labels of both say, or why they cannot be compared."""
    sets = [labels_of(session, rule) for rule in (old, new)]
    missing = [str(rule.version) for rule, found in zip((old, new), sets, strict=True) if found is None]
    if missing:
        return {"shown": None, "why_not": f"Version {' and '.join(missing)} has no labels yet."}
    one, two = sets
    assert one is not None and two is not None
    if one.store_id != two.store_id:
        return {
            "shown": None,
            "why_not": "Their labels are of different harvests; label the older one again to compare.",
        }
    store, before = opened(session, settings, one)
    _, after = opened(session, settings, two)
    shown = differences(store, before, after, lambda keys: queries.texts_by_key(session, project.id, keys))
    return {"shown": shown, "document_ids": queries.document_ids(session, project.id, [d.key for d in shown.documents])}


@router.get("/diff")
def diff(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, old: Version, new: Version
) -> Response:
    """Two versions, by their functions and by their tokens."""
    before, after = get_rule(project, session, old), get_rule(project, session, new)
    rules = diff_rules(*((r.config, r.latents, r.functions) for r in (before, after)))
    return render(
        request, "versions/diff.html", project=project, old=before, new=after, rules=rules,
        sides=queries.sides_of(session, project.id), verdicts=queries.verdicts_of(session, project),
        old_name=f"version {old}", new_name=f"version {new}",
        one_sae=before.reference_id == after.reference_id or None in (before.reference_id, after.reference_id),
        **_token_diff(session, settings, project, before, after),
    )  # fmt: skip


@router.get("/{version}.json")
def export(project: ProjectDep, session: SessionDep, settings: SettingsDep, version: int) -> Response:
    """The version as a file: ids and indices, no text."""
    try:
        file = written(session, settings, project, get_rule(project, session, version))
    except ValueError as error:
        raise HTTPException(409, str(error)) from None
    name = f'attachment; filename="{project.slug}-rule-{version}.json"'
    return Response(file.model_dump_json(), media_type="application/json", headers={"Content-Disposition": name})


@router.post("/{version}/restore")
def go_back(request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser, version: int) -> Response:
    """A new version that says what this one says, verdicts and functions with it, and the job that labels by it."""
    try:
        rule = restore(session, project, get_rule(project, session, version), user)
    except ValueError as error:
        raise HTTPException(409, str(error)) from None
    enqueue(session, "label", project.id, {"rule_id": rule.id}, user)
    return redirect(request, f"/projects/{project.slug}/rule/versions")


@router.post("/import")
def import_(
    request: Request, project: ProjectDep, session: SessionDep, store: StoreDep, user: CurrentUser, file: UploadFile
) -> Response:
    try:
        content = file.file.read(FILE_BYTES + 1)
        if len(content) > FILE_BYTES:
            raise ValueError(f"the file is larger than {FILE_BYTES // 1024**2} MB; export it without labels")
        rule = take_in(session, project, read_version(content), store, user)
    except ValueError as error:
        return _page(request, project, session, str(error))
    if store is not None:
        enqueue(session, "label", project.id, {"rule_id": rule.id}, user)
    return redirect(request, f"/projects/{project.slug}/rule/versions")


@router.post("/rescore")
def score_again(request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser) -> Response:
    """Everything that depends on the definition and the families' sides, once more."""
    if queries.newest_artifact(session, project.id, "store") is None:
        raise HTTPException(409, "Harvest the corpus first: there is nothing to score again.")
    rescore(session, project, user)
    return redirect(request, f"/projects/{project.slug}/rule/versions")
