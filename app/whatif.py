"""What a rule would flag, asked of the activation store while a person moves its controls.

Shares are over train documents only: a rule is chosen by looking at them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import UInt8

from app.shading import Pieces, pieces
from labeling.artifacts import sha256_json
from labeling.functions import Function
from labeling.rule import Labels, RuleConfig, label
from labeling.store import Store

MARKS = ("", "grown", "seed", "vetoed")
READ_AT_MOST = 3000  # documents whose text functions may read while a page waits
SHOWN = 1200  # characters of a sample document


@dataclass(frozen=True)
class Share:
    """Parts of one family's train tokens."""

    family: str
    tokens: int
    seed: float
    grown: float

    @property
    def flagged(self) -> float:
        return self.seed + self.grown


@dataclass(frozen=True)
class Sample:
    """A stretch of one document, shaded."""

    key: str
    family: str
    share: float
    pieces: Pieces


_cache: OrderedDict[tuple[int, str], tuple[Store, Labels]] = OrderedDict()
_lock = Lock()


def quick(store: Store, functions: Sequence[Function]) -> list[Function]:
    """The functions that can run while the page waits: no classifier (torch stays in the worker), no long corpus."""
    short = len(store.keys) <= READ_AT_MOST
    return [f for f in functions if f.kind != "classifier" and (short or not f.needs_text)]


def what_if(
    store: Store, latents: list[int], config: RuleConfig, functions: Sequence[Function], text_of: Callable[[str], str]
) -> Labels:
    """The labels this rule would give, by functions that are `quick`; the last few are remembered."""
    said = {"config": config.model_dump(), "latents": latents, "functions": [f.model_dump() for f in functions]}
    key = (id(store), sha256_json(said))
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key][1]
    labels = label(store, latents, config, functions, text_of)
    with _lock:
        _cache[key] = store, labels  # holding the store keeps its id its own
        while len(_cache) > 8:
            _cache.popitem(last=False)
    return labels


def shares(store: Store, flags: UInt8[np.ndarray, " tok"]) -> list[Share]:
    """Seeds and grown tokens by family, over train documents."""
    train = store.token_split_mask("train")
    families, flags = store.token_family[train], flags[train]
    count = len(store.families)
    tokens = np.bincount(families, minlength=count)
    seed = np.bincount(families[flags == 2], minlength=count) / np.maximum(tokens, 1)
    grown = np.bincount(families[flags == 1], minlength=count) / np.maximum(tokens, 1)
    return [Share(name, int(tokens[i]), float(seed[i]), float(grown[i])) for i, name in enumerate(store.families)]


def sample_documents(
    store: Store, flags: UInt8[np.ndarray, " tok"], sides: dict[str, str], text_of: Callable[[str], str], draw: int = 0
) -> list[Sample]:
    """Three train documents: one of a forget family, two of others; the third is drawn where the rule flags most."""
    flagged = (flags == 1) | (flags == 2)
    sums = np.concatenate(([0], np.cumsum(flagged)))
    part = (sums[store.doc_indptr[1:]] - sums[store.doc_indptr[:-1]]) / np.maximum(np.diff(store.doc_indptr), 1)
    train = np.array([split == "train" for split in store.doc_split])
    forget = np.array([sides.get(family) == "forget" for family in store.doc_family])
    random = np.random.default_rng(draw)
    chosen: list[int] = []
    worst = np.flatnonzero(train & ~forget)
    worst = worst[np.argsort(-part[worst], kind="stable")[: max(3, len(worst) // 20)]]
    for pool in (np.flatnonzero(train & forget), np.flatnonzero(train & ~forget), worst):
        pool = pool[~np.isin(pool, chosen)]
        if len(pool):
            chosen.append(int(random.choice(pool)))
    return [_sample(store, flags, i, float(part[i]), text_of(store.keys[i])) for i in chosen]


def _sample(store: Store, flags: UInt8[np.ndarray, " tok"], i: int, share: float, text: str) -> Sample:
    """Begins at the paragraph of the first flagged token, so that there is something to see."""
    part = store.document(i)
    starts, ends, marks = store.starts[part], store.ends[part], flags[part]
    hits = np.flatnonzero(marks)
    first = int(starts[hits[0]]) if len(hits) else 0
    begin = (
        0 if first < SHOWN // 2 else max(text.rfind("\n", 0, first) + 1, text.rfind(". ", 0, first) + 1, first - 300)
    )
    stop = min(len(text), begin + SHOWN)
    inside = (starts >= begin) & (ends <= stop)
    classes = [MARKS[m] for m in marks[inside]]
    return Sample(
        store.keys[i],
        store.doc_family[i],
        share,
        pieces(text[begin:stop], starts[inside] - begin, ends[inside] - begin, classes),
    )  # fmt: skip
