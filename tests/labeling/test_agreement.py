"""Agreement by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from labeling.agreement import Double, agree, by_family, consensus, difference, intersect, kappa, segments
from labeling.evaluate import inside
from labeling.tokens import merge, words

TEXT = "one two three four five six seven eight nine ten"
Spans = list[tuple[int, int]]


def span(first: str, last: str) -> tuple[int, int]:
    return TEXT.index(first), TEXT.index(last) + len(last)


def test_kappa_of_a_table_worked_out_by_hand():
    # 20 both, 5 and 10 alone, 15 neither: observed 0.70, chance 0.5 -> 0.4
    assert kappa(np.array([[20, 5, 10, 15]]))[0] == pytest.approx(0.4)
    assert np.isnan(kappa(np.array([[0, 0, 0, 10]]))[0])  # nobody says forget: chance explains all


def test_words_and_spans_of_one_document():
    first, second = [span("two", "three"), span("nine", "nine")], [span("two", "three"), span("eight", "nine")]
    found = agree([Double("f", TEXT, first, second)])
    assert (found.documents, found.words, found.both, found.either) == (1, 10, 3, 4)
    assert found.span_f1 == pytest.approx(0.5)  # one of two spans is the same
    assert found.observed == pytest.approx(0.9)
    assert found.kappa_interval is None  # one document has no interval


def test_blanks_at_an_edge_make_no_difference_to_a_span():
    start, end = span("two", "three")
    assert agree([Double("f", TEXT, [(start, end)], [(start - 1, end + 1)])]).span_f1 == 1.0


def test_nothing_marked_by_anybody_has_no_kappa_and_no_span_f1():
    found = agree([Double("f", TEXT, [], [])])
    assert (found.kappa, found.span_f1, found.observed) == (None, None, 1.0)
    assert agree([]).observed is None


def test_the_interval_holds_the_value_and_families_are_apart():
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(20):
        units = words(TEXT)
        a = [units[n] for n in rng.choice(10, 4, replace=False)]
        b = a[:3] if rng.random() < 0.7 else [units[n] for n in rng.choice(10, 4, replace=False)]
        pairs.append(Double("ab"[i % 2], TEXT, merge(a), merge(b)))
    found = agree(pairs)
    assert found.kappa is not None and found.kappa_interval is not None
    assert found.kappa_interval[0] < found.kappa < found.kappa_interval[1]
    assert {name: figure.documents for name, figure in by_family(pairs).items()} == {"a": 10, "b": 10}


spans = st.lists(st.tuples(st.integers(0, 48), st.integers(0, 48)).map(lambda p: (min(p), max(p))), max_size=4).map(
    merge
)


@given(spans, spans)
def test_kappa_agrees_with_scikit_learn(a: Spans, b: Spans):
    starts = np.array([s for s, _ in words(TEXT)])
    expected = cohen_kappa_score(inside(starts, a), inside(starts, b))
    found = agree([Double("f", TEXT, a, b)]).kappa
    assert found is None if np.isnan(expected) else found == pytest.approx(expected)


def letters(spans: Spans) -> set[int]:
    return {i for s, e in spans for i in range(s, e)}


@given(spans, spans)
def test_span_arithmetic_is_that_of_characters(a: Spans, b: Spans):
    assert letters(intersect(a, b)) == letters(a) & letters(b)
    assert letters(difference(a, b)) == letters(a) - letters(b)


@given(st.lists(spans, min_size=2, max_size=4))
def test_segments_cover_exactly_what_is_disputed(layers: list[Spans]):
    named = {f"r{i}": layer for i, layer in enumerate(layers)}
    agreed, disputed = consensus(layers)
    cut = segments(named)
    assert letters([(s.start, s.end) for s in cut]) == letters(disputed)
    assert not letters(agreed) & letters(disputed)
    for piece in cut:
        assert 0 < len(piece.voters) < len(layers)
        for name, layer in named.items():
            here = letters([(piece.start, piece.end)])
            assert (name in piece.voters) == (here <= letters(layer)) and bool(here & letters(layer)) == (
                name in piece.voters
            )
