"""Agreement between annotators, and what they have in common.

Counted over words, as scores are (`labeling.evaluate`): a word is forget if its first character
lies in a span. Kappa corrects for chance, which matters where 95% of words are retain; span F1 asks
whether two people drew the same spans, word for word, and takes one of them as the truth: F1 does
not care which. Intervals resample documents, since the words of one are alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from labeling.evaluate import inside
from labeling.tokens import Spans, merge, words

BOOTSTRAP = 1000


@dataclass(frozen=True)
class Double:
    """A document that two people finished."""

    family: str
    text: str
    first: Spans
    second: Spans


@dataclass(frozen=True)
class Agreement:
    """How far two annotators (or all pairs pooled) agree. None where it is undefined."""

    documents: int
    words: int
    both: int  # words both call forget
    either: int
    kappa: float | None
    kappa_interval: tuple[float, float] | None
    span_f1: float | None
    observed: float | None  # share of words judged alike


def intersect(a: Spans, b: Spans) -> Spans:
    """Characters in both, as sorted disjoint spans. O(n + m) after sorting."""
    a, b, out = merge(a), merge(b), Spans()
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            out.append((start, end))
        i, j = (i + 1, j) if a[i][1] < b[j][1] else (i, j + 1)
    return out


def difference(a: Spans, b: Spans) -> Spans:
    """Characters in `a` and not in `b`."""
    if not a:
        return []
    edges = [0, *(edge for span in merge(b) for edge in span), max(end for _, end in a)]
    return intersect(a, [(s, e) for s, e in zip(edges[::2], edges[1::2], strict=True) if s < e])


def consensus(layers: Sequence[Spans]) -> tuple[Spans, Spans]:
    """(what all call forget, what only some do)."""
    agreed = merge(layers[0])
    for layer in layers[1:]:
        agreed = intersect(agreed, layer)
    return agreed, difference(merge([span for layer in layers for span in layer]), agreed)


@dataclass(frozen=True)
class Segment:
    """A stretch of text that the same people, and not all, call forget."""

    start: int
    end: int
    voters: tuple[str, ...]


def segments(layers: Mapping[str, Spans]) -> list[Segment]:
    """What an adjudicator has to decide: the disputed text, cut wherever somebody's span begins or ends."""
    _, disputed = consensus(list(layers.values()))
    edges = sorted({edge for spans in layers.values() for span in spans for edge in span})
    out = []
    for start, end in disputed:
        cuts = [start, *(edge for edge in edges if start < edge < end), end]
        for a, b in pairwise(cuts):
            voters = tuple(name for name, spans in layers.items() if intersect(spans, [(a, b)]))
            out.append(Segment(a, b, voters))
    return out


def word_spans(text_words: Spans, spans: Spans) -> set[tuple[int, int]]:
    """Spans as runs of words (first, last): blanks and punctuation at an edge make no difference."""
    firsts = np.array([start for start, _ in text_words])
    found = set()
    for start, end in merge(spans):
        first, last = int(np.searchsorted(firsts, start)), int(np.searchsorted(firsts, end))
        if first < last:
            found.add((first, last))
    return found


def _counts(pair: Double) -> list[int]:
    """Words: both forget, first only, second only, neither; spans: same, of the first, of the second."""
    units = words(pair.text)
    firsts = np.array([start for start, _ in units], dtype=np.int64)
    a, b = inside(firsts, pair.first), inside(firsts, pair.second)
    one, two = word_spans(units, pair.first), word_spans(units, pair.second)
    cells = [int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())]
    return [*cells, len(one & two), len(one), len(two)]


def kappa(cells: Int64[np.ndarray, "draw 4"]) -> Float64[np.ndarray, " draw"]:
    """Cohen's kappa of 2×2 tables (both, first only, second only, neither); NaN where chance explains all."""
    both, first, second, neither = (cells[:, i].astype(np.float64) for i in range(4))
    total = np.maximum(cells.sum(axis=1), 1)
    observed = (both + neither) / total
    chance = ((both + first) * (both + second) + (second + neither) * (first + neither)) / total**2
    return np.divide(observed - chance, 1 - chance, out=np.full(len(total), np.nan), where=chance < 1)


def agree(pairs: Iterable[Double], seed: int = 0) -> Agreement:
    """Agreement over documents that two people finished."""
    rows = np.array([_counts(pair) for pair in pairs], dtype=np.int64).reshape(-1, 7)
    both, first, second, neither, same, ones, twos = (int(n) for n in rows.sum(axis=0))
    total = both + first + second + neither
    value = float(kappa(rows[:, :4].sum(axis=0, keepdims=True))[0])
    return Agreement(
        documents=len(rows), words=total, both=both, either=both + first + second,
        kappa=None if np.isnan(value) else value,
        kappa_interval=_interval(rows[:, :4], seed),
        span_f1=2 * same / (ones + twos) if ones + twos else None,
        observed=(both + neither) / total if total else None,
    )  # fmt: skip


def _interval(cells: Int64[np.ndarray, "doc 4"], seed: int) -> tuple[float, float] | None:
    """95%, documents resampled; None for fewer than 5 documents, where it would only look exact."""
    if len(cells) < 5:
        return None
    draws = np.random.default_rng(seed).multinomial(len(cells), np.full(len(cells), 1 / len(cells)), BOOTSTRAP)
    values = kappa(draws @ cells)
    values = values[~np.isnan(values)]
    return (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))) if len(values) else None


def by_family(pairs: Sequence[Double]) -> dict[str, Agreement]:
    names = sorted({pair.family for pair in pairs})
    return {name: agree(pair for pair in pairs if pair.family == name) for name in names}
