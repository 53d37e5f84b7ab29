"""Classifiers: list, training form, evaluation, download."""

import io
import json
import zipfile

import pytest
from sqlalchemy import select

from app import details
from app.evaluations import evaluations, roc_of
from app.models import Classifier, Document, Job
from labeling.artifacts import verify
from tests.app.reviewed import TABLE, seed

URL = "/projects/medicine/classifiers"
DETAILS = {
    "test": {
        "roc_curve": [[0.9, 0.0, 0.25], [0.5, 0.1, 0.6]],
        "calibration": {"ece": 0.07, "brier": 0.1, "bins": [[0.1, 0.05, 90], [0.9, 0.8, 10]]},
        "errors": {"false_positives": [["sport-1", 4, 11, 0.7]], "false_negatives": [["clinic-1", 0, 3, 0.05], ["gone", 0, 3, 0.1]]},
        "per_document": {"sport-1": [0, 2, 0, 8], "clinic-1": [4, 0, 2, 6], "biology-1": [0, 0, 0, 9]},
    }
}  # fmt: skip


@pytest.fixture
def classifier(settings, sessions, project) -> int:
    return seed(settings, sessions, project)


def jobs(sessions) -> list[Job]:
    with sessions() as session:
        return list(session.scalars(select(Job).where(Job.state == "queued")))


def test_roc_points_follow_from_precision_and_recall():
    # 10 forget and 10 retain words; 5 hits with precision 0.5 means 5 false positives
    assert roc_of([(0.5, 0.5, 0.5)], 20, 10) == [(0, 0), (0.5, 0.5), (1, 1)]
    assert roc_of([(0.5, 1.0, 0.5)], 10, 10) == []


def test_the_worst_retain_family_comes_first():
    (table,) = evaluations({"test": TABLE, "training": {"loss": 1}})
    assert [row.name for row in table.families] == ["sport", "biology", "clinic"]
    assert table.worst_fpr == 0.1
    clinic = {**TABLE["families"]["clinic"], "fpr": 1.0}  # of the few retain words in forget text
    (table,) = evaluations({"test": {**TABLE, "families": {**TABLE["families"], "clinic": clinic}}})
    assert table.families[-1].name == "clinic" and table.worst_fpr == 0.1
    assert (table["f1"].low, table["precision"].low) == (0.5, None)


def test_the_list_and_the_page_show_the_figures(client, classifier):
    listed, page = client.get(URL).text, client.get(f"{URL}/{classifier}").text
    assert "probe:1" in listed and "10.0%" in listed
    assert "0.500 – 0.700" in page and "Precision over recall" in page and "<svg" in page


def test_a_project_without_labels_says_what_to_do_first(client, project):
    assert "save a rule first" in client.get(URL).text


def test_training_is_queued_with_its_choices(client, sessions, classifier):
    answer = client.post(URL, data={"label_set_id": 1, "name": "mine", "mode": "finetune"})
    assert answer.status_code == 303
    (job,) = jobs(sessions)
    assert (job.kind, job.args) == ("train", {"label_set_id": 1, "name": "mine", "mode": "finetune"})


def test_a_choice_of_labels_and_teacher_is_queued_with_it(client, sessions, classifier):
    data = {"label_set_id": 1, "name": "strong", "mode": "probe", "labels": "sentence", "teacher": str(classifier)}
    assert client.post(URL, data=data | {"threshold": "f2"}).status_code == 303
    (job,) = jobs(sessions)
    assert job.args == {
        "label_set_id": 1, "name": "strong", "mode": "probe", "labels": "sentence", "teacher": classifier, "threshold": "f2",
    }  # fmt: skip


def test_the_page_shows_the_baselines_beside_it(client, sessions, classifier):
    with sessions.begin() as session:
        row = session.get_one(Classifier, classifier)
        row.info = {**row.info, "baselines": {"terms": {"test": {**TABLE, "f1": 0.41}}, "rule": {"gold": TABLE}}}
    page = client.get(f"{URL}/{classifier}").text
    assert "This classifier" in page and "Terms" in page and "0.410" in page
    assert "The rule itself" not in page  # it was not judged on this set


@pytest.mark.parametrize(
    "data",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "ok", "mode": "magic"},
        {"name": "ok", "backbone": "/etc"},
        {"name": "ok", "labels": "letter"},
        {"name": "ok", "teacher": "77"},
        {"name": "ok", "teacher": "latent"},
        {"name": "ok", "threshold": "f3"},
    ],
)
def test_a_bad_form_comes_back_as_itself(client, sessions, classifier, data):
    answer = client.post(URL, data={"label_set_id": 1, **data}, headers={"HX-Request": "true"})
    assert answer.status_code == 422 and 'id="train"' in answer.text and "<html" not in answer.text
    assert jobs(sessions) == []


def test_missing_rows_are_404(client, classifier):
    assert client.get(f"{URL}/999").status_code == 404
    assert client.get(f"{URL}/999/download").status_code == 404
    assert client.post(URL, data={"label_set_id": 99, "name": "x"}).status_code == 404


def test_evaluating_again_is_queued(client, sessions, classifier):
    assert client.post(f"{URL}/{classifier}/evaluate").status_code == 303
    assert jobs(sessions)[0].args == {"classifier_id": classifier}


def test_the_download_is_the_folder_with_its_newest_figures_and_verifies(client, settings, classifier, tmp_path):
    details.write(settings, classifier, DETAILS)
    answer = client.get(f"{URL}/{classifier}/download")
    assert answer.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    assert verify(tmp_path / "probe-1", "classifier")["info"] == {"threshold": 0.6}
    metrics = json.loads((tmp_path / "probe-1" / "metrics.json").read_text())
    assert metrics["test"]["f1"] == 0.62 and metrics["test"]["calibration"]["ece"] == 0.07
    assert "| F1 | 0.620 [0.500, 0.700] |" in (tmp_path / "probe-1" / "README.md").read_text()
    assert not (settings.artifacts_dir / "classifier" / "metrics.json").exists()  # the folder itself stays as it was


def test_a_changed_byte_is_not_handed_out(client, settings, classifier):
    weights = settings.artifacts_dir / "classifier" / "model.safetensors"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])
    answer = client.get(f"{URL}/{classifier}/download", headers={"Accept": "application/json"})
    assert answer.status_code == 409 and "model.safetensors" in json.loads(answer.text)["detail"]


def test_the_page_shows_calibration_and_both_curves_at_the_threshold(client, settings, classifier):
    details.write(settings, classifier, DETAILS)
    page = client.get(f"{URL}/{classifier}").text
    assert "Reliability" in page and "Calibration error" in page and "0.0700" in page
    (table,) = evaluations({"test": TABLE}, DETAILS)
    assert table.roc == [(0, 0), (0, 0.25), (0.1, 0.6)] and table.at_roc == (0.04, 0.5)
    assert table.reliability == [(0.1, 0.05), (0.9, 0.8)]


def test_the_worst_errors_lead_into_the_reader(client, settings, sessions, classifier):
    details.write(settings, classifier, DETAILS)
    page = client.get(f"{URL}/{classifier}/errors")
    with sessions() as session:
        striker = session.scalars(select(Document).where(Document.key == "sport-1")).one()
    assert f"/documents/{striker.id}?at=4" in page.text and "<mark>striker</mark>" in page.text
    assert "clinic-1" in page.text and "gone" not in page.text
    part = client.get(f"{URL}/{classifier}/errors?on=test", headers={"HX-Request": "true"}).text
    assert "<html" not in part and part.strip() in page.text
    assert client.get(f"{URL}/{classifier}/errors?on=train").status_code == 422
    assert client.get(f"{URL}/99/errors").status_code == 404


def test_a_classifier_without_recorded_errors_says_what_to_do(client, classifier):
    assert "Evaluate the classifier" in client.get(f"{URL}/{classifier}/errors").text


def second(sessions, first: int) -> int:
    with sessions.begin() as session:
        row = session.get_one(Classifier, first)
        other = Classifier(
            project_id=row.project_id,
            name="other",
            version=1,
            artifact_id=row.artifact_id,
            threshold=0.5,
            info={"test": TABLE},
        )
        session.add(other)
        session.flush()
        return other.id


def test_two_classifiers_are_compared_on_documents_with_the_same_labels(client, settings, sessions, classifier):
    other = second(sessions, classifier)
    details.write(settings, classifier, DETAILS)
    per_document = {
        "sport-1": [0, 0, 0, 10],
        "clinic-1": [6, 0, 0, 6],
        "biology-1": [1, 0, 0, 8],
    }  # biology was relabelled
    details.write(settings, other, {"test": {"per_document": per_document}})
    (found,) = details.compare(*(details.details_of(settings, i) for i in (classifier, other)))
    assert (found.documents, found.left_out) == (2, 1)
    f1, recall = found.differences[0], found.differences[2]
    assert f1.value == pytest.approx(8 / 12 - 1) and recall.value == pytest.approx(4 / 6 - 1) and recall.interval
    page = client.get(f"{URL}/{classifier}/compare?to={other}").text
    assert "other:1" in page and "-0.333" in page and "1 left out" in page
    assert f'action="{URL}/{classifier}/compare"' in client.get(f"{URL}/{classifier}").text
    assert client.get(f"{URL}/{classifier}/compare?to=99").status_code == 404
    assert client.get(f"{URL}/{classifier}/compare").status_code == 422


def test_nothing_to_compare_on_is_said(client, sessions, classifier):
    assert "Nothing to compare on" in client.get(f"{URL}/{classifier}/compare?to={second(sessions, classifier)}").text


@pytest.mark.parametrize(
    ("data", "args"),
    [
        ({"by": "f1"}, {"by": "f1"}),
        ({"by": "fpr", "value": "2"}, {"by": "fpr", "value": 0.02}),
        ({"by": "budget", "value": "12.5"}, {"by": "budget", "value": 0.125}),
        ({"by": "value", "value": "0.3"}, {"by": "value", "value": 0.3}),
    ],
)
def test_another_threshold_is_queued_as_a_new_version(client, sessions, classifier, data, args):
    assert client.post(f"{URL}/{classifier}/threshold", data=data).status_code == 303
    (job,) = jobs(sessions)
    assert (job.kind, job.args) == ("threshold", {"classifier_id": classifier} | args)


@pytest.mark.parametrize(
    "data", [{"by": "magic"}, {"by": "fpr"}, {"by": "fpr", "value": "200"}, {"by": "value", "value": "x"}]
)
def test_a_threshold_that_cannot_be_comes_back_with_the_form(client, sessions, classifier, data):
    answer = client.post(f"{URL}/{classifier}/threshold", data=data, headers={"HX-Request": "true"})
    assert answer.status_code == 422 and 'id="threshold"' in answer.text and "<html" not in answer.text
    assert client.post(f"{URL}/{classifier}/threshold", data=data).status_code == 422
    assert jobs(sessions) == []
