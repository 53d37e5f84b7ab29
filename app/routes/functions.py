"""Labeling functions besides latents: the list, a new one from its kind's fields, retiring."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from sqlalchemy.orm import Session

from app import queries
from app.access import ProjectDep
from app.db import SessionDep
from app.models import Artifact, Function, Project, now
from app.pages import redirect, render
from app.security import CurrentUser
from labeling.functions import FUNCTIONS, parse

router = APIRouter(prefix="/projects/{slug}/functions")
KINDS = [kind for kind in FUNCTIONS if kind != "latent"]  # latents are judged on their own page


def fields_of(kind: str) -> list[dict[str, Any]]:
    """What the form shows for a kind: its model's fields, its own before those that all have."""
    model = FUNCTIONS[kind]
    shared = [name for name in ("votes", "weight", "veto") if name in model.model_fields]
    own = [name for name in model.model_fields if name not in ("kind", *shared)]
    return [_drawn(name, model.model_fields[name]) for name in [*own, *shared]]


def _drawn(name: str, field: FieldInfo) -> dict[str, Any]:
    limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "le") if hasattr(m, key)}
    options = get_args(field.annotation) if "Literal" in str(field.annotation) else ()
    if field.annotation is bool:
        control = "checkbox"
    elif options:
        control = "select"
    elif field.annotation in (int, float):
        control = "number"
    else:
        control = "lines" if "str" in str(get_args(field.annotation)) else "text"
    default = "" if field.is_required() else field.default
    step = "1" if field.annotation is int else "any"
    return {"name": name, "control": control, "help": field.description or "", "options": options,
            "default": default, "required": field.is_required(), "step": step, **limits}  # fmt: skip


async def _posted(request: Request, kind: str) -> dict[str, Any]:
    """The form's fields as the model expects them; pydantic does the rest."""
    form = await request.form()
    values: dict[str, Any] = {"kind": kind}
    for field in fields_of(kind):
        value = str(form.get(field["name"], ""))
        if field["control"] == "checkbox":
            values[field["name"]] = bool(value)
        elif field["control"] == "lines":
            values[field["name"]] = [line.strip() for line in value.splitlines() if line.strip()]
        elif value or field["required"]:
            values[field["name"]] = value
    return values


def _choices(session: Session, project: Project) -> dict[str, dict[str, str]]:
    """Fields that name something of this project: value -> how it is shown."""
    families = {family.name: family.name for family in queries.families_of(session, project.id)}
    classifiers = {}
    for row in queries.classifiers_of(session, project.id):
        folder = session.get_one(Artifact, row.artifact_id).path
        classifiers[folder] = f"{row.name}:{row.version}"
    return {"family": families, "classifier": classifiers}


def _context(session: Session, project: Project, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "project": project,
        "functions": [(row, parse(row.config)) for row in queries.functions_of(session, project.id)],
        "retired": queries.functions_of(session, project.id, retired=True),
        "kinds": {name: (FUNCTIONS[name].__doc__ or "").strip().split("\n")[0] for name in KINDS},
        "kind": kind,
        "fields": fields_of(kind),
        "choices": _choices(session, project),
        "values": {},
        "errors": {},
    } | more


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, kind: str = KINDS[0]) -> Response:
    if kind not in KINDS:
        raise HTTPException(404, f"There is no kind of labeling function called {kind}.")
    return render(request, "functions/index.html", "functions/_form.html", **_context(session, project, kind))


async def posted(request: Request) -> tuple[str, str, dict[str, Any]]:
    """(kind, name, configuration) of the form, read before the handler's own thread."""
    form = await request.form()
    kind = str(form.get("kind", ""))
    if kind not in KINDS:
        raise HTTPException(422, f"Kind must be one of {', '.join(KINDS)}.")
    return kind, str(form.get("name", "")).strip()[:120], await _posted(request, kind)


@router.post("")
def create(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    form: Annotated[tuple[str, str, dict[str, Any]], Depends(posted)],
) -> Response:
    kind, name, values = form
    for field, known in _choices(session, project).items():
        if values.get(field) and values[field] not in known:
            raise HTTPException(422, f"This project has no {field} {values[field]!r}.")
    try:
        function = parse(values)
    except ValidationError as invalid:
        errors = {str((*error["loc"], "")[0]): error["msg"].removeprefix("Value error, ") for error in invalid.errors()}
        context = _context(session, project, kind, values={**values, "name": name}, errors=errors)
        return render(request, "functions/index.html", "functions/_form.html", 422, **context)
    config = function.model_dump(mode="json")
    session.add(Function(project_id=project.id, name=name or function.name, config=config, author=user))
    return redirect(request, f"/projects/{project.slug}/functions")


@router.post("/{function_id}/retire")
def retire(request: Request, function_id: int, project: ProjectDep, session: SessionDep) -> Response:
    """Out of force for the next rule; rules saved with it keep it."""
    function = session.get(Function, function_id)
    if function is None or function.project_id != project.id:
        raise HTTPException(404, "There is no such function in this project.")
    function.retired_at = function.retired_at or now()
    return redirect(request, f"/projects/{project.slug}/functions")
