"""The votes themselves, kept sparse: which tokens each function votes on, and what that adds up to.

`labeling.rule` only needs the sum; analysis, label models and the ladder need to know who said
what. The cost is that of the votes: there is never a matrix of tokens times functions.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labeling.events import Event, Progress, value_of
from labeling.functions import ABSTAIN, FORGET, RETAIN, Function, Latent
from labeling.rule import Flags, Mask, RuleConfig, TextOf, function_votes, grow, latent_weights, moments, seeds_of
from labeling.store import Stats, Store

Tokens = NDArray[np.int32]  # indices of tokens, ascending


@dataclass(frozen=True)
class Votes:
    """One function's votes: the tokens it does not abstain on, what it says there, and where its latent lets spans grow."""

    name: str
    kind: str
    tokens: Tokens
    votes: NDArray[np.int8]
    grows: Tokens
    weight: int = 1
    veto: bool = False

    @property
    def side(self) -> str:
        """Snorkel's polarity: forget, retain, both, or none if it never votes."""
        said = {int(v) for v in np.unique(self.votes)}
        return {(FORGET,): "forget", (RETAIN,): "retain", (): "none"}.get(tuple(said), "both")

    def on(self, sign: int) -> Tokens:
        return self.tokens[self.votes == sign]


@dataclass(frozen=True)
class Ballots:
    """Every function's votes on a run of whole documents, and their sum under one rule."""

    config: RuleConfig
    functions: list[Votes]
    doc_indptr: NDArray[np.int64]
    score: NDArray[np.int32]  # (tok,) the weighted vote; a veto is not in it
    excess: NDArray[np.float32]  # (tok,) SDs above threshold, over the latents that vote
    growing: NDArray[np.uint16]  # (tok,) latents into which a span may grow here
    vetoed: Mask
    errors: dict[str, int]

    @property
    def n_tokens(self) -> int:
        return len(self.score)

    def seeds(self) -> Mask:
        """Where the votes reach the rule's `k`."""
        return seeds_of(self.score, self.doc_indptr, self.config)

    def grow(self, seed: Mask) -> Flags:
        """Seeds to labels, under the rule's boundary, vetoes, gaps and shortest span."""
        return grow(seed, self.growing > 0, self.vetoed, self.doc_indptr, self.config)

    def within(self, documents: Mask) -> "Ballots":
        """Of these documents alone, tokens counted anew: what works on the result cannot see the others."""
        keep = np.repeat(documents, np.diff(self.doc_indptr))
        place = np.cumsum(keep, dtype=np.int32) - np.int32(1)

        def narrow(f: Votes) -> Votes:
            mine = keep[f.tokens]
            grows = place[f.grows[keep[f.grows]]]
            return replace(f, tokens=place[f.tokens[mine]], votes=f.votes[mine], grows=grows)

        return Ballots(
            self.config, [narrow(f) for f in self.functions],
            np.concatenate(([0], np.cumsum(np.diff(self.doc_indptr)[documents]))).astype(np.int64),
            self.score[keep], self.excess[keep], self.growing[keep], self.vetoed[keep], self.errors,
        )  # fmt: skip


def train_documents(store: Store) -> Mask:
    """Which documents statistics may look at."""
    return np.array([split == "train" for split in store.doc_split], dtype=bool)


def cast(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    stats: Stats | None = None,
) -> Generator[Event, None, Ballots]:
    """Every function votes on every token of the store, with progress. `stats` as in `labeling.rule.label`."""
    mean, sd = moments(stats or store.stats)
    score, excess = np.zeros(store.n_tokens, np.int32), np.zeros(store.n_tokens, np.float32)
    growing, vetoed = np.zeros(store.n_tokens, np.uint16), np.zeros(store.n_tokens, dtype=bool)
    out: list[Votes] = []
    weights = latent_weights(store, latents, functions)
    for done, (latent, weight) in enumerate(weights.items()):
        tokens, values = store.latent(latent)
        threshold = mean[latent] + config.z * sd[latent]
        hit = values > threshold
        where = tokens[hit].astype(np.int32)
        score[where] += weight
        excess[where] += ((values[hit] - threshold) / max(sd[latent], 1e-9)).astype(np.float32)
        grows = np.zeros(0, np.int32)
        if config.boundary != "seeds":
            least = 0 if config.boundary == "grow_positive" else mean[latent] + config.grow_above * sd[latent]
            grows = tokens[values > least].astype(np.int32)
            growing[grows] += 1
        out.append(Votes(f"latent {latent}", "latent", where, np.full(len(where), FORGET, np.int8), grows, weight))
        if done % 20 == 0:
            yield Progress(done, len(weights), "latents", "collect votes")

    errors: dict[str, int] = {}
    others = [f for f in functions if not isinstance(f, Latent)]
    parts: list[list[NDArray[np.int8]]] = [[] for _ in others]
    for i, votes in enumerate(function_votes(store, others, text_of, errors)):
        for mine, vote in zip(parts, votes, strict=True):
            mine.append(vote)
        if i % 500 == 0:
            yield Progress(i, len(store.keys), "documents", "collect votes")
    for function, mine in zip(others, parts, strict=True):
        dense = np.concatenate(mine) if mine else np.zeros(0, np.int8)
        if function.veto:
            vetoed |= dense < 0
            score += np.maximum(dense, 0).astype(np.int32) * function.weight
        else:
            score += dense.astype(np.int32) * function.weight
        where = np.flatnonzero(dense != ABSTAIN).astype(np.int32)
        grows = np.zeros(0, np.int32)
        out.append(Votes(function.name, function.kind, where, dense[where], grows, function.weight, function.veto))
    return Ballots(config, out, store.doc_indptr, score, excess, growing, vetoed, errors)


def collect(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    stats: Stats | None = None,
) -> Ballots:
    """`cast`, without its progress."""
    return value_of(cast(store, latents, config, functions, text_of, stats))
