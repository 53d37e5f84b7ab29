"""Scores by hand on a few words, then against scikit-learn, then hostile prediction files."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from labeling.documents import Document
from labeling.evaluate import Scores, format_table, inside, paired, read_predictions, score
from labeling.tokens import words

# Six words: "the"(0) "sick"(4) "man"(9) "ran"(13) "a"(17) "mile"(19).
TEXT = "the sick man ran a mile"


def gold(spans, ignore=(), id_="a", family="clinic", side="forget", text=TEXT):
    return Document(id_, text, family, side, {}, [tuple(s) for s in spans], [tuple(s) for s in ignore])


def prediction(spans, p=None, id_="a", text=TEXT):
    found = words(text)
    p = [0.5] * len(found) if p is None else p
    return {"id": id_, "spans": spans, "tokens": [[s, e, x] for (s, e), x in zip(found, p, strict=True)]}


def test_figures_by_hand():
    # gold: sick, man; predicted: man, ran, a. TP 1, FP 2, FN 1, TN 2.
    s = score([prediction([[9, 18]], [0.1, 0.4, 0.9, 0.8, 0.7, 0.2])], [gold([[4, 12]])])
    assert s.counts.tolist() == [[1, 2, 1, 2]]
    assert (s.documents, s.words, s.forget_words) == (1, 6, 2)
    assert s.precision == pytest.approx(1 / 3)
    assert s.recall == pytest.approx(1 / 2)
    assert s.f1 == pytest.approx(2 / 5)
    assert s.f2 == pytest.approx(5 / 11)
    assert s.fpr == pytest.approx(2 / 4)
    # pairs of a forget and a retain word: .9 beats all four; .4 beats .1 and .2.
    assert s.auroc == pytest.approx(6 / 8)
    table = s.to_json()
    assert table["f1"] == s.f1
    assert table["families"]["clinic"]["words"] == 6
    assert table["pr_curve"][0] == (0.9, 1.0, 0.5)  # at 0.9 only man is flagged


def test_a_word_counts_by_its_first_character():
    # "ick" of sick lies in the span, its first letter does not; only the m of man does.
    s = score([prediction([[5, 10]])], [gold([[5, 10]])])
    assert s.y.tolist() == [False, False, True, False, False, False]
    assert s.counts.tolist() == [[1, 0, 0, 5]]


def test_ignored_words_are_not_scored():
    s = score([prediction([[4, 8]])], [gold([[9, 12]], ignore=[[4, 8], [14, 16]])])
    assert s.words == 5  # sick is ignored; "ran" begins before the ignored range
    assert s.counts.tolist() == [[0, 0, 1, 4]]


def test_offsets_are_code_points():
    text = "🙂é ill"
    s = score([prediction([[3, 6]], text=text)], [gold([[3, 6]], text=text)])
    assert (s.words, s.f1) == (2, 1)


def test_figures_without_a_denominator_are_none():
    s = score([prediction([])], [gold([])])
    assert (s.precision, s.recall, s.f1, s.auroc, s.fpr) == (None, None, None, None, 0)
    s = score([prediction([])], [gold([[0, len(TEXT)]])])
    assert (s.precision, s.recall, s.f1, s.fpr) == (None, 0, 0, None)
    s = score([{"id": "a", "spans": [], "tokens": []}], [gold([], text="…")])
    assert s.words == 0
    json.dumps(s.to_json(), allow_nan=False)
    assert format_table({"nothing": s})


def test_families_stand_apart():
    documents = [
        gold([[4, 12]]),
        gold([], id_="b", family="sport", side="retain"),
        gold([[0, 3]], id_="c", family="sport", side="retain"),
    ]
    s = score([prediction([[4, 8]], id_="c"), prediction([[0, 3]], id_="b"), prediction([[4, 12]])], documents)
    assert s.families["clinic"].recall == 1
    sport = s.families["sport"]
    assert (sport.side, sport.documents, sport.words, sport.forget_words) == ("retain", 2, 12, 1)
    assert sport.fpr == pytest.approx(2 / 11)
    assert sport.recall == 0
    table = format_table({"mine": s})
    assert table.index("sport") < table.index("clinic")  # retain families first
    assert "0.182" in table


def test_the_token_over_a_words_first_letter_gives_its_p():
    # One token over "the sick", byte tokens that share the m, an empty token, and the rest.
    tokens = [[0, 8, 0.3], [9, 10, 0.2], [9, 10, 0.6], [10, 12, 0.9], [12, 12, 1.0], [12, 23, 0.1]]
    s = score([{"id": "a", "spans": [], "tokens": tokens[::-1]}], [gold([])])
    assert s.p.tolist() == [0.3, 0.3, 0.6, 0.1, 0.1, 0.1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_figures_agree_with_scikit_learn(data):
    documents, predictions, y_true, y_pred, y_p = [], [], [], [], []
    for n in range(data.draw(st.integers(1, 4))):
        y, hat = (data.draw(st.lists(st.booleans(), min_size=6, max_size=6)) for _ in range(2))
        p = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=6, max_size=6))
        spans = [[list(s) for s, on in zip(words(TEXT), flags, strict=True) if on] for flags in (y, hat)]
        documents.append(gold(spans[0], id_=str(n)))
        predictions.append(prediction(spans[1], p, id_=str(n)))
        y_true, y_pred, y_p = y_true + y, y_pred + hat, y_p + p
    s = score(predictions, documents, bootstrap=20)
    known = {"zero_division": np.nan}
    ours = [np.nan if value is None else value for value in (s.precision, s.recall, s.f2)]
    theirs = [
        metrics.precision_score(y_true, y_pred, **known),
        metrics.recall_score(y_true, y_pred, **known),
        metrics.fbeta_score(y_true, y_pred, beta=2, **known),
    ]
    np.testing.assert_allclose(ours, theirs)
    if 0 < sum(y_true) < len(y_true):
        assert s.auroc == pytest.approx(metrics.roc_auc_score(y_true, y_p))


def test_intervals_resample_documents_not_words():
    # Two documents, one wholly right and one wholly wrong: a resample holds both, or one twice.
    every = [[0, len(TEXT)]]
    documents = [gold(every, id_="a"), gold(every, id_="b")]
    s = score([prediction(every, id_="a"), prediction([], id_="b")], documents)
    assert s.recall == 0.5
    assert s.intervals["recall"] == (0, 1)
    assert s.intervals["fpr"] is None
    again = score([prediction(every, id_="a"), prediction([], id_="b")], documents)
    assert again.intervals == s.intervals
    assert score([prediction(every, id_="a"), prediction([], id_="b")], documents, bootstrap=0).intervals["f1"] is None


def test_a_family_of_one_document_has_no_interval():
    documents = [gold([], id_=id_, family=family, side="retain") for id_, family in zip("abc", "xyy", strict=True)]
    families = score([prediction([[0, 3]] * (id_ != "c"), id_=id_) for id_ in "abc"], documents).families
    assert (families["x"].fpr, families["x"].intervals["fpr"]) == (1 / 6, None)
    assert families["y"].intervals["fpr"] == (0, 1 / 6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(40):
        documents, predictions = [], []
        for n in range(40):
            right = bool(rng.random() < 0.7)
            documents.append(gold([[0, 3]], id_=str(n), text="ill"))
            predictions.append(prediction([[0, 3]] if right else [], id_=str(n), text="ill"))
        low, high = score(predictions, documents, bootstrap=300, seed=trial).intervals["recall"]
        held += low <= 0.7 <= high
    assert held >= 33


def test_resampled_auroc_stands_around_the_whole_one():
    rng = np.random.default_rng(0)
    documents, predictions = [], []
    for n in range(50):
        documents.append(gold([[4, 12]], id_=str(n)))
        predictions.append(prediction([], np.clip(rng.normal([0.3, 0.6, 0.6, 0.3, 0.3, 0.3], 0.2), 0, 1), id_=str(n)))
    s = score(predictions, documents)
    low, high = s.intervals["auroc"]
    assert low < s.auroc < high
    assert high - low < 0.15


def test_a_paired_difference_is_narrower_than_the_two_intervals():
    rng = np.random.default_rng(0)
    documents, good, better = [], [], []
    for n in range(60):
        hit = bool(rng.random() < 0.5)
        documents.append(gold([[4, 12]], id_=str(n)))
        good.append(prediction([[4, 8]] if hit else [], id_=str(n)))
        better.append(prediction([[4, 12]] if hit else [], id_=str(n)))
    a, b = score(better, documents), score(good, documents)
    difference, (low, high) = paired(a, b)
    assert difference == pytest.approx(a.f1 - b.f1)
    assert 0 < low < difference < high
    assert high - low < a.intervals["f1"][1] - a.intervals["f1"][0]
    with pytest.raises(ValueError, match="same file"):
        paired(a, score(good[1:], documents[1:]))
    relabelled = [gold([[4, 8]], id_=d.id) for d in documents]
    with pytest.raises(ValueError, match="same file"):
        paired(a, score(good, relabelled))
    by_hand = float(a.counts[:, 0].sum() - b.counts[:, 0].sum()) / 120
    assert paired(a, b, "recall")[0] == pytest.approx(by_hand)
    assert "a minus b" in format_table({"a": a, "b": b}) and f"{difference:+.3f}" in format_table({"a": a, "b": b})


def test_the_worst_errors_are_runs_of_words_with_their_place():
    # gold: sick man; flagged: the (0.9), ran a (0.6, 0.6). "the" is surer, "ran a" is longer and worse in sum.
    s = score([prediction([[0, 3], [13, 18]], [0.9, 0.2, 0.1, 0.6, 0.6, 0.1])], [gold([[4, 12]])])
    assert s.errors == {
        "false_positives": [["a", 13, 18, 0.6], ["a", 0, 3, 0.9]],
        "false_negatives": [["a", 4, 12, 0.15]],
    }
    assert s.details()["errors"] == s.errors and s.details()["per_document"] == {"a": [0, 3, 2, 1]}


def test_one_document_does_not_fill_the_list_of_errors():
    many = " ".join("word no" for _ in range(20))
    spans = [[i, i + 4] for i in range(0, len(many), 8)]
    documents = [gold([], id_="long", text=many), gold([], id_="short")]
    predictions = [prediction(spans, id_="long", text=many), prediction([[0, 3]], [0.1] * 6, id_="short")]
    listed = [id_ for id_, *_ in score(predictions, documents).errors["false_positives"]]
    assert listed == ["long"] * 3 + ["short"]


def test_a_stored_table_without_counts_prints_again():
    s = score([prediction([[4, 12]])], [gold([[4, 12]])])
    again = Scores.from_json(json.loads(json.dumps(s.to_json())))
    assert format_table({"a": again, "b": again}) == format_table({"a": s, "b": again})
    older = {k: v for k, v in s.to_json().items() if k != "pauroc"}
    assert Scores.from_json(older).pauroc is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6))
def test_inside_is_membership(spans):
    at = np.arange(-1, 22)
    assert inside(at, spans).tolist() == [any(s <= i < e for s, e in spans) for i in at]


@pytest.mark.parametrize(
    ("predictions", "documents", "reason"),
    [
        ([], [gold([])], "no prediction for 1 of 1 gold documents: 'a'"),
        ([prediction([])] * 2, [gold([])], "'a' is predicted twice"),
        ([prediction([])], [gold([]), gold([])], "gold document 'a' appears twice"),
        ([prediction([])], [Document("a", TEXT)], "has no 'spans'"),
        ([], [], "no gold document"),
        ([prediction([[0, 99]])], [gold([])], "document 'a': 'spans': .*<= 23"),
        (
            [{"id": "a", "spans": [], "tokens": [[0, 12, 0.1], [17, 23, 0.1]]}],
            [gold([])],
            "no token covers the word at character 13",
        ),
        ([{"id": "a", "spans": [], "tokens": []}], [gold([])], "no token covers the word at character 0"),
        ([{"id": "a", "spans": [], "tokens": [[0, 24, 0.1]]}], [gold([])], "outside the text of 23"),
        ([{"id": "a", "spans": [], "tokens": [[0, 23, float("nan")]]}], [gold([])], "outside 0 to 1"),
    ],
)
def test_what_cannot_be_scored_says_why(predictions, documents, reason):
    with pytest.raises(ValueError, match=reason):
        score(predictions, documents)


def test_predictions_for_other_documents_are_passed_over():
    assert score([prediction([], id_="other"), prediction([])], [gold([])]).documents == 1


def test_predictions_are_read_with_their_place(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n" + json.dumps(prediction([[4, 12]])) + "\n")
    (found,) = read_predictions(path)
    assert found["where"] == f"{path}, row 2"
    assert score([found], [gold([[4, 12]])]).f1 == 1
    found["tokens"] = found["tokens"][1:]
    with pytest.raises(ValueError, match=r"p\.jsonl, row 2: document 'a': no token covers"):
        score([found], [gold([])])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "broken JSON"),
        (b'{"id": "b", "spans": []}', "'tokens' is missing"),
        (b'{"id": "b", "tokens": []}', "'spans' is missing"),
        (b'{"spans": [], "tokens": []}', "'id' is missing"),
        (b'{"id": 5, "spans": [], "tokens": []}', "int, not text"),
        (b'{"id": "a", "spans": [], "tokens": []}', "predicted twice, first in row 1"),
        (b'{"id": "b", "spans": [[2, 1]], "tokens": []}', "'spans'"),
        (b'{"id": "b", "spans": null, "tokens": []}', "'spans'"),
        (b'{"id": "b", "spans": [], "tokens": {}}', "'tokens' must be a list"),
        (b'{"id": "b", "spans": [], "tokens": [[0, 1]]}', "'tokens'"),
        (b'{"id": "b", "spans": [], "tokens": [[0, 1, 1.5]]}', "'tokens'"),
        (b'{"id": "b", "spans": [], "tokens": [[0, 1, NaN]]}', "NaN"),
        (b'{"id": "b", "spans": [], "tokens": [[2, 1, 0.5]]}', "'tokens'"),
        (b'{"id": "b", "spans": [], "tokens": [[0, 1, true]]}', "'tokens'"),
    ],
)
def test_a_malformed_prediction_is_named_by_file_and_row(tmp_path, bad, reason):
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(prediction([])).encode() + b"\n" + bad + b"\n")
    with pytest.raises(ValueError, match=r"p\.jsonl, row 2: .*" + reason):
        list(read_predictions(path))


def test_a_predictions_file_that_holds_nothing_is_an_error(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no predictions"):
        list(read_predictions(tmp_path / "p.jsonl"))
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_predictions(tmp_path / "none.jsonl"))
