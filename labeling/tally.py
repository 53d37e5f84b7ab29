"""One pass over every posting of a store: what ranking needs that the stored sums do not hold.

Latents are taken in blocks of a bounded number of postings, so memory does not grow with the
corpus. A float16 above 0 sorts as its bits do, so everything here compares and sorts 16-bit
integers, several times as fast as floats.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from labeling.store import Store, half_below

POSTINGS = 1 << 21  # of a block; a single latent may have more
LATENTS = 1 << 16  # of a block: (latent, value, side) packs into 32 bits
TOP = 8  # token ids kept per latent
NEITHER, RETAIN, FORGET = 0, 1, 2


@dataclass(frozen=True)
class Tally:
    """Counts over train tokens for the latents [begin, end)."""

    begin: int
    end: int
    strong: NDArray[np.int64]  # (latent, family): tokens on which it fires above its threshold
    documents: NDArray[np.int64]  # (latent,): documents in which it fires at all
    wins: NDArray[np.float64]  # (latent,): (forget, retain) pairs of firings that forget wins, a tie counting half
    fired: NDArray[np.int64]  # (latent, 2): its firings on retain and on forget tokens
    top: NDArray[np.int32]  # (latent, TOP): token ids by summed strong activation, -1 where there are fewer


@dataclass(frozen=True)
class Tokens:
    """What the pass asks of a token, as small as it can be kept. Train tokens only; -1 or NEITHER elsewhere."""

    family: NDArray[np.int16]
    document: NDArray[np.int32]
    side: NDArray[np.uint8]

    @classmethod
    def of(cls, store: Store, sides: NDArray[np.int8]) -> "Tokens":
        """`sides` is +1 forget, -1 retain, 0 neither, per family of the store."""
        family = np.where(store.doc_in_split("train"), store.doc_family_index, np.int16(-1))
        code = np.array([NEITHER, FORGET, RETAIN], np.uint8)[np.append(sides, np.int8(0))[family]]
        lengths = np.diff(store.doc_indptr)
        document = np.arange(len(lengths), dtype=np.int32)
        return cls(*(np.repeat(column, lengths) for column in (family, document, code)))  # type: ignore[arg-type]


def tallies(store: Store, sides: NDArray[np.int8], z: float, threads: int = 2) -> Iterator[Tally]:
    """The whole dictionary in order, block by block; numpy leaves other threads running meanwhile."""
    tokens = Tokens.of(store, sides)
    limit = store.stats.mean + z * store.stats.sd
    strong, near_top = half_below(limit), half_below(np.minimum(limit, 0.75 * store.stats.max))
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(lambda span: _tally(store, tokens, strong, near_top, *span), blocks(store))
    finally:
        pool.shutdown(cancel_futures=True)


def blocks(store: Store) -> list[tuple[int, int]]:
    """Ranges of latents, each of about POSTINGS postings."""
    ends: NDArray[np.int64] = np.sum(np.stack([shard.indptr[1:] for shard in store.shards]), axis=0)
    edges = [0]
    while edges[-1] < store.d_sae:
        before = int(ends[edges[-1] - 1]) if edges[-1] else 0
        end = int(np.searchsorted(ends, before + POSTINGS, "right"))
        edges.append(min(max(end, edges[-1] + 1), edges[-1] + LATENTS, store.d_sae))
    return list(pairwise(edges))


def _tally(
    store: Store, tokens: Tokens, strong: NDArray[np.uint16], near_top: NDArray[np.uint16], begin: int, end: int
) -> Tally:
    n, families = end - begin, len(store.families)
    hits, documents = np.zeros(n * families, np.int64), np.zeros(n, np.int64)
    keys: list[NDArray[np.uint32]] = []
    tops: list[tuple[NDArray[np.int64], NDArray[np.uint16]]] = []
    for shard in store.shards:
        at = shard.indptr[begin : end + 1]
        span, counts = slice(at[0], at[-1]), np.diff(at)
        if at[0] == at[-1]:
            continue
        where, bits = shard.tokens[span], shard.values[span].view(np.uint16)
        latent = np.repeat(np.arange(n, dtype=np.uint32), counts)
        family = tokens.family[shard.first :][where]

        document = tokens.document[shard.first :][where]
        first = np.empty(len(where), bool)
        np.not_equal(document[1:], document[:-1], out=first[1:])
        first[(at[:-1] - at[0])[counts > 0]] = True
        documents += np.bincount(latent[first & (family >= 0)], minlength=n)

        side = tokens.side[shard.first :][where]
        packed = (latent << 16) | (bits.astype(np.uint32) << 1) | (side >> 1)
        keys.append(packed[side > 0].astype(np.uint32, copy=False))

        high = np.flatnonzero((bits > np.repeat(near_top[begin:end], counts)) & (family >= 0))
        of, value = latent[high].astype(np.int64), bits[high]
        tops.append((of << 32 | store.ids[where[high] + shard.first], value))
        above = value > strong[begin:end][of]
        hits += np.bincount((of * families + family[high])[above], minlength=n * families)
    wins, fired = _wins(np.concatenate([*keys, np.zeros(0, np.uint32)]), n)
    return Tally(begin, end, hits.reshape(n, families), documents, wins, fired, _top(tops, n))


def _wins(keys: NDArray[np.uint32], n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Wins of forget over retain among the firings, from (latent, value, is forget) packed into 32 bits."""
    if not len(keys):
        return np.zeros(n), np.zeros((n, 2), np.int64)
    keys = np.sort(keys)
    value = keys >> 1
    edge = np.flatnonzero(value[1:] != value[:-1]) + 1  # runs of one latent and one value
    edge = np.concatenate(([0], edge, [len(keys)]))
    forget_before = np.concatenate(([0], np.cumsum(keys & 1, dtype=np.int64)))[edge]
    forget, before = np.diff(forget_before), edge - forget_before  # retain firings before each run
    latent = (keys[edge[:-1]] >> 16).astype(np.int64)
    first = np.searchsorted(latent, np.arange(n + 1))
    retain_first = before[first]  # of each latent, and of what follows the last
    below = (before[:-1] + before[1:]) / 2 - retain_first[latent]
    wins = np.bincount(latent, forget * below, n).astype(np.float64)
    return wins, np.stack([np.diff(retain_first), np.diff(forget_before[first])], 1)


def _top(found: list[tuple[NDArray[np.int64], NDArray[np.uint16]]], n: int) -> NDArray[np.int32]:
    """Per latent the token ids with the largest sums, from (latent << 32 | id, value) pairs."""
    top = np.full((n, TOP), -1, np.int32)
    if not found:
        return top
    cell = np.concatenate([cell for cell, _ in found])
    value = np.concatenate([value for _, value in found]).view(np.float16).astype(np.float64)
    cells, inverse = np.unique(cell, return_inverse=True)
    order = np.lexsort((-np.bincount(inverse, value, len(cells)), cells >> 32))
    latent, ids = cells[order] >> 32, cells[order] & 0xFFFFFFFF
    rank = np.arange(len(latent)) - np.searchsorted(latent, latent)
    kept = rank < TOP
    top[latent[kept], rank[kept]] = ids[kept]
    return top
