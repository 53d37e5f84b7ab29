"""Where two labelings of one store differ, as a page shows it: counts, and documents shaded by who says forget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.shading import Pieces, pieces
from labeling.rule import Flags, is_forget
from labeling.store import Store
from labeling.versions import TokenDiff, diff_tokens

MARKS = ("", "only-old", "only-new", "both-forget")
SHOWN = 900  # characters of each document


@dataclass(frozen=True)
class Changed:
    """A stretch of one document from its first difference on."""

    key: str
    family: str
    only_old: int
    only_new: int
    pieces: Pieces


@dataclass(frozen=True)
class Differences:
    tokens: TokenDiff
    documents: list[Changed]


def differences(
    store: Store, old: Flags, new: Flags, texts: Callable[[list[str]], dict[str, str]], shown: int = 6
) -> Differences:
    """Counts over train documents, and the most changed of them; `texts` is asked once for all."""
    found = diff_tokens(store, old, new, shown)
    known = texts([store.keys[d] for d, _, _ in found.changed])
    rows = [
        Changed(
            store.keys[d], store.doc_family[d], gone, come, excerpt(store, d, old, new, known.get(store.keys[d], ""))
        )
        for d, gone, come in found.changed
    ]
    return Differences(found, rows)


def excerpt(store: Store, document: int, old: Flags, new: Flags, text: str) -> Pieces:
    where = store.document(document)
    before, after = is_forget(np.asarray(old[where])), is_forget(np.asarray(new[where]))
    starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
    marks = before + 2 * after.astype(np.int8)
    first = int(starts[np.flatnonzero(before != after)[0]])
    begin = max(text.rfind("\n", 0, first) + 1, text.rfind(". ", 0, first) + 1, first - 200, 0)
    stop = min(len(text), begin + SHOWN)
    inside = (starts >= begin) & (ends <= stop)
    classes = [MARKS[m] for m in marks[inside]]
    return pieces(text[begin:stop], starts[inside] - begin, ends[inside] - begin, classes)


def by_rung(store: Store, document: int, rungs: Any, text: str, names: list[str]) -> Pieces:
    """One document shaded by the first rung that removes each token; `names` are classes from rung 1 on."""
    where = store.document(document)
    first = np.asarray(rungs[where])
    starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
    inside = ends <= SHOWN
    classes = [names[n - 1] if n else "" for n in first[inside]]
    return pieces(text[:SHOWN], starts[inside], ends[inside], classes)
