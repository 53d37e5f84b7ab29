"""What each labeling function contributes: coverage, overlap, conflict (as in Snorkel), precision, redundancy.

Computed from postings: the cost is that of the votes, not of tokens times functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labeling.functions import ABSTAIN, FORGET, RETAIN, Function, Latent
from labeling.rule import RuleConfig, TextOf, function_votes, latent_weights, moments
from labeling.store import Stats, Store
from labeling.tokens import Spans, overlapping

UNKNOWN = -1


@dataclass(frozen=True)
class Report:
    """One labeling function. Shares are of all tokens of the store."""

    name: str
    kind: str
    coverage: float  # it votes
    overlap: float  # it votes, and so does another
    conflict: float  # it votes, and another votes the other way
    judged: int  # of its votes, those on tokens with gold
    precision: float | None  # of those, the share that gold agrees with
    redundant_with: str | None  # the function whose votes are most alike
    redundancy: float  # Jaccard index of the two sets of tokens, same side


@dataclass(frozen=True)
class Votes:
    """One function's votes: the tokens it does not abstain on, ascending, and what it says there."""

    name: str
    kind: str
    tokens: NDArray[np.int64]
    votes: NDArray[np.int8]


def analyse(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    gold: NDArray[np.int8] | None = None,
    stats: Stats | None = None,
) -> list[Report]:
    """A report per latent and per other function, in the order given.

    `gold` holds 1 forget, 0 retain, -1 not annotated, per token (`gold_tokens` makes it).
    """
    return reports(collect(store, latents, config, functions, text_of, stats), store.n_tokens, gold)


def collect(
    store: Store,
    latents: Sequence[int],
    config: RuleConfig,
    functions: Sequence[Function] = (),
    text_of: TextOf | None = None,
    stats: Stats | None = None,
) -> list[Votes]:
    """Every function's votes, as the rule counts them."""
    mean, sd = moments(stats or store.stats)
    out = []
    for latent in latent_weights(store, latents, functions):
        tokens, values = store.latent(latent)
        tokens = tokens[values > mean[latent] + config.z * sd[latent]]
        out.append(Votes(f"latent {latent}", "latent", tokens, np.full(len(tokens), FORGET, dtype=np.int8)))

    others = [f for f in functions if not isinstance(f, Latent)]
    parts: list[tuple[list[NDArray[np.int64]], list[NDArray[np.int8]]]] = [([], []) for _ in others]
    for i, votes in enumerate(function_votes(store, others, text_of, {})):
        for (where, what), vote in zip(parts, votes, strict=True):
            hit = np.flatnonzero(vote != ABSTAIN)
            where.append(hit + store.document(i).start)
            what.append(vote[hit])
    for function, (where, what) in zip(others, parts, strict=True):
        tokens = np.concatenate(where) if where else np.zeros(0, dtype=np.int64)
        out.append(
            Votes(function.name, function.kind, tokens, np.concatenate(what) if what else np.zeros(0, dtype=np.int8))
        )
    return out


def reports(functions: Sequence[Votes], n_tokens: int, gold: NDArray[np.int8] | None = None) -> list[Report]:
    """Coverage, overlap, conflict, precision and redundancy of votes already collected."""
    forget, retain = np.zeros(n_tokens, dtype=np.uint16), np.zeros(n_tokens, dtype=np.uint16)
    for f in functions:
        forget[f.tokens[f.votes == FORGET]] += 1
        retain[f.tokens[f.votes == RETAIN]] += 1
    alike = redundancy(functions, n_tokens)
    out = []
    for number, f in enumerate(functions):
        against = np.where(f.votes == FORGET, retain[f.tokens], forget[f.tokens])
        truth = gold[f.tokens] if gold is not None else np.full(len(f.tokens), UNKNOWN, dtype=np.int8)
        known = truth != UNKNOWN
        right = (truth == (f.votes == FORGET)) & known
        nearest = int(np.argmax(alike[number])) if len(functions) > 1 else number
        likeness = float(alike[number, nearest])
        out.append(
            Report(
                name=f.name,
                kind=f.kind,
                coverage=len(f.tokens) / max(n_tokens, 1),
                overlap=float((forget[f.tokens] + retain[f.tokens] > 1).sum() / max(n_tokens, 1)),
                conflict=float((against > 0).sum() / max(n_tokens, 1)),
                judged=int(known.sum()),
                precision=float(right.sum() / known.sum()) if known.any() else None,
                redundant_with=functions[nearest].name if likeness > 0 else None,
                redundancy=likeness,
            )
        )
    return out


def redundancy(functions: Sequence[Votes], n_tokens: int) -> NDArray[np.float64]:
    """Jaccard index of each pair's votes for the same side, 0 on the diagonal. Shape (fn, fn)."""
    together = np.zeros((len(functions), len(functions)))
    for sign in (FORGET, RETAIN):
        hits = [f.tokens[f.votes == sign] for f in functions]
        indptr = np.cumsum([0] + [len(h) for h in hits])
        ones = np.ones(indptr[-1], dtype=np.int32)
        votes = csr_array((ones, np.concatenate([*hits, []]).astype(np.int64), indptr), (len(functions), n_tokens))
        together += (votes @ votes.T).toarray()
    np.fill_diagonal(together, 0)
    sizes = np.array([len(f.tokens) for f in functions], dtype=np.float64)
    either = sizes[:, None] + sizes[None, :] - together
    return np.divide(together, either, out=np.zeros_like(together), where=either > 0)


def gold_tokens(store: Store, gold: dict[str, tuple[Spans, Spans]]) -> NDArray[np.int8]:
    """Gold per token from {document key: (spans, ignored spans)}: 1 forget, 0 retain, -1 not annotated."""
    out = np.full(store.n_tokens, UNKNOWN, dtype=np.int8)
    for i, key in enumerate(store.keys):
        if key in gold:
            where = store.document(i)
            starts, ends = np.asarray(store.starts[where]), np.asarray(store.ends[where])
            spans, ignored = gold[key]
            out[where] = np.where(overlapping(starts, ends, ignored), UNKNOWN, overlapping(starts, ends, spans))
    return out
