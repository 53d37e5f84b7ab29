import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from labeling.artifacts import verify
from labeling.documents import Document
from labeling.events import Artifact, Event
from labeling.examples import TrainConfig
from labeling.export import write_classifier
from labeling.filtering import PLACEHOLDER, FilterConfig, _bins, _within, filter_corpus, hidden
from labeling.predict import load_classifier, predict
from labeling.tokens import Tokens, overlapping, tokenize
from labeling.train import untrained
from tests.fakes import corpus, tiny_encoder, tiny_tokenizer

DOCUMENTS = [*corpus(9), Document("odd", "Café 👩‍⚕️\r\nnaïve"), Document("blank", " \n ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filtering")
    classifier = untrained(TrainConfig(str(tiny_encoder(root / "encoder")), window=64, overlap=16))
    with torch.no_grad():
        classifier.head.weight.mul_(8)
    write_classifier(classifier, root / "classifier", {}, onnx=False)
    with open(root / "corpus.jsonl", "w", encoding="utf-8") as file:
        for d in DOCUMENTS:
            file.write(json.dumps({"id": d.id, "text": d.text}) + "\n")
        file.write('{"id": "broken", "text": 3}\n')
    tiny_tokenizer(root / "gpt")
    return root


def run(folder: Path, out: Path, **config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    *_, made = filter_corpus(
        folder / "classifier", [str(folder / "corpus.jsonl")], out, FilterConfig(**{"shard_documents": 4} | config)
    )
    assert isinstance(made, Artifact) and made.kind == "filter"
    return made.info, [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_masked_documents_are_whole_and_their_forget_tokens_are_not_learned(folder: Path, tmp_path: Path) -> None:
    info, rows = run(folder, tmp_path / "out", treatment="mask", threshold=0.5)
    classifier = load_classifier(folder / "classifier")
    assert [(r["id"], r["text"]) for r in rows] == [(d.id, d.text) for d in DOCUMENTS]
    for row, tokens in zip(rows, tokenize(classifier.tokenizer, [d.text for d in DOCUMENTS]), strict=True):
        assert row["input_ids"] == tokens.ids.tolist() and len(row["loss_mask"]) == len(tokens)
    predictions = list(predict(classifier, DOCUMENTS[:4]))  # as the first shard was scored
    assert [r["loss_mask"] for r in rows[:4]] == [(p.p < 0.5).astype(int).tolist() for p in predictions]
    removed = sum(r["loss_mask"].count(0) for r in rows)
    assert info["removed_tokens"] == removed > 0 and info["documents"] == 11
    schema = pq.read_schema(tmp_path / "out" / "000-corpus-00000.parquet")
    assert schema.names == ["id", "text", "input_ids", "loss_mask"] and schema.field("loss_mask").type == pa.list_(
        pa.uint8()
    )


def test_labels_follow_the_text_to_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    _, rows = run(folder, tmp_path / "out", threshold=0.5, tokenizer=str(folder / "gpt"), shard_documents=100)
    from transformers import AutoTokenizer

    gpt = tokenize(AutoTokenizer.from_pretrained(folder / "gpt"), [d.text for d in DOCUMENTS])
    predictions = predict(load_classifier(folder / "classifier"), DOCUMENTS)
    for row, tokens, prediction in zip(rows, gpt, predictions, strict=True):
        forget = overlapping(tokens.starts, tokens.ends, prediction.spans(0.5))
        assert row["loss_mask"] == (~forget).astype(int).tolist()


def test_the_classifiers_own_tokens_are_not_made_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(tokenizer: Any, texts: list[str]) -> list[Tokens]:
        made.extend(texts)
        return tokenize(tokenizer, texts)

    monkeypatch.setattr("labeling.predict.tokenize", counted)
    monkeypatch.setattr("labeling.scoring.tokenize", counted)
    run(folder, tmp_path / "out", treatment="mask", threshold=0.5)
    assert made == [d.text for d in DOCUMENTS]


def test_removed_tokens_are_gone_from_ids_and_text(folder: Path, tmp_path: Path) -> None:
    _, masked = run(folder, tmp_path / "mask", treatment="mask", threshold=0.5)
    info, rows = run(folder, tmp_path / "remove", treatment="remove", threshold=0.5)
    assert info["placeholder_id"] == len(load_classifier(folder / "classifier").tokenizer)
    for row, before in zip(rows, masked, strict=True):
        assert row["loss_mask"] == before["loss_mask"]
        expected = [
            i if keep else info["placeholder_id"]
            for i, keep in zip(before["input_ids"], before["loss_mask"], strict=True)
        ]
        assert row["input_ids"] == expected
        assert row["text"].count(PLACEHOLDER) == row["loss_mask"].count(0)


def test_hiding_by_hand() -> None:
    assert hidden("give 5 mg now", np.array([5, 7]), np.array([6, 9])) == "give <|hidden|> <|hidden|> now"
    assert hidden("a⭢b", np.array([1, 1, 1]), np.array([2, 2, 2])) == "a<|hidden|>b"  # three bytes, one character
    assert hidden("ab", np.array([0]), np.array([2])) == "<|hidden|>"
    assert hidden("ab", np.array([], int), np.array([], int)) == "ab"


def test_documents_above_the_share_are_dropped(folder: Path, tmp_path: Path) -> None:
    _, masked = run(folder, tmp_path / "mask", threshold=0.5)
    shares = [r["loss_mask"].count(0) / max(len(r["loss_mask"]), 1) for r in masked]
    middle = sorted(shares)[len(shares) // 2]
    info, rows = run(folder, tmp_path / "out", treatment="document", threshold=0.5, document_share=middle)
    assert set(rows[0]) == {"id", "text", "kept"}
    assert [r["kept"] for r in rows] == [np.float32(s) < np.float32(middle) for s in shares]
    assert info["kept_documents"] == sum(r["kept"] for r in rows)


@pytest.mark.parametrize("treatment", ["mask", "remove", "document"])
@pytest.mark.parametrize("budget", [0.0, 0.1, 0.4, 1.0])
def test_a_budget_is_used_and_never_overrun(treatment: str, budget: float, folder: Path, tmp_path: Path) -> None:
    info, _ = run(folder, tmp_path / "out", treatment=treatment, budget=budget)
    assert info["removed_share"] <= budget
    if treatment != "document":
        assert info["removed_share"] >= budget - 0.02


def test_the_budgets_threshold_by_hand() -> None:
    counts = np.zeros(int(_bins(np.ones(1, np.float32))[0]) + 1, np.int64)
    for p in (0.125, 0.25, 0.5, 0.5, 1.0):
        counts[_bins(np.array([p], np.float32))] += 1
    assert 0.25 < _within(counts, 0.6) <= 0.5
    assert 0.5 < _within(counts, 0.59) <= 1.0
    assert _within(counts, 0.19) > 1.0
    assert _within(counts, 1.0) == 0.0


def test_scores_beside_the_output_hold_every_token(folder: Path, tmp_path: Path) -> None:
    info, rows = run(folder, tmp_path / "out", threshold=0.5)
    scores = [r for path in sorted((tmp_path / "out" / "_scores").iterdir()) for r in pq.read_table(path).to_pylist()]
    for row, score in zip(rows, scores, strict=True):
        assert row["id"] == score["id"]
        assert row["loss_mask"] == [int(p < info["threshold"]) for p in score["p"]]
        assert len(score["starts"]) == len(score["ends"]) == len(score["p"])


def test_rows_that_cannot_be_read_are_listed(folder: Path, tmp_path: Path) -> None:
    info, _ = run(folder, tmp_path / "out")
    [line] = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert info["rejected"] == 1 and json.loads(line)["row"] == 12 and "text" in json.loads(line)["reason"]


def files(out: Path) -> dict[str, bytes]:
    verify(out, "filter")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_run_stopped_anywhere_ends_like_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    config = FilterConfig(treatment="remove", budget=0.2, shard_documents=4)
    arguments = folder / "classifier", [str(folder / "corpus.jsonl")]
    clean = tmp_path / "clean"
    events = list(filter_corpus(*arguments, clean, config))
    expected = files(clean)
    for stop in range(1, len(events)):
        out = tmp_path / str(stop)
        steps = filter_corpus(*arguments, out, config)
        for _ in range(stop):
            next(steps)
        steps.close()  # type: ignore[attr-defined]
        assert not out.exists()
        assert len(list(filter_corpus(*arguments, out, config))) <= len(events)
        assert files(out) == expected
        assert not out.with_name(f"{stop}.partial").exists()


def test_what_a_run_killed_while_sealing_left_is_not_delivered(folder: Path, tmp_path: Path) -> None:
    steps = filter_corpus(folder / "classifier", [str(folder / "corpus.jsonl")], tmp_path / "out", FilterConfig())
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    (tmp_path / "out.partial" / "whole" / ".MANIFEST.json.1.tmp").write_text("{")
    run(folder, tmp_path / "out", shard_documents=FilterConfig.shard_documents)
    assert not [name for name in files(tmp_path / "out") if name.endswith(".tmp")]


def test_a_shard_ends_with_the_document_that_fills_it(folder: Path, tmp_path: Path) -> None:
    _, rows = run(folder, tmp_path / "out", shard_documents=100, shard_characters=400)
    assert [row["id"] for row in rows] == [d.id for d in DOCUMENTS]
    shards = [pq.read_table(p).column("text").to_pylist() for p in sorted((tmp_path / "out").glob("*.parquet"))]
    sizes = [[len(text) for text in texts] for texts in shards]
    assert len(sizes) > 2 and all(sum(shard[:-1]) < 400 for shard in sizes)
    assert all(sum(shard) >= 400 for shard in sizes[:-1])


def test_standard_input_is_read_anew_each_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(*documents: Document) -> Iterator[Event]:
        lines = "".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        return filter_corpus(folder / "classifier", ["-"], tmp_path / "out", FilterConfig(shard_documents=1))

    def ids() -> list[str]:
        return [i for p in sorted((tmp_path / "out").glob("*.parquet")) for i in pq.read_table(p)["id"].to_pylist()]

    stopped = piped(*DOCUMENTS[:3])
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    for documents in (DOCUMENTS[3:5], DOCUMENTS[5:6]):  # after one that was stopped, and after one that is whole
        list(piped(*documents))
        assert ids() == [d.id for d in documents]


def test_a_finished_folder_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    arguments = folder / "classifier", [str(folder / "corpus.jsonl")], tmp_path / "out", FilterConfig()
    first = list(filter_corpus(*arguments))
    assert list(filter_corpus(*arguments)) == first[-1:]


def test_another_runs_work_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    steps = filter_corpus(folder / "classifier", [str(folder / "corpus.jsonl")], tmp_path / "out", FilterConfig())
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="other inputs or settings"):
        run(folder, tmp_path / "out", treatment="remove")


@pytest.mark.parametrize(
    "change",
    [
        {"treatment": "burn"},
        {"budget": 2.0},
        {"threshold": -0.1},
        {"threshold": 0.5, "budget": 0.1},
        {"shard_documents": 0},
        {"shard_characters": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        FilterConfig(**change)


def test_a_folder_of_files_is_filtered_whole(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    for name, part in (("b.jsonl", DOCUMENTS[:2]), ("a.jsonl", DOCUMENTS[2:5])):
        (inside / name).write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in part))
    (inside / "notes.md").write_text("not a corpus")
    *_, made = filter_corpus(folder / "classifier", [str(inside)], tmp_path / "out", FilterConfig())
    assert isinstance(made, Artifact) and made.info["documents"] == 5
    names = sorted(p.name for p in (tmp_path / "out").glob("*.parquet"))
    assert names == ["000-a-00000.parquet", "001-b-00000.parquet"]


def test_ray_is_asked_for_by_name_where_it_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"install tokensieve\[ray\]"):
        run(folder, tmp_path / "out", engine="ray")


@pytest.mark.slow
def test_ray_filters_as_one_process_does(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config = {"treatment": "remove", "budget": 0.2, "shard_documents": 3}
    run(folder, tmp_path / "here", **config)
    run(folder, tmp_path / "ray", **config, engine="ray")
    assert files(tmp_path / "ray") == files(tmp_path / "here")


def test_a_missing_input_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: no such file"):
        list(filter_corpus(folder / "classifier", ["nowhere.jsonl"], tmp_path / "out", FilterConfig()))
