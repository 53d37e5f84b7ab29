"""Classifiers: the list, training one, and how good one is."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import Response

from app import jobs, queries
from app import review_queries as review
from app.access import ProjectDep, SettingsDep
from app.archives import zip_response
from app.backbones import DEFAULT, LATENTS, known
from app.comparisons import compared
from app.db import SessionDep
from app.details import compare, details_of
from app.errors import worst
from app.evaluations import evaluations
from app.exporting import parts_of
from app.models import Artifact, Classifier, LabelSet, Project
from app.pages import redirect, render
from app.security import CurrentUser
from labeling.curves import BETAS

router = APIRouter(prefix="/projects/{slug}/classifiers")
WAYS = {
    "f1": "the most F1",
    "f2": "the most F2: recall counts four times as much, for labels that miss more than they invent",
    "fpr": "at most this many false positives, in percent of retain words",
    "budget": "flag at most this much, in percent of all words",
    "value": "this probability",
}
UNITS = {
    "token": "each token's own label",
    "sentence": "its sentence's label",
    "document": "its document's label",
    "family": "the side its family is on",
}
MODES = {
    "probe": "linear probe on a frozen backbone: minutes on a CPU",
    "finetune": "the whole backbone learns: better, much slower",
}


def get_classifier(project: ProjectDep, session: SessionDep, classifier_id: int) -> Classifier:
    classifier = review.classifier_of(session, project.id, classifier_id)
    if classifier is None:
        raise HTTPException(404, "There is no such classifier in this project.")
    return classifier


ClassifierDep = Annotated[Classifier, Depends(get_classifier, scope="function")]


def _page(
    request: Request, project: Project, session: SessionDep, settings: SettingsDep, form: dict[str, str],
    error: str | None = None, status: int = 200,
) -> Response:  # fmt: skip
    rows = queries.classifiers_of(session, project.id)
    training = queries.newest_jobs(session, project.id, ["train", "evaluate"], 3)
    return render(
        request, "classifiers/index.html", "classifiers/_form.html" if error else None, status,
        project=project, classifiers=[(row, evaluations(row.info)) for row in rows],
        label_sets=review.label_sets_of(session, project.id), modes=MODES, units=UNITS, form=form, error=error,
        thresholds={by: WAYS[by] for by in BETAS},
        backbones=list(known(settings)), teachers=rows,
        training=[job for job in training if job.state != "done"],
        curves={job.id: jobs.curves(session, job.id) for job in training},
        figures={job.id: jobs.figures(session, job.id) for job in training},
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Response:
    return _page(request, project, session, settings, {"name": "classifier", "mode": "probe", "backbone": DEFAULT})


@router.post("")
def train(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    user: CurrentUser,
    label_set_id: Annotated[int, Form(ge=1, lt=2**31)],
    name: Annotated[str, Form(max_length=80)] = "",
    mode: Annotated[str, Form(max_length=20)] = "probe",
    backbone: Annotated[str, Form(max_length=80)] = DEFAULT,
    labels: Annotated[str, Form(max_length=20)] = "token",
    teacher: Annotated[str, Form(max_length=12)] = "",
    threshold: Annotated[str, Form(max_length=12)] = "f1",
) -> Response:
    chosen = session.get(LabelSet, label_set_id)
    if chosen is None or chosen.project_id != project.id:
        raise HTTPException(404, "There is no such label set in this project.")
    form = {"name": name.strip(), "mode": mode, "backbone": backbone, "labels": labels, "teacher": teacher,
            "threshold": threshold}  # fmt: skip
    teachers = {LATENTS, *(str(r.id) for r in queries.classifiers_of(session, project.id))}
    if problem := _problem(form, list(known(settings)), teachers):
        return _page(request, project, session, settings, form, problem, 422)
    args = {"label_set_id": label_set_id, **_chosen(form)}
    jobs.enqueue(session, "train", project.id, args, user)
    return redirect(request, f"/projects/{project.slug}/classifiers")


def _chosen(form: dict[str, str]) -> dict[str, str | int]:
    """What differs from the defaults, so that the command line's job of the same work is the same job."""
    usual = {"backbone": DEFAULT, "labels": "token", "teacher": "", "threshold": "f1"}
    found: dict[str, str | int] = {key: value for key, value in form.items() if usual.get(key) != value}
    return found | ({"teacher": int(form["teacher"])} if form["teacher"].isdecimal() else {})


def _problem(form: dict[str, str], backbones: list[str], teachers: set[str]) -> str | None:
    known_values = {"mode": list(MODES), "backbone": backbones, "labels": list(UNITS), "threshold": list(BETAS)}
    for key, allowed in known_values.items():
        if form[key] not in allowed:
            return f"{key} must be one of {', '.join(allowed)}"
    if form["teacher"] and form["teacher"] not in teachers:
        return "that teacher is neither the latents nor a classifier of this project"
    if not form["name"] or not all(c.isalnum() or c in "-_." for c in form["name"]):
        return "give it a name of letters, digits, '-', '_' and '.' (the command line calls it name:version)"
    return None


def _show(
    request: Request, project: Project, session: SessionDep, settings: SettingsDep, classifier: Classifier,
    form: dict[str, str], error: str | None = None, status: int = 200,
) -> Response:  # fmt: skip
    artifact = session.get_one(Artifact, classifier.artifact_id)
    tables = evaluations(classifier.info, details_of(settings, classifier.id))
    return render(
        request, "classifiers/show.html", "classifiers/_threshold.html" if error else None, status,
        project=project, classifier=classifier, artifact=artifact,
        tables=tables,
        beside={table.name: compared(table, classifier.info) for table in tables},
        others=[row for row in queries.classifiers_of(session, project.id) if row.id != classifier.id],
        labels=session.get(LabelSet, classifier.label_set_id) if classifier.label_set_id else None,
        curves=jobs.curves(session, artifact.job_id) if artifact.job_id else {},
        sides=queries.sides_of(session, project.id), ways=WAYS, form=form, error=error,
    )  # fmt: skip


@router.get("/{classifier_id}")
def show(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, classifier: ClassifierDep
) -> Response:
    return _show(request, project, session, settings, classifier, {"by": "fpr", "value": ""})


@router.post("/{classifier_id}/evaluate")
def evaluate(
    request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser, classifier: ClassifierDep
) -> Response:
    """Score it again: gold grows while people review."""
    jobs.enqueue(session, "evaluate", project.id, {"classifier_id": classifier.id}, user)
    return redirect(request, f"/projects/{project.slug}/classifiers")


@router.get("/{classifier_id}/download")
def download(session: SessionDep, settings: SettingsDep, classifier: ClassifierDep) -> Response:
    """The exported folder as a zip, with the newest figures; it loads with plain transformers."""
    folder, replaced = parts_of(session, settings, classifier)
    return zip_response(folder, "classifier", f"{classifier.name}-{classifier.version}", replaced)


@router.post("/{classifier_id}/threshold")
def threshold(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, user: CurrentUser,
    classifier: ClassifierDep, by: Annotated[str, Form(max_length=10)] = "f1", value: Annotated[str, Form(max_length=20)] = "",
) -> Response:  # fmt: skip
    """The same weights with another threshold, as the next version."""
    args: dict[str, Any] = {"classifier_id": classifier.id, "by": by}
    try:
        args |= chosen_threshold(by, value)
    except ValueError as error:
        return _show(request, project, session, settings, classifier, {"by": by, "value": value}, str(error), 422)
    jobs.enqueue(session, "threshold", project.id, args, user)
    return redirect(request, f"/projects/{project.slug}/classifiers")


def chosen_threshold(by: str, value: str) -> dict[str, float]:
    """The form's value as a share; caps and budgets are typed in percent. Raises ValueError."""
    if by not in WAYS:
        raise ValueError(f"choose by one of {', '.join(WAYS)}")
    if by in BETAS:
        return {}
    try:
        share = float(value) / (1 if by == "value" else 100)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        wanted = "a probability between 0 and 1" if by == "value" else "a percentage between 0 and 100"
        raise ValueError(f"give {wanted}, not {value or 'nothing'}")
    return {"value": share}


@router.get("/{classifier_id}/errors")
def errors(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, classifier: ClassifierDep,
    on: Literal["gold", "test", "validation", ""] = "",
) -> Response:  # fmt: skip
    """The worst mistakes of the newest evaluation, each a link into the reader."""
    details = details_of(settings, classifier.id)
    name = on or next((n for n in ("gold", "test", "validation") if n in details), "test")
    return render(
        request, "classifiers/errors.html", "classifiers/_errors.html",
        project=project, classifier=classifier, on=name, sets=[n for n in ("gold", "test", "validation") if n in details],
        lists=worst(session, project.id, details.get(name, {}).get("errors") or {}),
    )  # fmt: skip


@router.get("/{classifier_id}/compare")
def comparison(
    request: Request, project: ProjectDep, session: SessionDep, settings: SettingsDep, classifier: ClassifierDep,
    to: Annotated[int, Query(ge=1, lt=2**31)],
) -> Response:  # fmt: skip
    """This classifier minus another one, on the same documents."""
    other = get_classifier(project, session, to)
    found = compare(*(details_of(settings, row.id) for row in (classifier, other)))
    return render(
        request, "classifiers/compare.html",
        project=project, classifier=classifier, other=other, comparisons=found,
        rows=[row for row in queries.classifiers_of(session, project.id) if row.id != classifier.id],
    )  # fmt: skip
