"""A rule: votes become seeds, seeds grow to spans (METHOD step 1.3 and 1.4).

A token is a seed if at least `k` votes for forget meet on it, or in a `window` around it: one vote
in passing is then not enough, and the plain words between two clinical ones are. A chosen latent votes where it lies
more than `z` standard deviations above its mean (both over all train tokens, zeros included);
other functions add or subtract their weight. A maximal run of tokens that are seeds or may be
grown into is forget as a whole if it holds a seed: the fixed point of growing one neighbour at a
time, found in one pass. Growing stops at the end of a document and at a vetoed token.

Everything works on postings (the tokens where a latent fires), so the cost is that of the
non-zeros of the chosen latents plus one pass over the tokens.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from labeling.artifacts import sha256_json, staged
from labeling.events import Artifact, Event, Progress, value_of
from labeling.functions import Function, Latent, Votes
from labeling.store import Stats, Store
from labeling.tokens import Spans, to_spans

KEEP, GROWN, SEED, VETOED = 0, 1, 2, 3
TextOf = Callable[[str], str]
Flags = NDArray[np.uint8]  # (tok,)
Mask = NDArray[np.bool_]  # (tok,)
Indices = NDArray[np.int64]


class RuleConfig(BaseModel):
    """How votes become labels. The defaults are a replication's (k=4), the paper's are k=2, z=4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(4, ge=1, le=1000, description="Votes that make a token a seed.")
    z: float = Field(2.0, ge=0, le=100, allow_inf_nan=False, description="A latent votes this many SDs above its mean.")
    window: int = Field(
        0, ge=0, le=1000, description="Votes are counted over so many tokens to either side, not on the token alone."
    )
    boundary: Literal["grow_positive", "grow_above", "seeds"] = Field(
        "grow_positive", description="Where spans grow: over any positive chosen latent, above a threshold, not at all."
    )
    grow_above: float = Field(0.0, ge=0, le=100, allow_inf_nan=False, description="grow_above: SDs above the mean.")
    min_tokens: int = Field(1, ge=1, le=1000, description="Shorter spans are dropped.")
    close_gap: int = Field(0, ge=0, le=1000, description="Gaps of up to so many tokens between two spans are filled.")

    @model_serializer(mode="wrap", when_used="json")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No window is not saved: rules of before there was one keep their hash. Links and diffs name every setting."""
        said: dict[str, Any] = dump(self)
        return said if self.window else {name: value for name, value in said.items() if name != "window"}


@dataclass
class Labels:
    """Weak labels of every token of a store: 0 retain, 1 grown, 2 seed, 3 forget but for a veto."""

    flags: Flags
    errors: dict[str, int] = field(default_factory=dict)  # function name -> documents it failed on

    @property
    def forget(self) -> Mask:
        return is_forget(self.flags)


def is_forget(flags: Flags) -> Mask:
    return (flags == GROWN) | (flags == SEED)


def rule_hash(latents: Sequence[int], config: RuleConfig, functions: Sequence[Function] = ()) -> str:
    """The identity of a rule: its settings, latents and functions; their order does not matter."""
    configs = sorted((f.model_dump(mode="json") for f in functions), key=sha256_json)
    chosen = sorted({int(latent) for latent in latents})
    return sha256_json({"config": config.model_dump(mode="json"), "latents": chosen, "functions": configs})


def label(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    stats: Stats | None = None,
) -> Labels:
    """Label every token of the store. `stats` are the training store's when this is another text's store."""
    return value_of(labelling(store, latents, config, functions, text_of, stats))


def labelling(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    stats: Stats | None = None,
) -> Generator[Progress, None, Labels]:
    """`label`, with its progress."""
    weights = latent_weights(store, latents, functions)
    mean, sd = moments(stats or store.stats)
    score = np.zeros(store.n_tokens, dtype=np.int32)
    growable = np.zeros(store.n_tokens, dtype=bool)
    for done, (latent, weight) in enumerate(weights.items()):
        tokens, values = store.latent(latent)
        score[tokens[values > mean[latent] + config.z * sd[latent]]] += weight  # a posting names a token once
        if config.boundary == "grow_positive":
            growable[tokens[values > 0]] = True
        elif config.boundary == "grow_above":
            growable[tokens[values > mean[latent] + config.grow_above * sd[latent]]] = True
        if done % 20 == 0:
            yield Progress(done, len(weights), "latents", "count votes")

    others = [f for f in functions if not isinstance(f, Latent)]
    vetoed = np.zeros(store.n_tokens, dtype=bool)
    errors: dict[str, int] = {}
    for i, votes in enumerate(function_votes(store, others, text_of, errors)):
        where = store.document(i)
        for function, vote in zip(others, votes, strict=True):
            if function.veto:  # its retain votes are final, so they need not be counted too
                vetoed[where] |= vote < 0
                vote = np.maximum(vote, 0)
            score[where] += vote.astype(np.int32) * function.weight
        if i % 1000 == 0:
            yield Progress(i, len(store.keys), "documents", "ask functions")
    return Labels(grow(seeds_of(score, store.doc_indptr, config), growable, vetoed, store.doc_indptr, config), errors)


def seeds_of(score: NDArray[np.integer[Any]], doc_indptr: Indices, config: RuleConfig) -> Mask:
    """Where the votes reach `k`."""
    return in_window(score, doc_indptr, config.window) >= config.k


def in_window(score: NDArray[Any], doc_indptr: Indices, window: int) -> NDArray[Any]:
    """The votes within `window` tokens to either side, scaled up where the document ends sooner. (tok,)"""
    if not window:
        return score
    sizes = np.diff(doc_indptr)
    at = np.arange(len(score))
    low = np.maximum(at - window, np.repeat(doc_indptr[:-1], sizes))
    high = np.minimum(at + window + 1, np.repeat(doc_indptr[1:], sizes))
    sums = np.concatenate(([0], np.cumsum(score)))
    return (sums[high] - sums[low]) * (2 * window + 1) / (high - low)


def latent_weights(store: Store, latents: Sequence[int], functions: Sequence[Function]) -> dict[int, int]:
    """Latents that vote and what each vote counts; ValueError for one that the SAE does not have."""
    weights = dict.fromkeys(map(int, latents), 1)
    weights |= {f.latent: f.weight for f in functions if isinstance(f, Latent)}
    for latent in weights:
        if not 0 <= latent < store.d_sae:
            raise ValueError(f"latent {latent} is not in this store, whose SAE has latents 0 to {store.d_sae - 1}")
    return weights


def moments(stats: Stats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and SD per latent in float64, so that thresholds are not rounded to the postings' float32."""
    return np.asarray(stats.mean, dtype=np.float64), np.asarray(stats.sd, dtype=np.float64)


def function_votes(
    store: Store, functions: Sequence[Function], text_of: TextOf | None, errors: dict[str, int]
) -> Iterator[list[Votes]]:
    """Document by document, each function's votes. A function that fails on a document abstains there.

    Failures are counted in `errors`; one that fails on every document is a mistake to put right.
    """
    if not functions:
        return
    reads = any(f.needs_text for f in functions)
    if reads and text_of is None:
        raise ValueError("functions that read text need the documents; pass text_of")
    reasons: dict[str, str] = {}
    for i, key in enumerate(store.keys):
        where = store.document(i)
        starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
        text = text_of(key) if reads and text_of is not None else ""
        votes = []
        for function in functions:
            try:
                votes.append(function.vote(text, starts, ends, store.doc_family[i]))
            except ValueError as error:
                errors[function.name] = errors.get(function.name, 0) + 1
                reasons[function.name] = str(error)
                votes.append(np.zeros(len(starts), dtype=np.int8))
        yield votes
    for name, count in errors.items():
        if count == len(store.keys):
            raise ValueError(f"labeling function '{name}' fails on every document: {reasons[name]}")


def grow(
    seed: Mask,
    growable: Mask,
    vetoed: Mask,
    doc_indptr: Indices,
    config: RuleConfig,
) -> Flags:
    """Seeds to flags: grow, fill gaps, drop short spans; then mark what only a veto kept out."""
    first = np.zeros(len(seed) + 1, dtype=bool)
    first[doc_indptr] = True  # tokens that begin a document (one past the end for empty last ones)
    flags = _grow(seed, growable, vetoed, first, config)
    if vetoed.any():
        flags[vetoed & (_grow(seed, growable, np.zeros_like(vetoed), first, config) > 0)] = VETOED
    return flags


def _grow(
    seed: Mask,
    growable: Mask,
    vetoed: Mask,
    first: Mask,
    config: RuleConfig,
) -> Flags:
    flags = np.zeros(len(seed), dtype=np.uint8)
    members = np.flatnonzero((seed | growable) & ~vetoed if config.boundary != "seeds" else seed & ~vetoed)
    run = runs(members, first)
    seeded = np.zeros(run[-1] + 1 if len(run) else 0, dtype=bool)
    seeded[run[seed[members]]] = True
    flags[members[seeded[run]]] = GROWN
    if config.close_gap:
        _fill_gaps(flags, vetoed, first, config.close_gap)
    if config.min_tokens > 1:
        members = np.flatnonzero(flags)
        run = runs(members, first)
        flags[members[np.bincount(run)[run] < config.min_tokens]] = KEEP
    flags[(flags > 0) & seed] = SEED
    return flags


def runs(members: Indices, first: Mask) -> Indices:
    """Number of the maximal run that each of these (sorted) tokens belongs to, within its document."""
    begins = np.ones(len(members), dtype=np.int64)
    begins[1:] = (np.diff(members) > 1) | first[members[1:]]
    return np.cumsum(begins) - 1


def _fill_gaps(flags: Flags, vetoed: Mask, first: Mask, most: int) -> None:
    """Fill gaps of at most `most` tokens between forget tokens of one document, none of them vetoed."""
    members = np.flatnonzero(flags)
    walls = np.cumsum(first[:-1])  # documents begun so far, plus vetoed tokens so far
    walls += np.cumsum(vetoed)
    left, right = members[:-1], members[1:]
    fill = (right - left > 1) & (right - left <= most + 1) & (walls[left] == walls[right])
    for offset in range(1, most + 1):
        inside = left[fill] + offset
        flags[inside[inside < right[fill]]] = GROWN


def spans_of(store: Store, flags: Flags, i: int) -> Spans:
    """The forget spans of document `i`, in code points of its text."""
    where = store.document(i)
    return to_spans(is_forget(np.asarray(flags[where])), np.asarray(store.starts[where]), np.asarray(store.ends[where]))


def label_corpus(
    store_path: Path,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function],
    text_of: TextOf | None,
    out: Path,
    info: dict[str, Any] | None = None,
    stats: Stats | None = None,
) -> Iterator[Event]:
    """The step: write `labels.npy`, aligned with the store's tokens, as an artifact of kind "labels"."""
    if not latents and not functions:
        raise ValueError("no latent is accepted and no labeling function is active; accept some latents first")
    store = Store.open(store_path)
    labels = yield from labelling(store, latents, config, functions, text_of, stats)
    info = {**(info or {}), **describe(store, labels)}
    info |= {
        "rule": rule_hash(latents, config, functions),
        "config": config.model_dump(mode="json"),
        "latents": len(latents),
        "functions": [f.model_dump(mode="json") for f in functions],
        "store": store.info,
    }
    with staged(out, "labels", info) as folder:
        np.save(folder / "labels.npy", labels.flags, allow_pickle=False)
    yield Artifact("labels", out, info)


def describe(store: Store, labels: Labels) -> dict[str, Any]:
    """Counts of each flag, and the share of forget tokens per family and split."""
    kept, grown, seeds, vetoed = np.bincount(labels.flags, minlength=4)[:4].tolist()
    before = np.concatenate(([0], np.cumsum(labels.forget, dtype=np.int64)))
    forget = before[store.doc_indptr[1:]] - before[store.doc_indptr[:-1]]  # (docs,)
    tokens = np.diff(store.doc_indptr)
    shares: dict[str, dict[str, Any]] = {}
    for family, split in sorted(set(zip(store.doc_family, store.doc_split, strict=True))):
        here = [f == family and s == split for f, s in zip(store.doc_family, store.doc_split, strict=True)]
        count = int(tokens[here].sum())
        shares.setdefault(family, {})[split] = {
            "documents": sum(here),
            "tokens": count,
            "share": float(forget[here].sum() / count) if count else 0.0,
        }
    return {
        "tokens": store.n_tokens,
        "share": (grown + seeds) / store.n_tokens if store.n_tokens else 0.0,
        "retain": kept,
        "grown": grown,
        "seeds": seeds,
        "vetoed": vetoed,
        "families": shares,
        "errors": labels.errors,
    }
