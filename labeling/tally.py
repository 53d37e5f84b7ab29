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

from labeling.leading import leading
from labeling.store import Store, half_below

POSTINGS = 1 << 20  # of a block; a single latent may have more
LATENTS = 1 << 16  # of a block: (latent, value, side) packs into 32 bits, (latent, token id, value) into 64
TOP = 8  # token ids kept per latent
RETAIN, FORGET, NEITHER = np.uint32(0), np.uint32(1), np.uint32(2**32 - 1)
LAST = np.uint64(2**64 - 1)
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

    All documents that are not in train are one, the last, of no family. Reading a token is the slowest
    step there is, so it is one read.
    """

    packed: NDArray[np.uint64]  # (tok,): id << 32 | document
    family: NDArray[np.int64]  # (document + 1,)
    side: NDArray[np.uint32]  # (document + 1,)

    @classmethod
    def of(cls, store: Store, sides: NDArray[np.int8]) -> "Tokens":
        """`sides` is +1 forget, -1 retain, 0 neither, per family of the store."""
        train, n, families = store.doc_in_split("train"), len(store.keys), len(store.families)
        document = np.where(train, np.arange(n), n)
        family = np.append(np.where(train, store.doc_family_index, families), families).astype(np.int64)
        side = np.array([NEITHER, FORGET, RETAIN])[np.append(sides, np.int8(0))[family]]
        packed = store.ids.astype(np.uint64)
        packed <<= 32
        packed |= np.repeat(document.astype(np.uint32), np.diff(store.doc_indptr))
        return cls(packed, family, side)


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
    n, families = end - begin, len(store.families) + 1
    size = sum(int(shard.indptr[end] - shard.indptr[begin]) for shard in store.shards)
    by_value, by_id, done = np.empty(size, np.uint32), np.empty(size, np.uint64), 0
    seen = np.zeros(n * families * 4, np.int64)  # (latent, family, strong, first of its document)
    for shard in store.shards:
        at = shard.indptr[begin : end + 1]
        if at[0] == at[-1]:
            continue
        counts, span = np.diff(at), slice(at[0], at[-1])
        mine = slice(done, done := done + int(at[-1] - at[0]))
        where, bits = shard.tokens[span].astype(np.int64), shard.values[span].view(np.uint16)
        token = tokens.packed[shard.first :].take(where)
        document = (token & 0xFFFFFFFF).view(np.int64)
        family = tokens.family.take(document)

        by_value[mine] = np.repeat(np.arange(n, dtype=np.uint32) << 16, counts)
        by_value[mine] |= bits.astype(np.uint32) << 1
        by_value[mine] |= tokens.side.take(document)

        first = np.empty(len(where), bool)
        np.not_equal(document[1:], document[:-1], out=first[1:])
        first[(at[:-1] - at[0])[counts > 0]] = True
        flags = (bits > np.repeat(strong[begin:end], counts)).view(np.uint8) << 1 | first.view(np.uint8)
        cell = np.repeat(np.arange(n) * families, counts)
        cell += family
        cell <<= 2
        cell += flags
        seen += np.bincount(cell, minlength=len(seen))

        key = np.repeat(np.arange(n, dtype=np.uint64) << 48, counts)
        token >>= 32
        token <<= 16
        key |= token
        key |= bits
        low = (bits <= np.repeat(near_top[begin:end], counts)) | (family == families - 1)
        np.bitwise_or(key.view(np.int64), -low.view(np.int8), out=by_id[mine].view(np.int64))  # LAST where low
    counted = seen.reshape(n, families, 2, 2)[:, :-1]
    hits, documents = counted[:, :, 1].sum(2), counted[..., 1].sum((1, 2))
    return Tally(begin, end, hits, documents, _wins(by_value, n), _top(by_id, n))


def _wins(keys: NDArray[np.uint32], n: int) -> NDArray[np.float64]:
    """Wins of forget over retain among the firings, from (latent, value, side) packed into 32 bits.

    Sorted, a forget firing stands behind every retain firing of its latent that it beats or ties with.
    """
    keys.sort()
    keys = keys[: np.searchsorted(keys, NEITHER)]
    start = np.append(np.searchsorted(keys, np.arange(n, dtype=np.uint32) << 16), len(keys))
    forget = np.flatnonzero((keys & 1).astype(bool))
    own = np.searchsorted(forget, start)
    before = np.append(0, np.cumsum(forget - np.arange(len(forget))))  # retain firings before each, summed
    wins = (np.diff(before[own]) - np.diff(own) * (start - own)[:-1]).astype(np.float64)
    # A run of forget firings behind a run of retain firings of the same value: all pairs tie.
    edge = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
    run, length = keys.take(edge[: len(keys)]), np.diff(edge, append=len(keys))
    tie = np.flatnonzero((run[1:] ^ run[:-1]) == 1)
    wins -= np.bincount(run[tie] >> 16, length[tie] * length[tie + 1] / 2, n)
    return wins


def _top(keys: NDArray[np.uint64], n: int) -> NDArray[np.int32]:
    """Per latent the token ids with the largest sums, from (latent, token id, value) packed into 64 bits."""
    keys.sort()
    keys = keys[: np.searchsorted(keys, LAST)]
    cell = keys >> 16
    edge = np.append(0, np.flatnonzero(cell[1:] != cell[:-1]) + 1)[: len(cell)]
    keys &= 0xFFFF
    summed = np.append(0, np.cumsum(UNITS.take(keys.view(np.int64))))
    total, cell = np.diff(summed.take(edge), append=summed[-1]), cell.take(edge)
    start = np.append(np.searchsorted(cell, np.arange(n, dtype=np.uint64) << 32), len(cell))
    top = np.full((n, TOP), -1, np.int32)
    latent, rank, index = leading(total, start, TOP)
    top[latent, rank] = cell[index] & 0xFFFFFFFF
    return top
