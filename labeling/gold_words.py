"""How a store's flags agree with gold, per word as `tokensieve score` counts, while a person waits.

Which token covers a word never changes, so it is looked up once; a rule's figures are then one
pass over the annotated words. Intervals resample whole documents (`labeling.evaluate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling.documents import Document
from labeling.evaluate import FIGURES, FamilyScores, Interval, draws_of, family_scores, inside, interval_of, number_of
from labeling.rule import Mask
from labeling.store import Store
from labeling.tokens import words

BOOTSTRAP = 500


@dataclass(frozen=True, eq=False)
class GoldWords:
    """The scored words of annotated documents, and the tokens of the store that cover their first character."""

    documents: list[Document]
    first: NDArray[np.int64]  # (word,) the first covering token …
    last: NDArray[np.int64]  # (word,) … and the last: tokens of one emoji share its character
    forget: Mask  # (word,)
    document: NDArray[np.int64]  # (word,)
    draws: NDArray[np.int64]  # (boot, doc)


@dataclass(frozen=True)
class Agreement:
    """A rule's figures on gold, all families together and one by one; None where there is nothing to count."""

    documents: int
    words: int
    figures: dict[str, float | None]  # precision, recall, f1, f2, fpr
    intervals: dict[str, Interval]
    families: dict[str, FamilyScores]


def gold_words(store: Store, gold: Sequence[Document], seed: int = 0) -> GoldWords:
    """Line annotated documents up with the store; those it does not hold are left out."""
    kept: list[Document] = []
    first: list[NDArray[np.int64]] = []
    last: list[NDArray[np.int64]] = []
    forget: list[Mask] = []
    for document in gold:
        if document.id not in store:
            continue
        where = store.document(store.index_of(document.id))
        starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
        at = np.array([start for start, _ in words(document.text)], dtype=np.int64)
        at = at[~inside(at, document.ignore or [])]
        low = np.searchsorted(ends, at, side="right")  # the first token that ends after the character
        high = np.searchsorted(starts, at, side="right") - 1
        covered = low <= high  # a word that no token covers cannot be flagged: it is counted as retain
        kept.append(document)
        first.append(np.where(covered, low + where.start, -1))
        last.append(np.where(covered, high + where.start, -1))
        forget.append(inside(at, document.spans or []))
    sizes = [len(part) for part in forget]
    return GoldWords(
        kept, np.concatenate([*first, np.zeros(0, np.int64)]), np.concatenate([*last, np.zeros(0, np.int64)]),
        np.concatenate([*forget, np.zeros(0, bool)]), np.repeat(np.arange(len(kept)), sizes),
        draws_of(len(kept), BOOTSTRAP, seed) if kept else np.zeros((0, 0), np.int64),
    )  # fmt: skip


def agreement(gold: GoldWords, forget: Mask) -> Agreement:
    """Figures of a rule's forget tokens, (tok,), on the annotated words."""
    flagged = np.zeros(len(gold.forget), dtype=bool)
    token = gold.first.copy()
    while len(at := np.flatnonzero((token >= 0) & (token <= gold.last) & ~flagged)):
        flagged[at] = forget[token[at]]
        token[at] += 1
    outcome = np.where(gold.forget, np.where(flagged, 0, 2), np.where(flagged, 1, 3))  # TP, FN, FP, TN
    documents = len(gold.documents)
    counts = np.bincount(gold.document * 4 + outcome, minlength=4 * documents).reshape(documents, 4)
    totals, resampled = counts.sum(axis=0)[None], gold.draws @ counts
    return Agreement(
        documents,
        len(gold.forget),
        {name: number_of(figure(totals)) for name, figure in FIGURES.items()},
        {name: interval_of(figure(resampled)) for name, figure in FIGURES.items()},
        family_scores(gold.documents, counts, gold.draws),
    )
