"""Postings of the chosen latents, gathered once: votes at any z are then one pass over them.

A person moves a control and waits (DESIGN: what-if). Reading hundreds of latents shard by shard
costs more than counting their votes, and no control changes which postings are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from labeling.rule import Mask, RuleConfig, moments
from labeling.store import Stats, Store

SIGN_BIT = 0x8000
HALF_MAX_BITS = 0x7BFF  # 65504


@dataclass(frozen=True, eq=False)
class Postings:
    """Where the chosen latents fire and how strongly, latent after latent."""

    n_tokens: int
    latents: tuple[int, ...]
    counts: NDArray[np.int64]  # (fn,) postings of each latent
    tokens: NDArray[np.int32]  # (posting,)
    bits: NDArray[np.uint16]  # (posting,) the float16 as stored; above 0 its bits sort as its value does

    def above(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which postings exceed their latent's threshold; exactly as `value > threshold` in float64."""
        return self.bits > np.repeat(half_below(thresholds), self.counts)

    def score(self, thresholds: NDArray[np.float64], weights: Mapping[int, int]) -> NDArray[np.int64]:
        """Sum of the weights of the latents that vote, per token."""
        hit = self.above(thresholds)
        score = np.zeros(self.n_tokens, dtype=np.int64)
        weight = np.array([weights[latent] for latent in self.latents], dtype=np.int64)
        for value in np.unique(weight):
            of_weight = hit & np.repeat(weight == value, self.counts) if len(np.unique(weight)) > 1 else hit
            score += value * np.bincount(np.compress(of_weight, self.tokens), minlength=self.n_tokens)
        return score

    @cached_property
    def positive(self) -> Mask:
        """Tokens on which any chosen latent fires."""
        return self._marked(self.tokens)

    def growable(self, config: RuleConfig, mean: NDArray[np.float64], sd: NDArray[np.float64]) -> Mask:
        """Tokens that a span may grow into."""
        if config.boundary == "grow_positive":
            return self.positive
        if config.boundary == "seeds":
            return np.zeros(self.n_tokens, dtype=bool)
        chosen = list(self.latents)
        hit = self.above(mean[chosen] + config.grow_above * sd[chosen])
        return self._marked(np.compress(hit, self.tokens))

    def _marked(self, tokens: NDArray[np.int32]) -> Mask:
        mask = np.zeros(self.n_tokens, dtype=bool)
        mask[tokens] = True
        return mask


def half_below(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Bits of the largest float16 not above each value (0 for what is below 0)."""
    values = np.clip(values, 0, 65504)
    bits = values.astype(np.float16).view(np.uint16)
    rounded_up = bits.view(np.float16).astype(np.float64) > values
    return np.minimum(bits - rounded_up.astype(np.uint16), np.uint16(HALF_MAX_BITS))


def gather(store: Store, latents: Sequence[int]) -> Postings:
    """Read the postings of some latents."""
    assert store.n_tokens < 2**31, store.n_tokens
    tokens: list[NDArray[np.int32]] = []
    bits: list[NDArray[np.uint16]] = []
    for latent in latents:
        where, values = store.latent(latent)
        tokens.append(where.astype(np.int32))
        bits.append(values.astype(np.float16).view(np.uint16))
    counts = np.array([len(part) for part in tokens], dtype=np.int64)
    return Postings(
        store.n_tokens, tuple(map(int, latents)), counts,
        np.concatenate([*tokens, np.zeros(0, np.int32)]), np.concatenate([*bits, np.zeros(0, np.uint16)]),
    )  # fmt: skip


def thresholds(postings: Postings, stats: Stats, z: float) -> NDArray[np.float64]:
    """What each latent must exceed to vote."""
    mean, sd = moments(stats)
    chosen = list(postings.latents)
    return mean[chosen] + z * sd[chosen]
