"""One pass over every posting of a store: what ranking needs that the stored sums do not hold.

Latents are taken in blocks of a bounded number of postings, so memory does not grow with the
corpus. What has to be grouped is packed into one unsigned integer per posting and sorted plainly:
numpy sorts those an order of magnitude faster than it finds unique values or sorts by several keys.
A float16 above 0 sorts as its bits do. Postings that do not count become the largest integer and
end up behind the rest, cheaper than picking out those that do.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from labeling.store import Shard, Store, half_below

POSTINGS = 1 << 21  # of a block; a single latent may have more
LATENTS = 1 << 16  # of a block: (latent, value, side) packs into 32 bits, (latent, token id, value) into 64
TOP = 8  # token ids kept per latent
RETAIN, FORGET, NEITHER = 0, 1, 2**32 - 1
# Every float16 as a multiple of the smallest: sums of these are exact, in any order.
UNITS = (np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64) * 2**24).astype(np.int64)


@dataclass(frozen=True)
class Tally:
    """Counts over train tokens for the latents [begin, end)."""

    begin: int
    end: int
    strong: NDArray[np.int64]  # (latent, family): tokens on which it fires above its threshold
    documents: NDArray[np.int64]  # (latent,): documents in which it fires at all
    wins: NDArray[np.float64]  # (latent,): (forget, retain) pairs of firings that forget wins, a tie counting half
    top: NDArray[np.int32]  # (latent, TOP): token ids by summed strong activation, -1 where there are fewer


@dataclass(frozen=True)
class Tokens:
    """What the pass asks of a token: its id and its document, and of that its family and side.

    All documents that are not in train are one, the last, of no family.
    """

    ids: NDArray[np.int32]  # (tok,)
    document: NDArray[np.int32]  # (tok,)
    family: NDArray[np.int64]  # (document + 1,)
    side: NDArray[np.uint32]  # (document + 1,)

    @classmethod
    def of(cls, store: Store, sides: NDArray[np.int8]) -> "Tokens":
        """`sides` is +1 forget, -1 retain, 0 neither, per family of the store."""
        train, n, families = store.doc_in_split("train"), len(store.keys), len(store.families)
        document = np.where(train, np.arange(n, dtype=np.int32), np.int32(n))
        family = np.append(np.where(train, store.doc_family_index, families), families).astype(np.int64)
        side = np.array([NEITHER, FORGET, RETAIN], np.uint32)[np.append(sides, np.int8(0))[family]]
        return cls(store.ids, np.repeat(document, np.diff(store.doc_indptr)), family, side)


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
    size = sum(int(shard.indptr[end] - shard.indptr[begin]) for shard in store.shards)
    fires, tops = np.empty(size, np.uint32), np.empty(size, np.uint64)
    cells, documents = np.zeros(n * (families + 1) * 2, np.int64), np.zeros(n, np.int64)
    strong, near_top, done = strong[begin:end], near_top[begin:end], 0
    for shard in store.shards:
        at = shard.indptr[begin : end + 1]
        if at[0] == at[-1]:
            continue
        mine = slice(done, done := done + int(at[-1] - at[0]))
        where, bits = shard.tokens[at[0] : at[-1]].astype(np.int64), shard.values[at[0] : at[-1]].view(np.uint16)
        latent = np.repeat(np.arange(n), np.diff(at))
        document = tokens.document[shard.first :].take(where)
        family = tokens.family.take(document)

        first = np.empty(len(where), bool)
        np.not_equal(document[1:], document[:-1], out=first[1:])
        first[at[:-1][at[:-1] < at[1:]] - at[0]] = True
        first &= family < families
        documents += np.diff(np.searchsorted(np.flatnonzero(first), at - at[0]))

        np.left_shift(latent, 16, out=fires[mine], casting="unsafe")
        fires[mine] |= bits.astype(np.uint32) << 1
        fires[mine] |= tokens.side.take(document)

        cells += np.bincount((latent * (families + 1) + family) * 2 + (bits > strong.take(latent)), minlength=len(cells))

        key = latent.view(np.uint64) << 32
        key |= tokens.ids[shard.first :].take(where).view(np.uint32)
        key <<= 16
        key |= bits
        key[(bits <= near_top.take(latent)) | (family == families)] = 2**64 - 1
        tops[mine] = key
    hits = cells.reshape(n, families + 1, 2)[:, :families, 1]
    return Tally(begin, end, hits, documents, _wins(fires, n), _top(tops, n))


def _wins(fires: NDArray[np.uint32], n: int) -> NDArray[np.float64]:
    """Wins of forget over retain among the firings, from (latent, value, side) packed into 32 bits.

    Sorted, a forget firing stands behind every retain firing of its latent that it beats or ties with.
    """
    fires.sort()
    fires = fires[: np.searchsorted(fires, np.uint32(NEITHER))]
    forget = np.flatnonzero(fires & 1)
    before = np.zeros(len(forget) + 1, np.int64)  # retain firings before each of them, summed
    np.cumsum(forget - np.arange(len(forget)), out=before[1:])
    start = np.searchsorted(fires, np.arange(n + 1, dtype=np.uint64) << 16)
    own = np.searchsorted(forget, start)
    retain_start = (start - own)[:-1]
    wins = np.diff(before[own]) - np.diff(own) * retain_start
    # Runs of one latent, value and side; where a forget run follows a retain run of the same value all pairs tie.
    edge = np.flatnonzero(np.diff(fires, prepend=np.uint32(NEITHER), append=np.uint32(NEITHER)))
    run, length = fires[edge[:-1]], np.diff(edge)
    tie = np.flatnonzero((run[1:] ^ run[:-1]) == 1)
    return wins - np.bincount(run[tie] >> 16, length[tie] * length[tie + 1] / 2, n)


def _top(keys: NDArray[np.uint64], n: int) -> NDArray[np.int32]:
    """Per latent the token ids with the largest sums, from (latent, token id, value) packed into 64 bits.

    Of TOP equal parts of a latent's ids each has a largest sum, so the smallest of these is a bound that
    TOP ids reach; only the few at or above it are sorted.
    """
    keys.sort()
    keys = keys[: np.searchsorted(keys, np.uint64(2**64 - 1))]
    cell = keys >> 16
    edge = np.append(np.flatnonzero(np.diff(cell, prepend=np.uint64(2**64 - 1))), len(cell))
    summed = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(UNITS[keys.astype(np.uint16)], out=summed[1:])
    total, cell = np.diff(summed[edge]), cell[edge[:-1]]
    start = np.searchsorted(cell, np.arange(n + 1, dtype=np.uint64) << 32)
    count = np.diff(start)
    parts = start[:-1, None] + count[:, None] * np.arange(TOP) // TOP
    bound = np.maximum.reduceat(np.append(total, 0), parts.ravel()).reshape(n, TOP).min(1)
    bound[count <= TOP] = 0
    high = np.flatnonzero(total >= np.repeat(bound, count))
    high = high[np.lexsort((-total[high], cell[high] >> 32))]
    latent, ids = cell[high] >> 32, cell[high] & (2**32 - 1)
    rank = np.arange(len(latent)) - np.searchsorted(latent, latent)
    kept = rank < TOP
    top = np.full((n, TOP), -1, np.int32)
    top[latent[kept], rank[kept]] = ids[kept]
    return top
