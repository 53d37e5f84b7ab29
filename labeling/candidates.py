"""In which order candidate latents are judged, so that a person's first verdicts count most.

By **uncertainty**: a small logistic model of the verdicts so far says how likely an accept is;
those nearest to even come first (as in Interactive Weak Supervision). By **effect**: how many
train tokens would turn forget if the candidate were accepted now.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.rule import Indices, Mask, RuleConfig, moments, seeds_of
from labeling.store import Store
from labeling.whatif import Tally

RATIO = 10.0  # the screen of METHOD step 1.2: before any verdict, an accept is as likely as not here
Table = Mapping[str, NDArray[Any]]


def accept_probability(table: Table, verdicts: Mapping[int, bool]) -> NDArray[np.float64]:
    """P(accept) of every latent, (d_sae,), from verdicts (latent -> accepted).

    A MAP fit: the prior believes the ratio screen alone, so that with no verdict at all the order
    is by distance from a ratio of 10, and each verdict moves it.
    """
    ratio, nearest = (np.log(np.maximum(np.nan_to_num(table[n], nan=1.0), 1e-3)) for n in ("ratio", "ratio_nearest"))
    density = np.log10(np.maximum(table["density"], 1e-7)) + 3
    x = np.stack([ratio - np.log(RATIO), nearest - np.log(RATIO), 10 * (table["auroc"] - 0.5), density], axis=1)
    x = np.concatenate([np.clip(x, -8, 8), np.ones((len(x), 1))], axis=1)  # (d_sae, feature)
    prior = np.array([1.0, 0, 0, 0, 0])
    w = prior.copy()
    known = [latent for latent in verdicts if latent < len(x)]
    seen, y = x[known], np.array([verdicts[latent] for latent in known], dtype=np.float64)
    for _ in range(20 if known else 0):  # Newton: five features, so twenty steps are plenty
        p = _logistic(seen @ w)
        gradient = seen.T @ (p - y) + (w - prior)
        hessian = seen.T @ (seen * (p * (1 - p))[:, None]) + np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        w = w - step
        if np.abs(step).max() < 1e-6:
            break
    return _logistic(x @ w)


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


@dataclass(frozen=True, eq=False)
class Standing:
    """The runs of tokens that a rule's labels are made of now, to ask what one more latent would do.

    Runs are maximal stretches of tokens that are seeds or may be grown into; one that holds a seed
    is forget (METHOD step 1.4). Gaps that are closed and spans that are too short are left aside.
    """

    store: Store
    config: RuleConfig
    counted: Tally
    train: Mask
    first: Mask  # (tok + 1,) begins a document
    seed: Mask  # (tok,)
    member: Mask  # (tok,)
    run: NDArray[np.int32]  # (tok,) number of a member's run
    begins: Indices  # (run,)
    stops: Indices  # (run,)
    seeded: Mask  # (run,)

    @classmethod
    def of(cls, store: Store, counted: Tally, config: RuleConfig) -> "Standing":
        seed = seeds_of(counted.score, store.doc_indptr, config) & ~counted.vetoed
        member = seed if config.boundary == "seeds" else (counted.growable & ~counted.vetoed) | seed
        first = np.zeros(store.n_tokens + 1, dtype=bool)
        first[store.doc_indptr] = True
        opens = member & (first[:-1] | ~np.concatenate(([False], member[:-1])))
        closes = member & (first[1:] | ~np.concatenate((member[1:], [False])))
        run = (np.cumsum(opens, dtype=np.int32) - 1).astype(np.int32)
        begins, stops = np.flatnonzero(opens), np.flatnonzero(closes) + 1
        seeded = np.zeros(len(begins), dtype=bool)
        seeded[run[np.flatnonzero(seed)]] = True
        return cls(
            store, config, counted, store.token_split_mask("train"), first, seed, member, run, begins, stops, seeded
        )

    def effect(self, latent: int) -> int:
        """Train tokens that would turn forget if this latent were accepted too."""
        mean, sd = moments(self.store.stats)
        tokens, values = self.store.latent(latent)
        keep = self.train[tokens] & ~self.counted.vetoed[tokens]
        tokens, values = tokens[keep], values[keep]
        strong = tokens[values > mean[latent] + self.config.z * sd[latent]]
        seeds = self._new_seeds(strong)
        if self.config.boundary == "seeds":
            return len(seeds)
        floor = 0.0 if self.config.boundary == "grow_positive" else mean[latent] + self.config.grow_above * sd[latent]
        fresh = np.union1d(tokens[values > floor], seeds)
        fresh = fresh[~self.member[fresh]]
        return self._joined(fresh, seeds)

    def _new_seeds(self, strong: Indices) -> Indices:
        """Train tokens that become seeds when one more vote falls on each of `strong`."""
        score = self.counted.score
        if not self.config.window:  # nothing but the token itself can turn
            return strong[score[strong] == self.config.k - 1]
        more = score.copy()
        more[strong] += 1
        now = seeds_of(more, self.store.doc_indptr, self.config) & ~self.counted.vetoed
        return np.flatnonzero(now & ~self.seed & self.train)

    def _joined(self, fresh: Indices, seeds: Indices) -> int:
        """Tokens that turn forget when `fresh` tokens join the runs beside them and `seeds` become seeds."""
        old = self.member[seeds]
        beside = [seeds[old], fresh[~self.first[fresh]] - 1, fresh[~self.first[fresh + 1]] + 1]
        near = np.concatenate(beside)
        runs = np.unique(self.run[near[self.member[near]]])
        begins = np.concatenate([fresh, self.begins[runs]])
        order = np.argsort(begins, kind="stable")
        begins = begins[order]
        stops = np.concatenate([fresh + 1, self.stops[runs]])[order]
        was = np.concatenate([np.zeros(len(fresh), bool), self.seeded[runs]])[order]
        now = was | np.concatenate([np.isin(fresh, seeds), np.isin(runs, self.run[seeds[old]])])[order]
        if not len(begins):
            return 0
        group = np.cumsum(np.concatenate(([True], (begins[1:] != stops[:-1]) | self.first[begins[1:]]))) - 1
        size = stops - begins
        forget = np.bincount(group, now) > 0
        return int((np.bincount(group, size) * forget).sum() - (size * was).sum())


def effects(standing: Standing, latents: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(latent, tokens) of each candidate."""
    for latent in latents:
        yield latent, standing.effect(latent)
