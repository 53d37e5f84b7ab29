"""What a rule would flag, answered while a person moves its controls: caches around `labeling.whatif`.

Nothing a control changes is read twice: the chosen latents' postings, the votes of functions that
read text (`app.votes`), and which token covers which annotated word are all kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from app.shading import Pieces, pieces
from app.votes import Ballot
from labeling import whatif
from labeling.gold_words import Agreement, GoldWords, agreement
from labeling.postings import Postings, gather
from labeling.rule import RuleConfig, is_forget, latent_weights
from labeling.store import Store
from labeling.votes import StoredVotes
from labeling.whatif import Share, Tally

MARKS = ("", "grown", "seed", "vetoed")
SHOWN = 1200  # characters of a sample document
Flags = UInt8[np.ndarray, " tok"]
Weights = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sample:
    """A stretch of one document, shaded."""

    key: str
    family: str
    share: float
    changed: int | None  # tokens that the saved rule labels otherwise
    pieces: Pieces


@dataclass(frozen=True)
class Answer:
    """A rule's flags, and what they come to."""

    flags: Flags
    shares: list[Share]
    gold: Agreement | None

    @property
    def tokens(self) -> int:
        return sum(share.tokens for share in self.shares)

    @property
    def flagged(self) -> float:
        """Share of all train tokens that the rule removes."""
        return sum(share.flagged * share.tokens for share in self.shares) / max(self.tokens, 1)

    @property
    def before(self) -> float:
        return sum((share.before or 0) * share.tokens for share in self.shares) / max(self.tokens, 1)

    @property
    def changed(self) -> int:
        return sum(share.added + share.removed for share in self.shares)


def flags_of(store: Store, latents: Sequence[int], config: RuleConfig, ballot: Ballot) -> Flags:
    """The labels this rule gives, but for functions whose votes are still waited for."""
    return _flags(store, *_voters(store, latents, ballot), config)


def tally_of(store: Store, latents: Sequence[int], config: RuleConfig, ballot: Ballot) -> Tally:
    """The votes behind these labels."""
    return _tally(store, *_voters(store, latents, ballot), config)


def _voters(store: Store, latents: Sequence[int], ballot: Ballot) -> tuple[Weights, tuple[StoredVotes, ...]]:
    return tuple(sorted(latent_weights(store, latents, ballot.latents).items())), ballot.votes


def answer(store: Store, flags: Flags, saved: Flags | None = None, gold: GoldWords | None = None) -> Answer:
    """Shares per family over train documents, with what changed against the `saved` rule, and figures on gold."""
    shares = whatif.shares(store, _families(store), flags, saved)
    return Answer(flags, shares, agreement(gold, is_forget(flags)) if gold else None)


@lru_cache(maxsize=6)
def _flags(store: Store, weights: Weights, votes: tuple[StoredVotes, ...], config: RuleConfig) -> Flags:
    return whatif.flag(store, _counted(store, weights, votes, config), config)


@lru_cache(maxsize=2)
def _tally(store: Store, weights: Weights, votes: tuple[StoredVotes, ...], config: RuleConfig) -> Tally:
    return _counted(store, weights, votes, config)


def _counted(store: Store, weights: Weights, votes: tuple[StoredVotes, ...], config: RuleConfig) -> Tally:
    postings = _postings(store, tuple(latent for latent, _ in weights))
    return whatif.tally(store, postings, config, dict(weights), votes)


@lru_cache(maxsize=2)
def _postings(store: Store, latents: tuple[int, ...]) -> Postings:
    return gather(store, latents)


@lru_cache(maxsize=2)
def _families(store: Store) -> Int32[np.ndarray, " tok"]:
    return whatif.train_families(store)


# --- sample documents -----------------------------------------------------------------------------


def sample_documents(
    store: Store,
    flags: Flags,
    saved: Flags | None,
    sides: Mapping[str, str],
    text_of: Callable[[str], str],
    draw: int = 0,
) -> list[Sample]:
    """Three train documents. One of a forget family and one of another stay while controls move;
    the third is where this rule and the saved one differ most, or the other document flagged most."""
    forget = is_forget(flags)
    changed = forget != is_forget(saved) if saved is not None else None
    base = is_forget(saved) if saved is not None else forget
    train = np.array([split == "train" for split in store.doc_split])
    of_forget = np.array([sides.get(family) == "forget" for family in store.doc_family])
    random = np.random.default_rng(draw)
    chosen: list[int] = []
    for pool in (np.flatnonzero(train & of_forget), np.flatnonzero(train & ~of_forget)):
        if len(pool):
            chosen.append(int(random.choice(pool)))
    moved = _counts(store, changed) if changed is not None else np.zeros(len(train), dtype=np.int64)
    tokens = np.maximum(np.diff(store.doc_indptr), 1)
    worst = np.flatnonzero(train) if (moved * train).any() else np.flatnonzero(train & ~of_forget)
    by = moved if (moved * train).any() else _counts(store, base) / tokens
    worst = worst[~np.isin(worst, chosen)]
    if len(worst):
        chosen.append(int(worst[np.argsort(-by[worst], kind="stable")[draw % min(len(worst), 20)]]))
    part = _counts(store, forget) / tokens
    return [
        _sample(store, flags, base, changed, i, float(part[i]), int(moved[i]), text_of(store.keys[i])) for i in chosen
    ]


def _counts(store: Store, mask: Bool[np.ndarray, " tok"]) -> np.ndarray:
    """Marked tokens per document."""
    sums = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
    return sums[store.doc_indptr[1:]] - sums[store.doc_indptr[:-1]]


def _sample(
    store: Store, flags: Flags, base: Bool[np.ndarray, " tok"], changed: Bool[np.ndarray, " tok"] | None,
    i: int, share: float, moved: int, text: str,
) -> Sample:  # fmt: skip
    """Begins at the paragraph of the first token that the saved rule flags (or that changed, if it flags none),
    so that there is something to see and that it does not run away under a moving control."""
    part = store.document(i)
    starts, ends = np.asarray(store.starts[part]), np.asarray(store.ends[part])
    hits = np.flatnonzero(base[part])
    if not len(hits) and changed is not None:
        hits = np.flatnonzero(changed[part])
    first = int(starts[hits[0]]) if len(hits) else 0
    begin = (
        0 if first < SHOWN // 2 else max(text.rfind("\n", 0, first) + 1, text.rfind(". ", 0, first) + 1, first - 300)
    )
    stop = min(len(text), begin + SHOWN)
    inside = np.flatnonzero((starts >= begin) & (ends <= stop))
    classes = [
        _classes(int(flags[part.start + t]), changed is not None and bool(changed[part.start + t])) for t in inside
    ]
    shown = pieces(text[begin:stop], starts[inside] - begin, ends[inside] - begin, classes)
    return Sample(store.keys[i], store.doc_family[i], share, None if changed is None else moved, shown)


def _classes(flag: int, changed: bool) -> str:
    mark = MARKS[flag]
    if not changed:
        return mark
    return f"{mark} added" if mark in ("grown", "seed") else f"{mark} removed".strip()
