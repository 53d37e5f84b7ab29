"""Baselines: what each one knows, by hand, and the step that scores files with them."""

from pathlib import Path

import pytest

from labeling.baselines import NAMES, BaselineConfig, baselines, fit_terms, fit_tfidf
from labeling.documents import Document
from labeling.evaluate import read_predictions, score
from labeling.events import Artifact
from labeling.examples import Labelled
from labeling.tokens import sentences
from tests.fakes import corpus, tiny_encoder

EXAMPLES = [Labelled(d, "validation" if i % 4 == 0 else "train") for i, d in enumerate(corpus(80))]


def test_a_terms_probability_is_its_smoothed_share_of_forget_occurrences() -> None:
    documents = [
        Document("a", "dose Dose rain", spans=[(0, 9)]),
        Document("b", "dose rain sun", spans=[], ignore=[(10, 13)]),
    ]
    (found,) = fit_terms(documents)([Document("c", "Dose rain moon")])
    overall = 2 / 5  # the ignored sun is not counted
    assert found.p.tolist() == pytest.approx([(2 + overall) / 4, overall / 3, overall])
    assert found.starts.tolist() == [0, 5, 10]


def test_tfidf_gives_a_sentence_one_probability() -> None:
    scorer = fit_tfidf([e.document for e in EXAMPLES if e.split == "train"])
    (found,) = scorer([Document("a", "The surgeon inserted a catheter. The coach scored a penalty.")])
    assert len(set(found.p[:5].tolist())) == len(set(found.p[5:].tolist())) == 1
    assert found.p[0] > 0.5 > found.p[-1]


def test_sentences_cover_the_text_and_end_at_stops_and_line_breaks() -> None:
    text = "It cost 3.5 mg. “Yes!” Then\nnothing"
    assert [text[a:b] for a, b in sentences(text)] == ["It cost 3.5 mg. ", "“Yes!” ", "Then\n", "nothing"]
    assert sentences("") == []


def test_all_baselines_are_scored_on_the_documents_given(tmp_path: Path) -> None:
    config = BaselineConfig(str(tiny_encoder(tmp_path / "encoder")), train_tokens=3000, window=64, l2=1e-5)
    targets = corpus(20, seed=7)
    *_, made = baselines(EXAMPLES, targets, config, tmp_path / "out")
    assert isinstance(made, Artifact) and set(made.info["thresholds"]) == set(NAMES)
    f1 = {name: score(read_predictions(tmp_path / "out" / f"{name}.jsonl"), targets, bootstrap=0).f1 for name in NAMES}
    for name, value in f1.items():  # the two probes stand on a random encoder
        assert (value or 0) > (0.4 if name in ("terms", "tfidf") else 0.2), f1
    assert (f1["tfidf"] or 0) > (f1["document"] or 0)  # a whole document goes or stays


def test_a_split_without_forget_text_is_refused(tmp_path: Path) -> None:
    examples = [Labelled(Document("a", "Rain.", spans=[]), split) for split in ("train", "validation")]
    with pytest.raises(ValueError, match="forget words"):
        list(baselines(examples, [], BaselineConfig("none"), tmp_path / "out"))
