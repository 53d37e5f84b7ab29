"""Classifiers: list, training form, evaluation, download."""

import io
import json
import zipfile

import pytest
from sqlalchemy import select

from app.evaluations import evaluations, roc_of
from app.models import Classifier, Job
from labeling.artifacts import verify
from tests.app.reviewed import TABLE, seed

URL = "/projects/medicine/classifiers"


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
    assert client.post(URL, data=data).status_code == 303
    (job,) = jobs(sessions)
    assert job.args == {
        "label_set_id": 1, "name": "strong", "mode": "probe", "labels": "sentence", "teacher": classifier,
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


def test_the_download_is_the_folder_and_verifies(client, classifier, tmp_path):
    answer = client.get(f"{URL}/{classifier}/download")
    assert answer.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    assert verify(tmp_path / "probe-1", "classifier")["info"] == {"threshold": 0.6}


def test_a_changed_byte_is_not_handed_out(client, settings, classifier):
    weights = settings.artifacts_dir / "classifier" / "model.safetensors"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])
    answer = client.get(f"{URL}/{classifier}/download", headers={"Accept": "application/json"})
    assert answer.status_code == 409 and "model.safetensors" in json.loads(answer.text)["detail"]
