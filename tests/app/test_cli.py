"""The command line as a person or a script meets it: what it prints, what it writes, how it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app.db import MIGRATIONS
from app.settings import Settings
from labeling.documents import Document
from labeling.examples import TrainConfig
from labeling.export import write_classifier
from labeling.filtering import PLACEHOLDER
from labeling.train import untrained
from tests.app.command import Command, refusal, tokensieve, write
from tests.fakes import SIDES, corpus, tiny_encoder, tiny_reference, tiny_sae

CLASSIFIER = "medicine/sieve:1"
__all__ = ["tokensieve"]


def test_a_file_of_unknown_type_is_refused_with_the_known_types(tokensieve: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "notes.docx", "text")
    said = refusal(tokensieve("import", "medicine", file, "--family", "clinic", "--side", "forget"))
    assert str(file) in said and "unknown file type" in said and ".jsonl" in said and ".parquet" in said


def test_a_missing_file_and_a_wrong_side_are_refused_before_anything_is_made(
    tokensieve: Command, tmp_path: Path, sessions: sessionmaker[Session]
) -> None:
    missing, there = tmp_path / "none.jsonl", write(tmp_path / "there.jsonl", {"text": "A fern."})
    said = refusal(tokensieve("import", "medicine", there, missing, "--family", "clinic", "--side", "forget"))
    assert f"{missing}: no such file" in said
    assert "--side good" in refusal(tokensieve("import", "medicine", there, "--family", "clinic", "--side", "good"))
    with sessions() as session:
        assert session.scalars(select(m.Project)).all() == []


def test_an_empty_file_is_refused_by_name(tokensieve: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "empty.jsonl")
    assert f"{file}: the file is empty" in refusal(
        tokensieve("import", "medicine", file, "--family", "clinic", "--side", "forget")
    )


def test_a_table_without_the_text_column_is_refused_with_its_columns(tokensieve: Command, tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("id,body\n1,A fern.\n")
    said = refusal(tokensieve("import", "medicine", file, "--family", "clinic", "--side", "forget"))
    assert str(file) in said and "body" in said and "--text-field" in said


def test_rows_without_text_are_listed_and_the_others_taken(tokensieve: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "notes.jsonl", {"id": "a", "text": "A fern."}, {"id": "b", "body": "A moss."}, "{broken")
    code, out, err = tokensieve("import", "medicine", file, "--family", "clinic", "--side", "forget")
    assert code == 0
    assert out == f"{file}: 3 rows, 1 added, 2 rejected, 0 conflicts\n"
    assert "notes.jsonl, row 2: field 'text' is missing; name the text field with --text-field" in err
    assert "notes.jsonl, row 3: broken JSON" in err
    code, out, _ = tokensieve("import", "medicine", file, "--family", "clinic", "--side", "forget")
    assert code == 0 and "1 added" in out  # the same file again: still that one


def test_a_port_in_use_is_refused_by_number(tokensieve: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal(tokensieve("serve", "--port", port, "--no-worker"))
    assert f"port {port} is in use" in said and "--port" in said


def test_an_address_that_others_could_reach_is_refused(tokensieve: Command) -> None:
    assert "0.0.0.0" in refusal(tokensieve("serve", "--host", "0.0.0.0", "--no-worker"))


@pytest.mark.parametrize("command", [["discover"], ["label"], ["train"], ["evaluate"]])
def test_an_unknown_project_is_refused_with_the_known_ones(
    tokensieve: Command, project: m.Project, command: list[str]
) -> None:
    said = refusal(tokensieve(*command, "botany"))
    assert "no project 'botany'" in said and "medicine" in said


def test_steps_out_of_order_say_what_comes_first(tokensieve: Command, project: m.Project, tmp_path: Path) -> None:
    assert "reference" in refusal(tokensieve("discover", "medicine"))
    assert "tokensieve label medicine" in refusal(tokensieve("train", "medicine"))
    assert "tokensieve train" in refusal(tokensieve("evaluate", "medicine"))
    file = write(tmp_path / "a.jsonl", {"text": "A fern."})
    assert "sieve:1" in refusal(tokensieve("predict", "sieve:1", file, "-o", tmp_path / "out.jsonl"))
    options = ("--treatment", "mask", "--threshold", 0.5, "--budget", 0.1)
    said = refusal(tokensieve("filter", "sieve:1", file, "-o", tmp_path / "out", *options))
    assert "--threshold" in said and "--budget" in said


def test_an_option_or_a_name_that_cannot_be_is_refused_in_its_own_words(
    tokensieve: Command, project: m.Project
) -> None:
    assert "--k: " in (said := refusal(tokensieve("label", "medicine", "--k", 0))) and "pydantic" not in said
    assert "--boundary: " in refusal(tokensieve("label", "medicine", "--boundary", "fuzzy"))
    assert "sieve:newest" in refusal(tokensieve("evaluate", "medicine", "--classifier", "sieve:newest"))


def test_an_option_of_the_wrong_kind_is_refused_by_name(tokensieve: Command) -> None:
    code, _, err = tokensieve("label", "medicine", "--k", "many")
    assert code == 2 and "--k" in err and "Traceback" not in err


def test_score_names_the_file_and_row_that_is_broken(tokensieve: Command, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", {"id": "a", "text": "A fern.", "spans": []})
    whole = {"id": "a", "spans": [], "tokens": [[0, 1, 0.1], [1, 6, 0.2], [6, 7, 0.1]]}
    cut = write(tmp_path / "cut.jsonl", whole, '{"id": "b", "spans": [')
    said = refusal(tokensieve("score", cut, gold))
    assert f"{cut}" in said and "row 2" in said
    gap = write(tmp_path / "gap.jsonl", whole | {"tokens": [[0, 1, 0.1]]})
    said = refusal(tokensieve("score", gap, gold))
    assert str(gap) in said and "row 1" in said and "every token" in said
    assert str(tmp_path / "no.jsonl") in refusal(tokensieve("score", tmp_path / "no.jsonl", gold))
    broken = write(tmp_path / "broken.jsonl", "{")
    said = refusal(tokensieve("score", write(tmp_path / "p.jsonl", whole), broken))
    assert str(broken) in said and "row 1" in said


# The whole chain ----------------------------------------------------------------------------------


def documents_file(path: Path, documents: list[Document], gold: bool = False) -> Path:
    return write(path, *({"id": d.id, "text": d.text} | ({"spans": d.spans} if gold else {}) for d in documents))


def accept_the_best(sessions: sessionmaker[Session], settings: Settings, how_many: int) -> None:
    """What a person does in the list of latents."""
    with sessions.begin() as session:
        project = session.scalars(select(m.Project)).one()
        made = session.scalars(select(m.Artifact).where(m.Artifact.kind == "discovery")).one()
        assert project.reference_id is not None
        with np.load(settings.data_dir / made.path / "latents.npz", allow_pickle=False) as table:
            best = np.argsort(-table["auroc"])[:how_many]
        for latent in best:
            judged = {"project_id": project.id, "reference_id": project.reference_id, "latent": int(latent)}
            session.add(m.Verdict(**judged, decision="accept", author="owner"))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def ok(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 0, err
    return out


def test_a_corpus_goes_through_every_step_on_the_command_line(
    tokensieve: Command, settings: Settings, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    documents = corpus(75)
    for family, side in SIDES.items():
        mine = documents_file(tmp_path / f"{family}.jsonl", [d for d in documents if d.family == family])
        out = ok(tokensieve("import", "Medicine", mine, "--family", family, "--side", side))
        assert out == f"{mine}: 25 rows, 25 added, 0 rejected, 0 conflicts\n"
    model, sae = tiny_reference(tmp_path / "model"), tiny_sae(tmp_path / "sae")
    out = ok(tokensieve("reference", "add", "tiny", "--model", model, "--sae", sae))
    assert out == f"tiny: {model}, block 2, 64 latents (topk)\n"
    figures = json.loads(ok(tokensieve("sae", "evaluate", sae, "--model", model, "--text", f"{mine}=200")))
    assert figures["held_out_l0"] == 8 and figures["held_out_fvu"] > 0.9  # TopK of 8, of random weights
    code, _, err = tokensieve("discover", "medicine", "--reference", "tiny")
    assert code == 2 and "failed its preflight" in err
    ok(tokensieve("discover", "medicine", "--override", "an SAE of random weights reconstructs nothing"))
    accept_the_best(sessions, settings, 6)
    ok(tokensieve("label", "medicine", "--k", 1, "--z", 1))
    train = ("train", "medicine", "--name", "sieve", "--mode", "probe", "--backbone", tiny_encoder(tmp_path / "mini"))
    assert "F1" in ok(tokensieve(*train))
    scores = json.loads(ok(tokensieve("evaluate", "medicine", "--classifier", "sieve:1", "--json")))
    assert {"validation", "test"} <= scores.keys()
    assert {"terms", "tfidf", "document-probe", "document"} == scores["baselines"].keys()

    fresh = corpus(9, seed=5)
    new, gold = (documents_file(tmp_path / f"{n}.jsonl", fresh, n == "gold") for n in ("new", "gold"))
    by_classifier, by_rule = tmp_path / "classifier.jsonl", tmp_path / "rule.jsonl"
    ok(tokensieve("predict", CLASSIFIER, new, "-o", by_classifier))
    ok(tokensieve("label", "medicine", "--predict", new, "-o", by_rule))
    for file in (by_classifier, by_rule):
        check_predictions([json.loads(line) for line in file.read_text().splitlines()], fresh)
    table = ok(tokensieve("score", f"classifier={by_classifier}", gold, "--with", f"rule={by_rule}"))
    for word in ("classifier", "rule", "f1", "precision", "recall", "auroc"):
        assert word in table.lower()
    ok(tokensieve("baselines", "medicine", new, "-o", tmp_path / "baselines"))
    table = ok(tokensieve("score", by_classifier, gold, "--with", tmp_path / "baselines" / "terms.jsonl"))
    assert "\nterms" in table
    pupil = ("--teacher", CLASSIFIER, "--layers", "1,2", "--concat", "--name", "pupil")
    assert "beside its baselines" in ok(tokensieve(*train[:2], *train[4:], *pupil))
    taught = ("--mode", "probe", "--teacher", "latents", "--name", "taught")
    assert "beside its baselines" in ok(
        tokensieve("train", "medicine", "--backbone", train[train.index("--backbone") + 1], *taught)
    )
    numbers = json.loads(ok(tokensieve("score", by_classifier, gold, "--json")))
    assert numbers["classifier"]["documents"] == len(fresh)

    for treatment in ("mask", "remove", "document"):
        folder = tmp_path / treatment
        info = json.loads(
            ok(tokensieve("filter", CLASSIFIER, new, "-o", folder, "--treatment", treatment, "--budget", 0.2))
        )
        assert info["documents"] == len(fresh)
        check_filtered(rows_of(folder), folder, treatment, fresh)


def test_a_backbone_is_pretrained_from_files(tokensieve: Command, tmp_path: Path) -> None:
    text = documents_file(tmp_path / "text.jsonl", corpus(60))
    small = [
        "--layers",
        "1",
        "--width",
        "16",
        "--heads",
        "2",
        "--vocab",
        "320",
        "--block",
        "32",
        "--batch-tokens",
        "64",
        "--tokens",
        "640",
    ]
    info = json.loads(ok(tokensieve("bilm", "pretrain", "--text", text, "-o", tmp_path / "tiny", *small)))
    assert info["trained_tokens"] == 640 and (tmp_path / "tiny" / "model.safetensors").is_file()
    said = refusal(tokensieve("bilm", "pretrain", "--text", text, "-o", tmp_path / "x", "--preset", "9B"))
    assert "--preset 9B" in said and "224M" in said
    said = refusal(tokensieve("bilm", "pretrain", "--text", tmp_path / "none.jsonl", "-o", tmp_path / "x"))
    assert "none.jsonl" in said


def check_predictions(rows: list[dict[str, Any]], documents: list[Document]) -> None:
    """DESIGN, Formats: every token exactly once, in order; spans inside the text."""
    assert [row["id"] for row in rows] == [d.id for d in documents]
    for row, document in zip(rows, documents, strict=True):
        assert row.keys() == {"id", "spans", "tokens"}
        ends = [0, *(end for _, end, _ in row["tokens"])]
        assert row["tokens"] and all(start >= end for (start, _, _), end in zip(row["tokens"], ends, strict=False))
        assert all(0 <= p <= 1 for _, _, p in row["tokens"])
        assert all(0 <= start < end <= len(document.text) for start, end in row["spans"])


def check_filtered(rows: list[dict[str, Any]], folder: Path, treatment: str, documents: list[Document]) -> None:
    assert (folder / "MANIFEST.json").is_file()
    texts = {d.id: d.text for d in documents}
    if treatment == "document":
        assert all(row.keys() == {"id", "text", "kept"} for row in rows)
        return
    schema = pq.read_schema(next(folder.glob("*.parquet")))
    assert schema.names == ["id", "text", "input_ids", "loss_mask"]
    assert schema.field("loss_mask").type == pa.list_(pa.uint8())
    assert all(len(row["input_ids"]) == len(row["loss_mask"]) for row in rows)
    masked = sum(row["loss_mask"].count(0) for row in rows)
    assert 0 < masked <= 0.25 * sum(len(row["loss_mask"]) for row in rows)
    if treatment == "mask":
        assert {row["id"]: row["text"] for row in rows} == texts
    else:
        assert any(PLACEHOLDER in row["text"] for row in rows)


# As a process: what it leaves behind when it is stopped ---------------------------------------------


def classifier_folder(folder: Path) -> Path:
    classifier = untrained(TrainConfig(str(tiny_encoder(folder / "encoder"))))
    write_classifier(classifier, folder / "classifier", {}, onnx=False)
    return folder / "classifier"


def process(*words: object, **streams: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "app", *map(str, words)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    # Whoever started these tests in the background made them, and so their children, deaf to Ctrl-C.
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, cwd=MIGRATIONS.parent, env=env, stderr=subprocess.PIPE, **hears, **streams)


def test_predict_ends_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    text = documents_file(tmp_path / "text.jsonl", corpus(300))  # far more output than a pipe holds
    running = process("predict", classifier_folder(tmp_path), text, "-o", "-", stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["id"] == "clinic-0"
    running.stdout.close()
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1 and b"Error" not in err and b"pipe" not in err, err


def test_a_table_that_nobody_reads_is_no_error_at_exit(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", {"id": "a", "text": "A fern.", "spans": []})
    found = write(tmp_path / "found.jsonl", {"id": "a", "spans": [], "tokens": [[0, 1, 0.1], [1, 6, 0.2], [6, 7, 0]]})
    running = process("score", found, gold, stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    _, err = running.communicate(timeout=120)
    assert (running.returncode, err) == (1, b"")


def test_predict_that_is_interrupted_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    running = process("predict", classifier_folder(tmp_path), "-", "-o", out, stdin=subprocess.PIPE)
    assert running.stdin is not None
    for i in range(5):
        text = "The nurse inserted a catheter. " * 4000  # more than are scored at a time
        running.stdin.write(json.dumps({"id": str(i), "text": text}).encode() + b"\n")
    running.stdin.flush()  # and left open: it waits for more, with some of it written
    while not (started := tmp_path / ".out.jsonl.tmp").exists() or not started.stat().st_size:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130 and b"tokensieve: stopped" in err and b"Traceback" not in err, err
    assert not out.exists() and not started.exists()
