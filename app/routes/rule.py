"""The rule: its controls with a live what-if, its versions, saving one."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import queries
from app.access import ProjectDep, SettingsDep, StoreDep
from app.dashboard import Texts
from app.db import SessionDep
from app.jobs import enqueue
from app.models import Project
from app.pages import redirect, render
from app.routes.jobs import job_context
from app.security import CurrentUser
from app.settings import Settings
from app.votes import ballot
from app.whatif import answer, flags_of, sample_documents
from app.whatif_gold import gold_of
from labeling.rule import RuleConfig
from labeling.store import Store

router = APIRouter(prefix="/projects/{slug}/rule")


def _preview(
    session: Session, settings: Settings, project: Project, store: Store, config: RuleConfig, draw: int
) -> dict[str, Any]:
    """What the rule would flag now, beside what the saved one flags."""
    artifact = queries.newest_artifact(session, project.id, "store")
    assert artifact is not None
    configs = [row.config for row in queries.functions_of(session, project.id)]
    now = ballot(session, settings, project.id, store, artifact.id, configs)
    flags = flags_of(store, queries.accepted_latents(session, project), config, now)
    saved, before = queries.newest_rule(session, project.id), None
    if saved:
        old = ballot(session, settings, project.id, store, artifact.id, saved.functions)
        before = flags_of(store, saved.latents, RuleConfig(**saved.config), old)
    gold = gold_of(session, project.id, store)
    sides = queries.sides_of(session, project.id)
    answered = answer(store, flags, before, gold)
    samples = sample_documents(store, flags, before, sides, Texts(session, project), draw)
    return {
        "answer": answered,
        "shares": sorted(answered.shares, key=lambda s: (sides.get(s.family) != "forget", s.family)),
        "saved": saved,
        "saved_gold": answer(store, before, None, gold).gold if before is not None else None,
        "samples": samples,
        "document_ids": queries.document_ids(session, project.id, [sample.key for sample in samples]),
        "sides": sides,
        "failed": now.failed,
        "waiting": now.waiting,
        "draw": draw,
    }


def config_of(request: Request, start: dict[str, Any]) -> tuple[RuleConfig, dict[str, str]]:
    """The controls' values over the saved rule's, and what is wrong with them."""
    given = {name: value for name, value in request.query_params.items() if name in RuleConfig.model_fields and value}
    return _checked({**start, **given}, RuleConfig(**start))


def _checked(values: dict[str, Any], otherwise: RuleConfig) -> tuple[RuleConfig, dict[str, str]]:
    try:
        return RuleConfig.model_validate(values), {}
    except ValidationError as invalid:
        return otherwise, {str((*error["loc"], "")[0]): error["msg"] for error in invalid.errors()}


def _page(request: Request, session: Session, settings: Settings, project: Project, store: Store | None,
          config: RuleConfig, errors: dict[str, str], draw: int = 0) -> Response:  # fmt: skip
    labelings = queries.newest_jobs(session, project.id, ["label"], 1)
    context: dict[str, Any] = {
        "project": project,
        "config": config,
        "errors": errors,
        "ready": False,
        "rules": queries.rules_of(session, project.id),
        "fields": RuleConfig.model_fields,
        "latents": queries.accepted_latents(session, project),
        "functions": queries.functions_of(session, project.id),
        "jobs": [job_context(session, job) for job in labelings],
    }
    if store is not None and (context["latents"] or context["functions"]):
        context |= {"ready": True, **_preview(session, settings, project, store, config, draw)}
    partial = "rule/_preview.html" if context["ready"] else None
    return render(request, "rule/index.html", partial, 422 if errors else 200, **context)


@router.get("")
def index(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    store: StoreDep,
    settings: SettingsDep,
    draw: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    saved = queries.newest_rule(session, project.id)
    config, errors = config_of(request, saved.config if saved else {})
    return _page(request, session, settings, project, store, config, errors, draw)


@router.post("")
def save(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    store: StoreDep,
    settings: SettingsDep,
    user: CurrentUser,
    k: Annotated[str, Form()],
    z: Annotated[str, Form()],
    boundary: Annotated[str, Form()],
    grow_above: Annotated[str, Form()] = "0",
    min_tokens: Annotated[str, Form()] = "1",
    close_gap: Annotated[str, Form()] = "0",
    window: Annotated[str, Form()] = "0",
) -> Response:
    """A new version of the rule (unless it says the same as the newest) and the job that labels by it."""
    values = {"k": k, "z": z, "boundary": boundary, "grow_above": grow_above}
    values |= {"min_tokens": min_tokens, "close_gap": close_gap, "window": window}
    config, errors = _checked(values, RuleConfig.model_validate({}))
    if errors:
        return _page(request, session, settings, project, store, config, errors)
    latents = queries.accepted_latents(session, project)
    functions = [function.config for function in queries.functions_of(session, project.id)]
    if not latents and not functions:
        raise HTTPException(409, "Accept a latent or write a function first: a rule needs something that votes.")
    if store is None:
        raise HTTPException(409, "Harvest the corpus first: a rule labels an activation store.")
    rule = queries.save_rule(session, project.id, config.model_dump(mode="json"), latents, functions, user)
    enqueue(session, "label", project.id, {"rule_id": rule.id}, user)
    return redirect(request, f"/projects/{project.slug}/rule")
