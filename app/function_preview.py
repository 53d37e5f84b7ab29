"""How a function votes on sample documents, while a person still writes it.

Train documents only, a few of each family, within a second or two: user patterns and lists run in
one child process that is kept for the next keystroke (`labeling.limited`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from app.shading import Pieces, pieces
from labeling.documents import Document
from labeling.functions import Classifier, Function, Latent, Offsets, Votes
from labeling.limited import Child
from labeling.predictions import Prediction, PredictionStore
from labeling.rule import moments
from labeling.store import Store
from labeling.tokens import words

SECONDS = 1.5  # for all samples together
CHARACTERS = 20_000  # of one document
SHOWN = 420  # characters of an excerpt
EXCERPTS = 6
_child: Child | None = None
_lock = Lock()


@dataclass
class FamilyVotes:
    """What a function says on the samples of one family."""

    family: str
    documents: int = 0
    tokens: int = 0
    forget: int = 0
    retain: int = 0


@dataclass(frozen=True)
class Excerpt:
    key: str
    family: str
    pieces: Pieces


@dataclass
class FunctionPreview:
    """Votes per family, text around the first votes of some documents, and what went wrong."""

    families: dict[str, FamilyVotes] = field(default_factory=dict)
    excerpts: list[Excerpt] = field(default_factory=list)
    failed: int = 0
    reason: str = ""
    left: int = 0  # documents there was no time for

    @property
    def documents(self) -> int:
        return sum(votes.documents for votes in self.families.values())


Vote = Callable[[Document, Offsets, Offsets], Votes]


def preview(
    function: Function, samples: Sequence[Document], store: Store | None, z: float, scores: PredictionStore | None
) -> FunctionPreview:
    """Votes on the samples. `scores` are those of a `classifier` function's classifier."""
    if isinstance(function, Latent):
        if store is None:
            raise ValueError("harvest the corpus first: a latent votes through the activation store")
        return _collect(samples, store, _latent_vote(function, store, z))
    if isinstance(function, Classifier):
        if scores is None:
            raise ValueError("this classifier has not scored the corpus, so it votes only when the corpus is labeled")
        return _collect(samples, store, _classifier_vote(function, scores))
    if not function.needs_text:
        return _collect(samples, store, lambda d, starts, ends: function.vote("", starts, ends, d.family))
    with _lock:
        child = _kept(function)
        return _collect(samples, store, lambda d, starts, ends: child.vote(d.text, starts, ends, d.family))


def _kept(function: Function) -> Child:
    global _child
    if _child is None:
        _child = Child(function, seconds=SECONDS)
    _child.function = function
    return _child


def _latent_vote(function: Latent, store: Store, z: float) -> Vote:
    mean, sd = moments(store.stats)
    tokens, values = store.latent(function.latent)
    hit = tokens[values > mean[function.latent] + z * sd[function.latent]]

    def vote(document: Document, starts: Offsets, ends: Offsets) -> Votes:
        out = np.zeros(len(starts), dtype=np.int8)
        if document.id in store:
            where = store.document(store.index_of(document.id))
            low, high = np.searchsorted(hit, [where.start, where.start + len(starts)])
            out[hit[low:high] - where.start] = 1
        return out

    return vote


def _classifier_vote(function: Classifier, scores: PredictionStore) -> Vote:
    def vote(document: Document, starts: Offsets, ends: Offsets) -> Votes:
        found = scores.document(document.id)
        p = Prediction(document.id, *found).carried(starts, ends) if found else np.zeros(len(starts))
        return np.where(p >= function.above, np.int8(function.sign), np.int8(0))

    return vote


def _collect(samples: Sequence[Document], store: Store | None, vote: Vote) -> FunctionPreview:
    out, until = FunctionPreview(), time.monotonic() + SECONDS
    for number, document in enumerate(samples):
        if time.monotonic() > until:
            out.left = len(samples) - number
            break
        starts, ends = _tokens(document, store)
        try:
            votes = vote(document, starts, ends)
        except ValueError as error:
            out.failed, out.reason = out.failed + 1, out.reason or f"{document.id}: {error}"
            continue
        family = out.families.setdefault(document.family or "", FamilyVotes(document.family or ""))
        family.documents += 1
        family.tokens += len(votes)
        family.forget += int((votes > 0).sum())
        family.retain += int((votes < 0).sum())
        if (votes != 0).any() and len(out.excerpts) < EXCERPTS:
            out.excerpts.append(_excerpt(document, starts, ends, votes))
    return out


def _tokens(document: Document, store: Store | None) -> tuple[Offsets, Offsets]:
    """The store's tokens of the text, else its words."""
    if store is not None and document.id in store:
        where = store.document(store.index_of(document.id))
        starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
        inside = ends <= len(document.text)
        return starts[inside], ends[inside]
    edges = np.array(words(document.text), dtype=np.int32).reshape(-1, 2)
    return edges[:, 0], edges[:, 1]


def _excerpt(document: Document, starts: Offsets, ends: Offsets, votes: Votes) -> Excerpt:
    first = int(starts[np.flatnonzero(votes)[0]])
    begin = max(0, first - SHOWN // 4)
    begin = document.text.find(" ", begin, first) + 1 if begin else 0
    stop = min(len(document.text), begin + SHOWN)
    inside = (starts >= begin) & (ends <= stop)
    classes = ["seed" if v > 0 else "vetoed" if v < 0 else "" for v in votes[inside]]
    shown = pieces(document.text[begin:stop], starts[inside] - begin, ends[inside] - begin, classes)
    return Excerpt(document.id, document.family or "", shown)


def interleaved(by_family: Sequence[Sequence[Document]]) -> Iterator[Document]:
    """One of each family in turn, so that little time still shows them all."""
    for row in range(max(map(len, by_family), default=0)):
        yield from (documents[row] for documents in by_family if row < len(documents))
