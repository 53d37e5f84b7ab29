"""What a rule would flag, quickly enough to ask while a person moves its controls.

The same labels as `labeling.rule.label`, from postings gathered once and from votes that other
functions cast once (`labeling.votes`). Shares are over train tokens only: a rule is chosen by
looking at them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling.postings import Postings, thresholds
from labeling.rule import GROWN, SEED, VETOED, Flags, Mask, RuleConfig, grow, moments, seeds_of
from labeling.store import Store
from labeling.votes import StoredVotes

FLAGS = 4  # KEEP, GROWN, SEED, VETOED


@dataclass(frozen=True)
class Share:
    """One family's train tokens: parts of them that a rule flags, and what changed against another rule."""

    family: str
    tokens: int
    seed: float
    grown: float
    vetoed: float
    before: float | None  # flagged by the other rule
    added: int  # tokens that only this rule flags
    removed: int  # tokens that only the other one flags

    @property
    def flagged(self) -> float:
        return self.seed + self.grown


@dataclass(frozen=True, eq=False)
class Tally:
    """What a rule knows of each token before it looks at neighbours."""

    score: NDArray[np.int64]  # votes, weighted
    growable: Mask
    vetoed: Mask


def tally(
    store: Store,
    postings: Postings,
    config: RuleConfig,
    weights: Mapping[int, int],
    votes: Sequence[StoredVotes] = (),
) -> Tally:
    """Count the votes. `weights` are those of `latent_weights`, `postings` are of its latents."""
    mean, sd = moments(store.stats)
    score = postings.score(thresholds(postings, store.stats, config.z), weights)
    vetoed = np.zeros(store.n_tokens, dtype=bool)
    for vote in votes:
        if vote.function.veto:
            vetoed[vote.tokens[vote.votes < 0]] = True
        score[vote.tokens] += vote.score
    return Tally(score, postings.growable(config, mean, sd), vetoed)


def flag(store: Store, counted: Tally, config: RuleConfig) -> Flags:
    """What `labeling.rule.label` gives."""
    return grow(
        seeds_of(counted.score, store.doc_indptr, config), counted.growable, counted.vetoed, store.doc_indptr, config
    )


def train_families(store: Store) -> NDArray[np.int32]:
    """Index into `store.families` per token of the train split, `len(families)` for every other token."""
    train = store.token_split_mask("train")
    return np.where(train, store.token_family, len(store.families)).astype(np.int32)


def shares(store: Store, families: NDArray[np.int32], now: Flags, before: Flags | None = None) -> list[Share]:
    """What a rule flags per family, and what changed against `before`, in one count over the tokens."""
    cells = families * FLAGS + now
    if before is not None:
        cells = cells * FLAGS + before
    width = FLAGS if before is not None else 1
    table = np.bincount(cells, minlength=(len(store.families) + 1) * FLAGS * width)
    table = table.reshape(-1, FLAGS, width)  # (family, now, before)
    out = []
    for name, cell in zip(store.families, table[:-1], strict=True):
        tokens, by_now, by_before = int(cell.sum()), cell.sum(axis=1), cell.sum(axis=0)
        kept, forget = [0, VETOED], [GROWN, SEED]
        compared = before is not None
        out.append(Share(
            name, tokens,
            seed=float(by_now[SEED] / max(tokens, 1)),
            grown=float(by_now[GROWN] / max(tokens, 1)),
            vetoed=float(by_now[VETOED] / max(tokens, 1)),
            before=float(by_before[forget].sum() / max(tokens, 1)) if compared else None,
            added=int(cell[np.ix_(forget, kept)].sum()) if compared else 0,
            removed=int(cell[np.ix_(kept, forget)].sum()) if compared else 0,
        ))  # fmt: skip
    return out
