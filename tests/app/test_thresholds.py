"""Another threshold is another version: same weights, new cut, evaluated; once, however often its job runs."""

import json

import pytest
from sqlalchemy import select

from app.details import details_of
from app.jobs import JobView
from app.models import Artifact, Classifier, Job
from app.thresholds import choose
from labeling.artifacts import verify
from tests.app.reviewed import seed


@pytest.fixture
def classifier(settings, sessions, project) -> int:
    return seed(settings, sessions, project)


def run(settings, sessions, classifier: int, project, **args) -> Classifier:
    with sessions.begin() as session:
        job = Job(kind="threshold", project_id=project.id, args={"classifier_id": classifier, **args}, author="owner")
        session.add(job)
        session.flush()
        view = JobView(job.id, project.id, job.args, "owner")
    for _ in range(2):  # killed after its last event and run again
        list(choose(settings, sessions, view))
    with sessions() as session:
        return session.scalars(select(Classifier).order_by(Classifier.id.desc())).first()


def test_the_next_version_has_the_same_weights_and_another_threshold(settings, sessions, project, classifier):
    made = run(settings, sessions, classifier, project, by="value", value=0.9)
    assert (made.name, made.version, made.threshold) == ("probe", 2, 0.9)
    with sessions() as session:
        first = session.get_one(Classifier, classifier)
        assert (first.threshold, made.predictions_id) == (0.6, first.predictions_id)
        assert len(session.scalars(select(Classifier)).all()) == 2
        folder = settings.data_dir / session.get_one(Artifact, made.artifact_id).path
    verify(folder, "classifier")
    told = json.loads((folder / "tokensieve.json").read_text())
    assert told["threshold"] == 0.9 and told["threshold_chosen"] == {"by": "value", "value": 0.9, "from": "probe:1"}
    old = settings.artifacts_dir / "classifier"
    assert (folder / "model.safetensors").read_bytes() == (old / "model.safetensors").read_bytes()
    # above 0.9 only the seed word of each clinic document is flagged, of its two forget words
    assert made.info["validation"]["recall"] == 0.5 and made.info["validation"]["precision"] == 1
    assert details_of(settings, made.id)["validation"]["per_document"]["clinic-3"][:3] == [1, 0, 1]


@pytest.mark.parametrize(("by", "value", "flagged"), [("f1", None, 2), ("fpr", 0.01, 2), ("budget", 0.03, 1)])
def test_it_is_chosen_on_the_validation_split(settings, sessions, project, classifier, by, value, flagged):
    # validation: clinic p = .75 .95 .65 (the last is retain), sport p = .7 on a retain word; the rest .05
    made = run(settings, sessions, classifier, project, by=by, value=value)
    counts = details_of(settings, made.id)["validation"]["per_document"].values()
    assert sum(row[0] for row in counts) == flagged and sum(row[1] for row in counts) == 0
    assert made.info["training"]["threshold_chosen"]["by"] == by
