"""What the machines say about the corpus: the rule's weak labels and the newest classifier's p.

Both are carried onto one token table (the activation store's), so that they compare and so that
the reader page shows them on the same tokens. Documents the store does not hold fall back to words.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import artifacts, queries
from app.models import Artifact, Classifier, LabelSet, Project
from app.settings import Settings
from labeling.predictions import Prediction, PredictionStore
from labeling.store import Store

T = TypeVar("T")
GROWN, SEED, VETOED = 1, 2, 3
# Combining marks and (non-)joiners belong to the word they stand in; `\w` alone would cut at each.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c)[0] == "M") + "\u200c\u200d"
_WORD = re.compile(rf"\w[\w{_MARKS}]{{0,79}}|[^\w\s]")


class TokenTable(NamedTuple):
    """A document's tokens with what is said about each; `weak` or `p` is None where nobody said anything."""

    starts: Int32[np.ndarray, " tok"]
    ends: Int32[np.ndarray, " tok"]
    weak: UInt8[np.ndarray, " tok"] | None
    p: Float32[np.ndarray, " tok"] | None


@dataclass(frozen=True)
class Summary:
    """Per document of the store: how many tokens it has, and how many of them who flags."""

    tokens: Int64[np.ndarray, " doc"]
    rule: Int64[np.ndarray, " doc"]
    classifier: Int64[np.ndarray, " doc"]
    rule_only: Int64[np.ndarray, " doc"]
    classifier_only: Int64[np.ndarray, " doc"]
    unsure: Int64[np.ndarray, " doc"]  # p nearer to the threshold than to 0 or 1

    @property
    def disagree(self) -> Int64[np.ndarray, " doc"]:
        return self.rule_only + self.classifier_only


@dataclass(frozen=True)
class Sources:
    """Everything that can be shown over a project's documents; each part may be missing.

    Two are equal if made of the same artifacts, which never change: counts are kept by that.
    """

    key: tuple[str | int | float | None, ...]
    store: Store | None = field(default=None, compare=False)
    flags: UInt8[np.ndarray, " tok"] | None = field(default=None, compare=False)
    label_set: LabelSet | None = field(default=None, compare=False)
    predictions: PredictionStore | None = field(default=None, compare=False)
    classifier: Classifier | None = field(default=None, compare=False)
    problems: tuple[str, ...] = field(default=(), compare=False)  # damaged folders, in words for the page

    @property
    def blind(self) -> bool:
        return self is BLIND

    @property
    def threshold(self) -> float:
        return self.classifier.threshold if self.classifier else 0.5

    def tokens_of(self, key: str, text: str, begin: int = 0, stop: int | None = None) -> TokenTable:
        """The document's tokens that start in [begin, stop), in order: none empty, none overlapping, none
        beginning inside a grapheme."""
        stop = len(text) if stop is None else stop
        weak = None
        if (part := self.part_of(key, begin, stop)) is not None and self.store is not None:
            starts, ends = self.store.starts[part], self.store.ends[part]
            weak = np.asarray(self.flags[part]) if self.flags is not None else None
        else:
            starts, ends = _words(text, begin, stop)
        table = TokenTable(starts, ends, weak, self.p_on(key, starts, ends))
        return disjoint(table, inside_grapheme(text, starts, begin, stop))

    def part_of(self, key: str, begin: int, stop: int) -> slice | None:
        """The store's numbers of the tokens that start in [begin, stop) of the document; None if it has none of it."""
        at = position(self, key)
        if self.store is None or at is None:
            return None
        part = self.store.document(at)
        first, last = part.start + np.searchsorted(self.store.starts[part], (begin, stop))
        return slice(int(first), int(last))

    def token_at(self, key: str, start: int) -> int | None:
        """The store's number of the token that begins at this code point of the document."""
        at = position(self, key)
        if self.store is None or at is None:
            return None
        part = self.store.document(at)
        found = part.start + int(np.searchsorted(self.store.starts[part], start))
        return found if found < part.stop and int(self.store.starts[found]) == start else None

    def p_on(
        self, key: str, starts: Int32[np.ndarray, " tok"], ends: Int32[np.ndarray, " tok"]
    ) -> Float32[np.ndarray, " tok"] | None:
        """The classifier's p on these tokens of the document; None if it did not score the document."""
        found = self.predictions.document(key) if self.predictions is not None else None
        if found is None:
            return None
        if not len(starts):
            return np.zeros(0, np.float32)
        # One more on each side: what lies between two tokens depends on both.
        begins, stops, p = found
        first = max(0, int(np.searchsorted(begins, starts[0], side="right")) - 1)
        last = int(np.searchsorted(begins, ends[-1])) + 1
        return Prediction(key, begins[first:last], stops[first:last], p[first:last]).carried(starts, ends)


BLIND = Sources(("blind",))  # what somebody sees who is to read a document without suggestions


def flagged(weak: UInt8[np.ndarray, " tok"]) -> Bool[np.ndarray, " tok"]:
    return (weak == GROWN) | (weak == SEED)


def _words(text: str, begin: int, stop: int) -> tuple[Int32[np.ndarray, " tok"], Int32[np.ndarray, " tok"]]:
    edges = np.array([m.span() for m in _WORD.finditer(text, begin, stop)], dtype=np.int32).reshape(-1, 2)
    return edges[:, 0], edges[:, 1]


def inside_grapheme(text: str, starts: Int32[np.ndarray, " tok"], begin: int, stop: int) -> Bool[np.ndarray, " tok"]:
    """Which tokens begin where no reader sees a border: at a combining mark, around a joiner of emoji,
    between the two letters of a flag."""
    codes = np.frombuffer(text[begin:stop].encode("utf-32-le"), np.uint32)
    here, before = codes[starts - begin], codes[np.maximum(starts - begin - 1, 0)]
    foreign = np.unique(here[here >= 0x300])
    extenders = [code for code in foreign if _extends(chr(code))]
    flag = (here >= 0x1F1E6) & (here <= 0x1F1FF) & (before >= 0x1F1E6) & (before <= 0x1F1FF)
    return np.isin(here, extenders) | (before == 0x200D) | flag


def _extends(character: str) -> bool:
    """Combining marks and variation selectors, (non-)joiners, skin tones, the letters of regional flags."""
    return (
        unicodedata.category(character)[0] == "M"
        or character in "\u200c\u200d"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
    )


def disjoint(table: TokenTable, inside: Bool[np.ndarray, " tok"] | None = None) -> TokenTable:
    """Empty tokens dropped and overlapping ones made one: byte-level tokenizers cut an emoji into
    several tokens that all have its offsets, and a page can only show a character once. A token that
    is `inside` a grapheme joins the one it touches."""
    starts, ends, weak, p = table
    full = ends > starts
    starts, ends = starts[full], ends[full]
    if not len(starts):
        return TokenTable(starts, ends, weak if weak is None else weak[full], p if p is None else p[full])
    reach = np.maximum.accumulate(ends)
    border = starts[1:] >= reach[:-1]
    if inside is not None:
        border &= ~inside[full][1:] | (starts[1:] > reach[:-1])
    first = np.flatnonzero(np.concatenate(([True], border)))
    return TokenTable(
        starts[first],
        np.maximum.reduceat(ends, first),
        None if weak is None else np.maximum.reduceat(weak[full], first),
        None if p is None else np.fmax.reduceat(p[full], first),
    )


@lru_cache(maxsize=4)
def _positions(sources: Sources) -> dict[str, int]:
    return {key: i for i, key in enumerate(sources.store.keys)} if sources.store is not None else {}


def position(sources: Sources, key: str) -> int | None:
    """The document's number in the store."""
    return _positions(sources).get(key)


@lru_cache(maxsize=4)
def summary(sources: Sources) -> Summary | None:
    """Counts over the whole store; seconds for millions of tokens, hence kept. None without a store."""
    store = sources.store
    if store is None:
        return None
    tokens = np.diff(store.doc_indptr).astype(np.int64)
    counts = np.zeros((5, len(tokens)), dtype=np.int64)
    for i, key in enumerate(store.keys):
        part = store.document(i)
        rule = flagged(sources.flags[part]) if sources.flags is not None else np.zeros(tokens[i], dtype=bool)
        counts[0, i] = rule.sum()
        p = sources.p_on(key, store.starts[part], store.ends[part])
        if p is not None:
            above = p >= sources.threshold
            counts[1, i] = above.sum()
            counts[4, i] = ((p > sources.threshold / 2) & (p < (1 + sources.threshold) / 2)).sum()
            if sources.flags is not None:
                counts[2, i], counts[3, i] = (rule & ~above).sum(), (above & ~rule).sum()
    return Summary(tokens, *counts)


def sources_of(session: Session, settings: Settings, project: Project) -> Sources:
    """The newest label set with its store, and the newest classifier that scored the corpus."""
    labels = queries.newest_label_set(session, project.id)
    store = session.get(Artifact, labels.store_id) if labels else queries.newest_artifact(session, project.id, "store")
    scored = select(Classifier).where(Classifier.project_id == project.id, Classifier.predictions_id.is_not(None))
    classifier = session.scalar(scored.order_by(Classifier.id.desc()).limit(1))
    flags = session.get(Artifact, labels.artifact_id) if labels else None
    scores = session.get(Artifact, classifier.predictions_id) if classifier else None
    problems: list[str] = []

    def opened(open_: Callable[[Settings, Artifact], T], artifact: Artifact | None) -> T | None:
        try:
            return open_(settings, artifact) if artifact else None
        except (ValueError, OSError) as error:
            problems.append(str(error))
            return None

    opened_store = opened(artifacts.open_store, store)
    opened_flags = opened(artifacts.open_labels, flags) if opened_store is not None else None
    predictions = opened(artifacts.open_predictions, scores)
    ids = [a.id if a else None for a in (store, flags, scores)]
    key = (settings.url, *ids, classifier.threshold if classifier else None, len(problems))
    return Sources(key, opened_store, opened_flags, labels, predictions, classifier, tuple(problems))
