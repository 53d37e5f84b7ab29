"""Why a token has its label: who voted, by how much, and from which seed a grown token comes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeling.rule import GROWN, Flags, RuleConfig, in_window, is_forget, moments
from labeling.store import Store
from labeling.votes import StoredVotes


@dataclass(frozen=True)
class Voice:
    """A labeling function on one token. Latents that fire without reaching their threshold have `vote` 0:
    they do not vote, but a span may grow over them."""

    name: str
    kind: str
    vote: int  # +1 forget, -1 retain, 0 only fires
    weight: int
    final: bool = False  # a retain vote with veto
    latent: int | None = None
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Seed:
    """The seed that a grown token comes from: the nearest one of its span. Offsets are code points."""

    token: int
    start: int
    end: int
    distance: int  # tokens; negative: it stands before


@dataclass(frozen=True)
class Reason:
    """Everything behind one token's label."""

    flag: int
    score: float  # votes for forget, weighted, those against taken off; over the rule's window where it has one
    needed: int  # k
    window: int  # tokens to either side whose votes count too
    voices: list[Voice]  # those that vote first, strongest first
    seed: Seed | None  # of a grown token
    filled: bool  # grown by closing a gap: nothing fires here


def explain(
    store: Store, weights: Mapping[int, int], config: RuleConfig, votes: Sequence[StoredVotes], flags: Flags, token: int
) -> Reason:
    """The reason for a token's label. `weights` and `votes` are those the labels were made with."""
    voices = _latents(store, weights, config, token)
    for vote in votes:
        at = int(np.searchsorted(vote.tokens, token))
        if at < len(vote.tokens) and vote.tokens[at] == token:
            f = vote.function
            voices.append(Voice(f.name, f.kind, int(vote.votes[at]), f.weight, f.veto and vote.votes[at] < 0))
    voices.sort(key=lambda v: (v.vote == 0, v.latent is not None, -_margin(v)))
    grown = flags[token] == GROWN
    return Reason(
        int(flags[token]),
        _score(store, weights, config, votes, token),
        config.k,
        config.window,
        voices,
        nearest_seed(store, flags, token) if grown else None,
        bool(grown and not voices),
    )


def _latents(store: Store, weights: Mapping[int, int], config: RuleConfig, token: int) -> list[Voice]:
    mean, sd = moments(store.stats)
    out = []
    for latent, weight in weights.items():
        tokens, values = store.latent(latent)
        at = int(np.searchsorted(tokens, token))
        if at < len(tokens) and tokens[at] == token:
            value, threshold = float(values[at]), float(mean[latent] + config.z * sd[latent])
            out.append(
                Voice(f"latent {latent}", "latent", int(value > threshold), weight, False, latent, value, threshold)
            )
    return out


def _score(
    store: Store, weights: Mapping[int, int], config: RuleConfig, votes: Sequence[StoredVotes], token: int
) -> float:
    """The votes that count on a token, as the rule counts them, of its document alone."""
    part = store.document(int(store.doc_of_tokens(np.array([token]))[0]))
    score = np.zeros(part.stop - part.start, np.int64)
    mean, sd = moments(store.stats)
    for latent, weight in weights.items():
        tokens, values = store.latent(latent)
        here = slice(*np.searchsorted(tokens, (part.start, part.stop)))
        score[tokens[here][values[here] > mean[latent] + config.z * sd[latent]] - part.start] += weight
    for vote in votes:
        here = slice(*np.searchsorted(vote.tokens, (part.start, part.stop)))
        score[vote.tokens[here] - part.start] += vote.score[here]
    return float(in_window(score, np.array([0, len(score)]), config.window)[token - part.start])


def _margin(voice: Voice) -> float:
    return voice.value - voice.threshold if voice.value is not None and voice.threshold is not None else 0.0


def nearest_seed(store: Store, flags: Flags, token: int) -> Seed | None:
    """The nearest seed of the span that a token belongs to; the earlier one of two as near."""
    part = store.document(int(store.doc_of_tokens(np.array([token]))[0]))
    here, at = np.asarray(flags[part]), token - part.start
    kept = np.flatnonzero(~is_forget(here))  # the span ends before the next one of these
    low = int(kept[kept < at].max(initial=-1)) + 1
    high = int(kept[kept > at].min(initial=len(here)))
    seeds = np.flatnonzero(here[low:high] > GROWN) + low
    if not len(seeds):
        return None
    found = int(seeds[np.argmin(np.abs(seeds - at))])
    where = part.start + found
    return Seed(where, int(store.starts[where]), int(store.ends[where]), found - at)
