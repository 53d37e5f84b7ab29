"""The text a latent fires on: what a person judges it by. Train documents only, like every figure.

`Firings` reads a latent once; everything on its page is asked of that.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from labeling.store import Store
from labeling.vocabulary import Vocabulary

CONTEXT = 24  # tokens shown on each side of an example's peak


@dataclass(frozen=True)
class Example:
    """A stretch of one document around a firing; `text` begins at `offset` of the document."""

    key: str
    family: str
    value: float  # at the peak
    text: str
    offset: int
    tokens: list[tuple[int, int, float]]  # (start, end, value), code points of `text`


@dataclass(frozen=True, eq=False)
class Firings:
    """Where one latent fires in train documents, tokens ascending."""

    store: Store
    tokens: NDArray[np.int64]
    values: NDArray[np.float32]
    documents: NDArray[np.int64]

    @classmethod
    def of(cls, store: Store, latent: int) -> "Firings":
        where, values = store.latent(latent)
        document = np.repeat(np.arange(len(store.keys)), np.diff(np.searchsorted(where, store.doc_indptr)))
        train = store.doc_in_split("train")[document]
        return cls(store, where[train], values[train], document[train])

    def inside(self, families: Collection[str]) -> NDArray[np.bool_]:
        """Which firings lie in documents of these families."""
        wanted = np.array([family in families for family in self.store.families], bool)
        return wanted[self.store.doc_family_index[self.documents]]

    @cached_property
    def descending(self) -> NDArray[np.int64]:
        """Strongest first. A float16 above 0 sorts as its bits do, and 16 bits sort in linear time."""
        bits = np.uint16(0xFFFF) - self.values.astype(np.float16).view(np.uint16)
        return np.argsort(bits, kind="stable")


def examples(
    firings: Firings,
    text_of: Callable[[str], str],
    n: int = 20,
    family: str | None = None,
    quantile: float | None = None,
) -> list[Example]:
    """Up to `n` firings, strongest first; with `quantile`, those from that share of its values downwards.

    The strongest firings always look clean: a middle quantile shows what the latent does on an
    ordinary day. Stretches that overlap or read the same are shown once.
    """
    store, order = firings.store, firings.descending
    if family is not None:
        order = order[firings.inside({family})[order]]
    if quantile is not None:
        order = order[int((1 - quantile) * len(order)) :]
    text = lru_cache(maxsize=256)(text_of)
    shown: list[tuple[int, int]] = []  # (document, peak token)
    seen: set[str] = set()
    out: list[Example] = []
    for at in order[: 50 * n]:
        doc, token = int(firings.documents[at]), int(firings.tokens[at])
        if any(d == doc and abs(t - token) <= CONTEXT for d, t in shown):
            continue
        whole = text(store.keys[doc])
        near = _text_span(store, doc, token, 4)
        surface = " ".join(whole[slice(*near)].lower().split())
        if surface in seen:
            continue
        seen.add(surface)
        shown.append((doc, token))
        out.append(_example(firings, doc, token, float(firings.values[at]), whole))
        if len(out) == n:
            break
    return out


def _stretch(store: Store, doc: int, token: int, around: int) -> tuple[int, int]:
    """Token range of `around` tokens on each side, within the document."""
    tokens = store.document(doc)
    return max(tokens.start, token - around), min(tokens.stop, token + around + 1)


def _text_span(store: Store, doc: int, token: int, around: int) -> tuple[int, int]:
    begin, end = _stretch(store, doc, token, around)
    return int(store.starts[begin]), int(store.ends[begin:end].max())


def _example(firings: Firings, doc: int, token: int, value: float, text: str) -> Example:
    store = firings.store
    begin, end = _stretch(store, doc, token, CONTEXT)
    first, last = _text_span(store, doc, token, CONTEXT)
    active = np.zeros(end - begin, np.float32)
    low, high = np.searchsorted(firings.tokens, [begin, end])
    active[firings.tokens[low:high] - begin] = firings.values[low:high]
    spans = zip(store.starts[begin:end] - first, store.ends[begin:end] - first, active, strict=True)
    tokens = [(int(a), int(b), float(v)) for a, b, v in spans]
    return Example(store.keys[doc], store.doc_family[doc], value, text[first:last], first, tokens)


@dataclass(frozen=True)
class TokenProfile:
    """Which tokens a latent fires on: (surface, firings, mean value), most frequent first, and what kind they are."""

    tokens: list[tuple[str, int, float]]
    shares: dict[str, float]  # of its firings: stop words, punctuation, word starts


def token_profile(firings: Firings, words: Vocabulary, limit: int = 15) -> TokenProfile:
    """Ids that read the same (with and without a blank before) count as one token."""
    place = np.searchsorted(words.ids, firings.store.ids[firings.tokens])
    counts = np.bincount(place, minlength=len(words.ids))
    sums = np.bincount(place, firings.values, len(words.ids))
    merged: dict[str, tuple[int, float]] = {}
    for at in np.argsort(-counts, kind="stable")[: 2 * limit]:
        if counts[at]:
            count, total = merged.get(words.surfaces[at], (0, 0.0))
            merged[words.surfaces[at]] = (count + int(counts[at]), total + float(sums[at]))
    profile = [(surface, count, total / count) for surface, (count, total) in merged.items()]
    fired = max(len(firings.tokens), 1)
    shares = {name: float(counts[member].sum() / fired) for name, member in words.classes.items()}
    return TokenProfile(sorted(profile, key=lambda row: -row[1])[:limit], shares)


def histogram(
    firings: Firings, bins: int = 40, families: Collection[str] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Firings by value: (edges, counts). Counts span decades; draw them on a log scale.

    Edges do not depend on `families`, so that one selection can be drawn over another.
    """
    values = firings.values
    edges = np.linspace(0, float(values.max()) if len(values) else 1.0, bins + 1)
    if families is not None:
        values = values[firings.inside(families)]
    return edges, np.histogram(values, edges)[0]


@dataclass(frozen=True)
class Density:
    """Share of a family's train tokens on which the latent fires, with its 95% interval."""

    family: str
    share: float
    low: float
    high: float


def densities(firings: Firings) -> list[Density]:
    """Tokens of a document are not independent: the interval is Wilson's, on as many independent tokens
    as would vary like these documents do (a document counts as one where the latent never fires).
    """
    store = firings.store
    train, sizes = store.doc_in_split("train"), np.diff(store.doc_indptr)
    fired = np.bincount(firings.documents, minlength=len(sizes))
    out = []
    for i, family in enumerate(store.families):
        mine = train & (store.doc_family_index == i) & (sizes > 0)
        n, x = sizes[mine], fired[mine]
        total, documents = int(n.sum()), int(mine.sum())
        if not total:
            continue
        share = float(x.sum() / total)
        spread = float(((x - share * n) ** 2).sum()) * documents / max(documents - 1, 1) / total**2
        alike = share * (1 - share) / spread if spread else documents
        out.append(Density(family, share, *wilson(share, min(max(alike, 1.0), total))))
    return out


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a share seen in `n` trials; never below 0, never empty."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
