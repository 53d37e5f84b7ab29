"""Labeling functions: the list, writing one with a live preview, editing, retiring, casting their votes."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import function_queries, queries
from app.access import ProjectDep, SettingsDep, StoreDep
from app.artifacts import open_predictions
from app.db import SessionDep
from app.function_forms import KINDS, SHOWN_LINES, Posted, errors_of, fields_of, posted
from app.function_preview import interleaved, preview
from app.jobs import enqueue
from app.models import Artifact, Function, Project, now
from app.pages import redirect, render
from app.routes.jobs import job_context
from app.security import CurrentUser
from app.settings import Settings
from labeling import functions as kinds
from labeling.functions import FUNCTIONS, parse
from labeling.predictions import PredictionStore
from labeling.rule import RuleConfig
from labeling.store import Store

router = APIRouter(prefix="/projects/{slug}/functions")
PostedDep = Annotated[Posted, Depends(posted)]


def _choices(session: Session, project: Project) -> dict[str, dict[str, str]]:
    """Fields that name something of this project: value -> how it is shown."""
    families = {family.name: family.name for family in queries.families_of(session, project.id)}
    classifiers = {}
    for row in queries.classifiers_of(session, project.id):
        folder = session.get_one(Artifact, row.artifact_id).path
        classifiers[folder] = f"{row.name}:{row.version}"
    return {"family": families, "classifier": classifiers}


def _form(session: Session, project: Project, kind: str, **more: Any) -> dict[str, Any]:
    """What the form needs; `editing` is the function that is to be replaced."""
    return {
        "project": project,
        "kinds": {name: (FUNCTIONS[name].__doc__ or "").strip().split("\n")[0] for name in KINDS},
        "kind": kind,
        "fields": fields_of(kind),
        "choices": _choices(session, project),
        "values": {},
        "errors": {},
        "editing": None,
        "most_lines": SHOWN_LINES,
    } | more


def _page(request: Request, session: Session, form: dict[str, Any], status: int = 200) -> Response:
    project: Project = form["project"]
    jobs = [job_context(session, job) for job in queries.newest_jobs(session, project.id, ["vote"], 1)]
    context = form | {
        "functions": function_queries.functions_with_votes(session, project.id),
        "retired": queries.functions_of(session, project.id, retired=True),
        "jobs": jobs,
    }
    return render(request, "functions/index.html", "functions/_form.html", status, **context)


def _checked(session: Session, project: Project, store: Store | None, form: Posted) -> kinds.Function:
    """The function that was posted. ValueError (pydantic's, or with a field's name in front) if it makes no sense."""
    values = dict(form.values)
    if form.keep and not values.get("terms") and form.kind == "terms":
        values["terms"] = _of_project(session, project, form.keep).config.get("terms", [])
    for field, known in _choices(session, project).items():
        if values.get(field) and values[field] not in known:
            raise HTTPException(422, f"This project has no {field} {values[field]!r}.")
    function = parse(values)
    if isinstance(function, kinds.Latent) and store is not None and function.latent >= store.d_sae:
        raise HTTPException(422, f"This SAE has latents 0 to {store.d_sae - 1:,}.")
    return function


def _of_project(session: Session, project: Project, function_id: int) -> Function:
    function = session.get(Function, function_id)
    if function is None or function.project_id != project.id:
        raise HTTPException(404, "There is no such function in this project.")
    return function


def _save(request: Request, session: Session, project: Project, store: Store | None, user: str, form: Posted,
          old: Function | None = None) -> Response:  # fmt: skip
    """A new row; the one it replaces is retired, so that rules saved with it stay what they were."""
    try:
        if form.errors:
            raise ValueError
        function = _checked(session, project, store, form)
    except ValueError as invalid:
        errors = errors_of(invalid) if isinstance(invalid, ValidationError) else form.errors
        values = {**form.values, "name": form.name}
        return _page(
            request, session, _form(session, project, form.kind, values=values, errors=errors, editing=old), 422
        )
    config = function.model_dump(mode="json")
    queries.add_function(session, project, form.name or function.name, config, user)
    if old is not None:
        old.retired_at = old.retired_at or now()
    if store is not None and function.needs_text:
        enqueue(session, "vote", project.id, {}, user)
    return redirect(request, f"/projects/{project.slug}/functions")


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, kind: str = "terms") -> Response:
    if kind not in KINDS:
        raise HTTPException(404, f"There is no kind of labeling function called {kind}.")
    return _page(request, session, _form(session, project, kind))


@router.post("")
def create(
    request: Request, project: ProjectDep, session: SessionDep, store: StoreDep, user: CurrentUser, form: PostedDep
) -> Response:
    return _save(request, session, project, store, user, form)


@router.post("/preview")
def try_out(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, store: StoreDep, form: PostedDep
) -> Response:
    """How what is in the form now would vote on sample documents."""
    context: dict[str, Any] = {"project": project, "tried": None, "problem": ""}
    try:
        if form.errors:
            raise ValueError(*form.errors.values())
        function = _checked(session, project, store, form)
        scores = _scores(session, settings, project, function)
        rule = queries.newest_rule(session, project.id)
        z = RuleConfig(**rule.config).z if rule else RuleConfig().z  # type: ignore[call-arg]
        samples = list(interleaved(function_queries.samples_by_family(session, project.id)))
        context |= {"tried": preview(function, samples, store, z, scores), "z": z}
        context["sides"] = queries.sides_of(session, project.id)
    except ValidationError as invalid:
        missing = all(
            error["type"] in ("missing", "too_short", "string_too_short", "int_parsing") for error in invalid.errors()
        )
        context["problem"] = "" if missing else "; ".join(errors_of(invalid).values())
    except ValueError as error:
        context["problem"] = str(error)
    return render(request, "functions/_preview.html", **context)


def _scores(session: Session, settings: Settings, project: Project, function: kinds.Function) -> PredictionStore | None:
    """The scores that a `classifier` function's classifier gave the corpus, if it did."""
    if not isinstance(function, kinds.Classifier):
        return None
    artifact = function_queries.scores_of_classifier(session, project.id, function.classifier)
    return open_predictions(settings, artifact) if artifact else None


@router.post("/count")
def count(request: Request, project: ProjectDep, session: SessionDep, store: StoreDep, user: CurrentUser) -> Response:
    """Cast the votes that are not cast on the newest store yet."""
    if store is None:
        raise HTTPException(409, "Harvest the corpus first: functions vote on its tokens.")
    enqueue(session, "vote", project.id, {}, user)
    return redirect(request, f"/projects/{project.slug}/functions")


@router.get("/{function_id}")
def edit(request: Request, function_id: int, project: ProjectDep, session: SessionDep) -> Response:
    function = _of_project(session, project, function_id)
    values = {**function.config, "name": function.name}
    form = _form(session, project, function.config["kind"], values=values, editing=function)
    return _page(request, session, form)


@router.get("/{function_id}/terms.txt")
def terms(function_id: int, project: ProjectDep, session: SessionDep) -> Response:
    """The whole list of a `terms` function, to edit elsewhere and upload again."""
    function = _of_project(session, project, function_id)
    if function.config["kind"] != "terms":
        raise HTTPException(404, "Only a function of kind terms has a list.")
    headers = {"Content-Disposition": f'attachment; filename="terms-{function_id}.txt"'}
    return PlainTextResponse("\n".join(function.config["terms"]) + "\n", headers=headers)


@router.post("/{function_id}")
def replace(
    request: Request, function_id: int, project: ProjectDep, session: SessionDep, store: StoreDep, user: CurrentUser,
    form: PostedDep,
) -> Response:  # fmt: skip
    old = _of_project(session, project, function_id)
    if old.retired_at is not None:
        raise HTTPException(409, "This function was retired or edited since the page was loaded; open the newer one.")
    return _save(request, session, project, store, user, form, old)


@router.post("/{function_id}/retire")
def retire(request: Request, function_id: int, project: ProjectDep, session: SessionDep) -> Response:
    """Out of force for the next rule; rules saved with it keep it."""
    function = _of_project(session, project, function_id)
    function.retired_at = function.retired_at or now()
    return redirect(request, f"/projects/{project.slug}/functions")
