"""Which latents fire on the same tokens: near-duplicates, split features, a concept's other half.

All pairs over all tokens would be L0² per token. A latent's neighbours show in a sample of its
own firings: 64 of them, spread evenly over the train corpus, asked which other latents fire there.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from labeling.store import Shard, Store

NEAREST = 8
SAMPLE = 64  # firings asked per latent; counts must fit int8
ROWS = 4096  # latents asked in one pass over the store


def cofiring(store: Store) -> Iterator[tuple[int, dict[str, NDArray[np.generic]]]]:
    """Yields (latents done, columns so far): `near_fired` (d_sae, NEAREST) latents, -1 where there are
    fewer, and `near_fired_share` their Jaccard index with the latent, largest first.
    """
    near, share = np.full((store.d_sae, NEAREST), -1, np.int32), np.zeros((store.d_sae, NEAREST), np.float32)
    columns: dict[str, NDArray[np.generic]] = {"near_fired": near, "near_fired_share": share}
    train = store.token_split_mask("train")
    fired = store.stats.active.sum(1)
    alive = np.flatnonzero(fired)
    yield 0, columns
    for begin in range(0, len(alive), ROWS):
        rows = alive[begin : begin + ROWS]
        together, asked = np.zeros((len(rows), store.d_sae), np.int8), np.zeros(len(rows), np.int64)
        for shard, row, token in _sample(store, rows, train):
            asked += np.bincount(row, minlength=len(rows))
            together += _count(shard, row, token, len(rows), store.d_sae)
            yield int(begin), columns
        for i, latent in enumerate(rows):
            found = np.flatnonzero(together[i])
            found = found[found != latent]
            both = together[i, found] / asked[i] * fired[latent]  # expected over all train tokens
            # A sample may say more than there can be: the rarer of the two fires only so often.
            both = np.minimum(both, np.minimum(fired[found], fired[latent]))
            jaccard = both / np.maximum(fired[found] + fired[latent] - both, 1)
            best = np.argsort(-jaccard, kind="stable")[:NEAREST]
            near[latent, : len(best)], share[latent, : len(best)] = found[best], jaccard[best]
        yield int(begin + len(rows)), columns


def _sample(
    store: Store, rows: NDArray[np.int64], train: NDArray[np.bool_]
) -> Iterator[tuple[Shard, NDArray[np.int64], NDArray[np.int32]]]:
    """(shard, row, token of the shard) of up to SAMPLE train firings per latent, evenly spread."""
    counts = np.array([shard.indptr[rows + 1] - shard.indptr[rows] for shard in store.shards])  # (shard, row)
    before = np.cumsum(counts, 0) - counts
    total = counts.sum(0)
    n = np.minimum(total, SAMPLE)[:, None]
    step = np.arange(SAMPLE)
    wanted = ((step + 0.5) / np.maximum(n, 1) * total[:, None]).astype(np.int64)
    wanted[step >= n] = -1
    for shard, first, count in zip(store.shards, before, counts, strict=True):
        row, at = np.nonzero((wanted >= first[:, None]) & (wanted < (first + count)[:, None]))
        token = shard.tokens[shard.indptr[rows[row]] + wanted[row, at] - first[row]]
        kept = train[token + shard.first]
        yield shard, row[kept], token[kept]


def _count(shard: Shard, row: NDArray[np.int64], token: NDArray[np.int32], rows: int, d_sae: int) -> NDArray[np.int8]:
    """On how many of each row's tokens each latent fires. (row, d_sae)"""
    size = int(max(shard.tokens.max(initial=0), token.max(initial=0))) + 1
    asked = csc_matrix((np.ones(len(row), np.int8), (row, token)), shape=(rows, size))
    ones = np.ones(len(shard.tokens), np.int8)
    fires = csc_matrix((ones, shard.tokens, shard.indptr), shape=(size, d_sae))
    counted: NDArray[np.int8] = (asked @ fires).toarray()
    return counted
