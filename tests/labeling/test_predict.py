import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labeling.artifacts import ArtifactError
from labeling.documents import Document
from labeling.events import Artifact
from labeling.examples import TrainConfig
from labeling.export import write_classifier
from labeling.predict import (
    LoadedClassifier,
    batched,
    covering,
    load_classifier,
    plan,
    predict,
    predict_corpus,
    smoothed,
    special_tokens,
    stretches,
)
from labeling.predictions import Prediction, PredictionStore
from labeling.tokens import Tokens, overlapping, tokenize
from labeling.train import untrained
from tests.fakes import corpus, tiny_encoder

AWKWARD = [
    "Café NAÏVE résumé. The patient 👩‍⚕️ received 🌧️ insulin\r\nand\r\n\r\na catheter.",
    "e\u0301galite\u0301 decomposed, zero\u200bwidth, ⭢ arrow, 中文字, \u202eright to left\u202c, İstanbul",
    " \t leading and trailing blanks \r\n ",
    "x",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict")
    classifier = untrained(TrainConfig(str(tiny_encoder(root / "encoder")), window=34, overlap=8))
    with torch.no_grad():
        classifier.head.weight.mul_(8)  # random, but not all 0.5
    write_classifier(classifier, root / "classifier", {}, onnx=False)
    return root / "classifier"


@pytest.fixture(scope="module")
def classifier(folder: Path) -> LoadedClassifier:
    return load_classifier(folder)


def test_neighbouring_windows_share_their_overlap_half_and_half() -> None:
    assert stretches(20, 10, 4) == [(0, 10, slice(0, 8)), (6, 16, slice(2, 8)), (12, 20, slice(2, 8))]
    assert stretches(10, 10, 4) == [(0, 10, slice(0, 10))]
    assert stretches(0, 10, 4) == []


@given(st.integers(1, 500), st.integers(2, 40), st.data())
def test_every_token_is_scored_by_exactly_one_window(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    scored = [start + i for start, end, kept in stretches(length, size, overlap) for i in range(kept.start, kept.stop)]
    assert scored == list(range(length))


def test_scores_are_those_of_transformers(classifier: LoadedClassifier, folder: Path) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    encoded = AutoTokenizer.from_pretrained(folder)("The nurse inserted a catheter.", return_tensors="pt")
    with torch.no_grad():
        expected = model(**encoded).logits.softmax(-1)[0, 1:-1, 1].numpy()
    [found] = predict(classifier, [Document("a", "The nurse inserted a catheter.")])
    assert expected.std() > 0.05
    np.testing.assert_allclose(found.p, expected, atol=0.03)  # bf16 where the CPU has it
    assert model.config.id2label == {0: "RETAIN", 1: "FORGET"}


def test_long_and_awkward_documents_come_back_whole_and_in_order(classifier: LoadedClassifier) -> None:
    long = " ".join(d.text for d in corpus(12))  # far more than ten windows
    texts = [AWKWARD[0], long, *AWKWARD[1:], long[:3000]]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    found = list(predict(classifier, documents, batch_tokens=1024, buffer_characters=2000))
    assert [p.id for p in found] == [d.id for d in documents]
    expected = tokenize(classifier.tokenizer, texts)
    assert len(found[1]) > 10 * classifier.window
    for text, prediction, tokens in zip(texts, found, expected, strict=True):
        assert len(prediction) == len(tokens)
        assert ((prediction.p > 0) & (prediction.p < 1)).all()
        inside = np.zeros(len(text), bool)
        for start, end in zip(prediction.starts, prediction.ends, strict=True):
            inside[start:end] = True
        assert "".join(c for c, covered in zip(text, inside, strict=True) if not covered).strip() == ""


def test_a_token_scores_alike_alone_and_in_company(classifier: LoadedClassifier) -> None:
    documents = corpus(6)
    together = list(predict(classifier, documents))
    for document, prediction in zip(documents, together, strict=True):
        [alone] = predict(classifier, [document])
        np.testing.assert_allclose(alone.p, prediction.p, atol=0.03)


def test_padding_switched_on_in_a_tokenizer_file_is_no_special_token(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.backend_tokenizer.enable_truncation(64)
    assert special_tokens(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def test_batches_of_any_length_come_in_few_widths(classifier: LoadedClassifier) -> None:
    lengths = range(1, 3 * classifier.size)
    batches = [b for n in lengths for b in plan(classifier, [n], 1024)]
    found = {batched(classifier, [np.zeros(end - start, np.int32) for _, start, end, _ in b])[0].shape for b in batches}
    assert {columns for _, columns in found} == {16, 32, classifier.window}
    assert all(rows * columns <= 1024 for rows, columns in found)


def test_documents_are_read_only_as_they_are_needed(classifier: LoadedClassifier) -> None:
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield Document(str(drawn), "The coach scored a penalty. " * 4)

    stream = predict(classifier, endless(), buffer_characters=1000)
    for _ in range(20):
        next(stream)
    assert drawn <= 30


def test_dropped_characters_belong_to_the_token_before_them() -> None:
    tokens = Tokens(np.array([1, 2], np.int32), np.array([1, 4], np.int32), np.array([2, 5], np.int32))
    starts, ends = covering("\u200be\u0301 b\u0301 ", tokens)
    assert (starts.tolist(), ends.tolist()) == ([0, 4], [3, 6])


def test_smoothing_averages_over_what_is_there() -> None:
    p = np.array([0, 1, 0.5, 0.5], np.float32)
    np.testing.assert_allclose(smoothed(p, 1), [0.5, 0.5, 2 / 3, 0.5])
    assert smoothed(p, 0) is p and len(smoothed(p[:0], 2)) == 0


def test_scores_carried_to_other_tokens_by_hand() -> None:
    # 'ab cd' as [ab][cd]; to [a][b cd], to one blank, and to what lies outside.
    found = Prediction("x", np.array([0, 3]), np.array([2, 5]), np.array([0.2, 0.9], np.float32))
    p = found.carried(np.array([0, 1, 2, 5, 1]), np.array([1, 5, 3, 6, 1]))
    np.testing.assert_allclose(p, [0.2, 0.9, 0.2, 0, 0])
    assert len(
        Prediction("x", *np.zeros((2, 0), np.int32), np.zeros(0, np.float32)).carried(np.array([0]), np.array([1]))
    )


@given(st.data())
def test_carried_scores_threshold_like_spans(data: st.DataObject) -> None:
    def tokens(gap: int) -> tuple[np.ndarray, np.ndarray]:
        steps = data.draw(st.lists(st.tuples(st.integers(0, gap), st.integers(1, 4)), min_size=1, max_size=12))
        starts, at = [], 0
        for blank, width in steps:
            starts.append((at + blank, at := at + blank + width))
        return tuple(np.array(starts, np.int32).T)  # type: ignore[return-value]

    mine, theirs = tokens(2), tokens(2)
    n = len(mine[0])
    p = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=n, max_size=n)), np.float32)
    prediction = Prediction("x", *mine, p)
    for threshold in (0.2, 0.4, 0.6, 0.8):
        expected = overlapping(*theirs, prediction.spans(threshold))
        np.testing.assert_array_equal(prediction.carried(*theirs) >= threshold, expected)


def test_a_prediction_line_is_the_documented_format() -> None:
    found = Prediction("x", np.array([0, 3]), np.array([2, 5]), np.array([0.75, 0.5], np.float32))
    assert json.loads(json.dumps(found.to_json(0.6))) == {
        "id": "x",
        "spans": [[0, 2]],
        "tokens": [[0, 2, 0.75], [3, 5, 0.5]],
    }


def test_a_stored_corpus_gives_back_each_document(classifier: LoadedClassifier, folder: Path, tmp_path: Path) -> None:
    documents = [*corpus(5), Document("blank", " ")]
    *_, made = predict_corpus(folder, documents, tmp_path / "predictions")
    assert isinstance(made, Artifact) and made.kind == "predictions" and made.info["documents"] == 6
    store = PredictionStore.open(tmp_path / "predictions")
    for prediction in predict(classifier, documents):
        starts, ends, p = store.document(prediction.id)
        np.testing.assert_array_equal(starts, prediction.starts)
        np.testing.assert_array_equal(ends, prediction.ends)
        np.testing.assert_allclose(p, prediction.p, atol=1e-3)
    assert store.document("missing") is None
    assert [p.id for p in store] == [d.id for d in documents]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokensieve.json", "README.md"])
def test_one_changed_byte_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=name):
            load_classifier(folder)
    finally:
        (folder / name).write_bytes(whole)


def test_reading_predictions_needs_no_torch() -> None:
    code = "import sys, labeling.predictions; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
