"""Another threshold for a classifier: its next version, with the same weights and scores."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import models as m
from app.db import reading
from app.jobs import JobView
from app.settings import Settings
from app.steps import Sessions, evaluate_classifier, once, register, relay, weak_documents
from labeling.curves import choose_threshold
from labeling.events import Artifact, Event, Progress
from labeling.export import with_threshold


def choose(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """By F1, a cap on false positives or a budget on the validation split's weak labels, or as given."""
    classifier_id, by, value = int(job.args["classifier_id"]), job.args["by"], job.args.get("value")
    yield Progress(0, None, "", "choose a threshold")
    with reading(sessions) as session:
        row = session.get_one(m.Classifier, classifier_id)
        folder = settings.data_dir / session.get_one(m.Artifact, row.artifact_id).path
    out = settings.artifacts_dir / f"classifier-{job.id}"

    def make() -> Iterator[Event]:
        if by == "value" and value is not None:
            threshold = float(value)
        else:
            threshold = _on_validation(settings, sessions, row, by, value)
        chosen = {"by": by, "value": value, "from": f"{row.name}:{row.version}"}
        yield Artifact("classifier", out, with_threshold(folder, threshold, chosen, out))

    made: list[Artifact] = []
    yield from relay(once(out, "classifier", make), made)
    artifact_id = register(sessions, settings, job, made[-1])
    with sessions.begin() as session:
        new = _next_version(session, row, artifact_id, made[-1])
        new_id = new.id
    yield from evaluate_classifier(settings, sessions, new_id)


def _on_validation(settings: Settings, sessions: Sessions, row: m.Classifier, by: str, value: float | None) -> float:
    from labeling.evaluate import score
    from labeling.predictions import Prediction, PredictionStore

    if row.label_set_id is None or row.predictions_id is None:
        raise ValueError(f"{row.name}:{row.version} was not scored on the project's corpus; give the threshold itself")
    with reading(sessions) as session:
        path = settings.data_dir / session.get_one(m.Artifact, row.predictions_id).path
    predictions = PredictionStore.open(path)
    truth = [d for d, split in weak_documents(settings, sessions, row.label_set_id) if split == "validation"]
    scored = (Prediction(d.id, *at).to_json(row.threshold) for d in truth if (at := predictions.document(d.id)))
    found = score(scored, truth, bootstrap=0)
    return choose_threshold(found.p, found.y, by, value)


def _next_version(session: Session, row: m.Classifier, artifact_id: int, made: Artifact) -> m.Classifier:
    """Registered once, however often the job ran."""
    known = session.scalar(select(m.Classifier).where(m.Classifier.artifact_id == artifact_id))
    if known is not None:
        return known
    taken = select(m.Classifier.version).where(m.Classifier.project_id == row.project_id, m.Classifier.name == row.name)
    new = m.Classifier(
        project_id=row.project_id, name=row.name, version=max(session.scalars(taken), default=0) + 1,
        label_set_id=row.label_set_id, artifact_id=artifact_id, predictions_id=row.predictions_id,
        threshold=float(made.info["threshold"]), info={"training": made.info},
    )  # fmt: skip
    session.add(new)
    session.flush()
    return new
