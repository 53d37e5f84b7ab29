"""Filter runs: the form, what a path may be, downloads."""

import os

import pytest
from sqlalchemy import select

from app.models import Artifact, Job
from app.routes.exports import chosen_cut
from app.server_paths import checked
from labeling.artifacts import staged
from tests.app.reviewed import seed

URL = "/projects/medicine/filters"


@pytest.fixture
def classifier(settings, sessions, project) -> int:
    return seed(settings, sessions, project)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "corpora"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.jsonl").write_text("{}\n")
    (tmp_path / "corpora-secret").mkdir()
    (tmp_path / "corpora-secret" / "canary.jsonl").write_text("canary")
    return folder


def test_a_file_inside_a_root_is_found(root):
    assert checked(f"{root}/inner/../inner/a.jsonl", [root]) == root / "inner" / "a.jsonl"


def test_everything_else_is_refused_with_one_message(root):
    (root / "link.jsonl").symlink_to(root.parent / "corpora-secret" / "canary.jsonl")
    os.mkfifo(root / "pipe.jsonl")
    outside = [
        "", "inner/a.jsonl", f"{root}/../corpora-secret/canary.jsonl", f"{root}-secret/canary.jsonl",
        f"{root}/%2e%2e/corpora-secret/canary.jsonl", f"{root}/%252e%252e/x",
        f"{root}/..\\corpora-secret\\canary.jsonl", f"{root}/link.jsonl", f"{root}/pipe.jsonl",
        f"{root}/inner", f"{root}/missing.jsonl", "/etc/passwd",
        "http://127.0.0.1/x.jsonl", "file:///etc/passwd", f"{root}/a\0.jsonl", "hf:wikitext",
    ]  # fmt: skip
    for name in outside:
        with pytest.raises(ValueError, match="TOKENSIEVE_IMPORT_ROOTS"):
            checked(name, [root])
    with pytest.raises(ValueError):
        checked(f"{root}/inner/a.jsonl", [])


def test_a_budget_is_given_in_percent():
    assert chosen_cut("mask", "budget", "", "6") == {"treatment": "mask", "budget": 0.06}
    assert chosen_cut("remove", "threshold", "0.3", "") == {"treatment": "remove", "threshold": 0.3}
    assert chosen_cut("document", "own", "nonsense", "") == {"treatment": "document"}


@pytest.mark.parametrize(
    "form",
    [
        ("burn", "own", "", ""),
        ("mask", "budget", "", "0"),
        ("mask", "budget", "", "x"),
        ("mask", "threshold", "nan", ""),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(form):
    with pytest.raises(ValueError):
        chosen_cut(*form)


def queued(sessions) -> list[Job]:
    with sessions() as session:
        return list(session.scalars(select(Job).where(Job.kind == "filter")))


def test_an_upload_is_saved_under_our_own_name_and_queued(client, settings, sessions, classifier):
    files = {"files": ("../../evil.jsonl", b'{"id": "1", "text": "x"}\n')}
    answer = client.post(URL, data={"classifier_id": classifier, "treatment": "mask"}, files=files)
    assert answer.status_code == 303
    (job,) = queued(sessions)
    (saved,) = (settings.data_dir / "uploads").iterdir()
    assert job.args == {"classifier_id": classifier, "treatment": "mask", "inputs": [str(saved.absolute())]}
    assert "evil" not in saved.name and saved.suffix == ".jsonl"


def test_a_server_path_must_lie_inside_a_root(client, settings, sessions, classifier, root):
    settings.import_roots = [root]
    outside = client.post(URL, data={"classifier_id": classifier, "path": f"{root}-secret/canary.jsonl"})
    assert outside.status_code == 422 and queued(sessions) == []
    inside = client.post(URL, data={"classifier_id": classifier, "path": f"{root}/inner/a.jsonl"})
    assert inside.status_code == 303 and queued(sessions)[0].args["inputs"] == [f"{root}/inner/a.jsonl"]


def test_a_form_without_input_comes_back_as_itself(client, classifier):
    answer = client.post(URL, data={"classifier_id": classifier}, headers={"HX-Request": "true"})
    assert answer.status_code == 422 and 'id="filter"' in answer.text and "<html" not in answer.text


def test_archives_are_refused(client, sessions, classifier):
    answer = client.post(URL, data={"classifier_id": classifier}, files={"files": ("a.zip", b"PK")})
    assert answer.status_code == 422 and queued(sessions) == []


def test_missing_rows_are_404(client, classifier):
    assert client.post(URL, data={"classifier_id": 99}).status_code == 404
    assert client.get(f"{URL}/999/download").status_code == 404


def test_a_run_is_shown_and_downloaded(client, settings, sessions, project, classifier):
    with staged(settings.artifacts_dir / "filter-9", "filter", {}) as folder:
        (folder / "00000.parquet").write_bytes(b"rows")
    with sessions.begin() as session:
        args = {"classifier_id": classifier, "treatment": "mask", "budget": 0.06, "inputs": []}
        job = Job(kind="filter", project_id=project.id, state="done", author="owner", args=args)
        session.add(job)
        session.flush()
        info = {"tokens": 1000, "removed_share": 0.059}
        made = Artifact(project_id=project.id, job_id=job.id, kind="filter", path="artifacts/filter-9", info=info)
        session.add(made)
        session.flush()
        made_id = made.id
    page = client.get(URL).text
    assert "budget 6.0%" in page and "5.9%" in page
    assert client.get(f"{URL}/{made_id}/download").content.startswith(b"PK")


def test_without_a_classifier_the_page_says_what_to_do(client, project):
    assert "needs a trained classifier" in client.get(URL).text
