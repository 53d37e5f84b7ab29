"""Classifiers: the list, training one, and how good one is."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import Response

from app import jobs, queries
from app import review_queries as review
from app.access import ProjectDep, SettingsDep
from app.archives import zip_response
from app.artifacts import folder_of
from app.db import SessionDep
from app.evaluations import evaluations
from app.models import Artifact, Classifier, LabelSet, Project
from app.pages import redirect, render
from app.security import CurrentUser

router = APIRouter(prefix="/projects/{slug}/classifiers")
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
    request: Request, project: Project, session: SessionDep, form: dict[str, str],
    error: str | None = None, status: int = 200,
) -> Response:  # fmt: skip
    rows = queries.classifiers_of(session, project.id)
    training = queries.newest_jobs(session, project.id, ["train", "evaluate"], 3)
    return render(
        request, "classifiers/index.html", "classifiers/_form.html" if error else None, status,
        project=project, classifiers=[(row, evaluations(row.info)) for row in rows],
        label_sets=review.label_sets_of(session, project.id), modes=MODES, form=form, error=error,
        training=[job for job in training if job.state != "done"],
        curves={job.id: jobs.curves(session, job.id) for job in training},
        figures={job.id: jobs.figures(session, job.id) for job in training},
    )  # fmt: skip


@router.get("")
def index(request: Request, project: ProjectDep, session: SessionDep) -> Response:
    return _page(request, project, session, {"name": "classifier", "mode": "probe"})


@router.post("")
def train(
    request: Request,
    project: ProjectDep,
    session: SessionDep,
    user: CurrentUser,
    label_set_id: Annotated[int, Form(ge=1, lt=2**31)],
    name: Annotated[str, Form(max_length=80)] = "",
    mode: Annotated[str, Form(max_length=20)] = "probe",
) -> Response:
    labels = session.get(LabelSet, label_set_id)
    if labels is None or labels.project_id != project.id:
        raise HTTPException(404, "There is no such label set in this project.")
    args = {"label_set_id": label_set_id, "name": name.strip(), "mode": mode}
    if problem := _problem(name.strip(), mode):
        return _page(request, project, session, {"name": name, "mode": mode}, problem, 422)
    jobs.enqueue(session, "train", project.id, args, user)
    return redirect(request, f"/projects/{project.slug}/classifiers")


def _problem(name: str, mode: str) -> str | None:
    if mode not in MODES:
        return f"mode must be one of {', '.join(MODES)}"
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        return "give it a name of letters, digits, '-', '_' and '.' (the command line calls it name:version)"
    return None


@router.get("/{classifier_id}")
def show(request: Request, project: ProjectDep, session: SessionDep, classifier: ClassifierDep) -> Response:
    artifact = session.get_one(Artifact, classifier.artifact_id)
    return render(
        request, "classifiers/show.html",
        project=project, classifier=classifier, artifact=artifact, tables=evaluations(classifier.info),
        labels=session.get(LabelSet, classifier.label_set_id) if classifier.label_set_id else None,
        curves=jobs.curves(session, artifact.job_id) if artifact.job_id else {},
        sides=queries.sides_of(session, project.id),
    )  # fmt: skip


@router.post("/{classifier_id}/evaluate")
def evaluate(
    request: Request, project: ProjectDep, session: SessionDep, user: CurrentUser, classifier: ClassifierDep
) -> Response:
    """Score it again: gold grows while people review."""
    jobs.enqueue(session, "evaluate", project.id, {"classifier_id": classifier.id}, user)
    return redirect(request, f"/projects/{project.slug}/classifiers")


@router.get("/{classifier_id}/download")
def download(session: SessionDep, settings: SettingsDep, classifier: ClassifierDep) -> Response:
    """The exported folder as a zip; it loads with plain transformers."""
    folder = folder_of(settings, session.get_one(Artifact, classifier.artifact_id))
    return zip_response(folder, "classifier", f"{classifier.name}-{classifier.version}")
