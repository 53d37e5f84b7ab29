"""Which latents fire on the same tokens: near-duplicates, split features, a concept's other half.

All pairs over all tokens would be L0² per token. A latent's neighbours show in a sample of its
own firings: 64 of them, spread evenly over the train corpus, asked which other latents fire there.
What is found is sorted, as in `tally`, so memory follows the sample and not the square of the latents.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from labeling.leading import leading
from labeling.store import Shard, Store

NEAREST = 8
SAMPLE = 64  # firings asked per latent
PAIRS = 1 << 23  # (latent asked, latent found) in one pass over the store, about


def cofiring(store: Store) -> Iterator[tuple[int, dict[str, NDArray[np.generic]]]]:
    """Yields (latents done, columns so far): `near_fired` (d_sae, NEAREST) latents, -1 where there are
    fewer, and `near_fired_share` their Jaccard index with the latent, largest first.
    """
    near, share = np.full((store.d_sae, NEAREST), -1, np.int32), np.zeros((store.d_sae, NEAREST), np.float32)
    columns: dict[str, NDArray[np.generic]] = {"near_fired": near, "near_fired_share": share}
    train = store.token_split_mask("train")
    fired = store.stats.active.sum(1)
    alive = np.flatnonzero(fired)
    l0 = fired.sum() / max(store.stats.tokens, 1)
    step = max(1, int(PAIRS / max(SAMPLE * l0, 1)))
    yield 0, columns
    for begin in range(0, len(alive), step):
        rows = alive[begin : begin + step]
        pairs, asked = [np.zeros(0, np.int64)], np.zeros(len(rows), np.int64)
        for shard, row, token in _sample(store, rows, train):
            asked += np.bincount(row, minlength=len(rows))
            pairs.append(_pairs(shard, row, token, store.d_sae))
            yield int(begin), columns
        row, found, together = _counted(pairs)
        other = found != rows[row]
        row, found, together = row[other], found[other], together[other]
        own, its = fired[rows[row]], fired[found]
        # Expected over all train tokens. A sample may say more than there can be: the rarer fires only so often.
        both = np.minimum(together / asked[row] * own, np.minimum(own, its))
        jaccard = both / np.maximum(own + its - both, 1)
        of, rank, index = leading(jaccard, np.searchsorted(row, np.arange(len(rows) + 1)), NEAREST)
        near[rows[of], rank], share[rows[of], rank] = found[index], jaccard[index]
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


def _pairs(shard: Shard, row: NDArray[np.int64], token: NDArray[np.int32], d_sae: int) -> NDArray[np.int64]:
    """row << 32 | latent, for every latent that fires on a row's token."""
    asked = np.zeros(max(shard.tokens.max(initial=0), token.max(initial=0)) + 1, np.bool_)
    asked[token] = True
    there = np.flatnonzero(asked[shard.tokens])  # few; turning all postings around would take longest of all
    latent = np.repeat(np.arange(d_sae, dtype=np.int32), np.diff(shard.indptr))[there]
    ones = np.ones(len(there), np.int8)
    by_token = coo_matrix((ones, (shard.tokens[there], latent)), shape=(len(asked), d_sae)).tocsr()
    found = by_token[token]
    return np.repeat(row << 32, np.diff(found.indptr)) | found.indices


def _counted(pairs: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(row, latent, how often) of every different pair, in order."""
    pair = np.concatenate(pairs)
    pair.sort()
    edge = np.append(0, np.flatnonzero(pair[1:] != pair[:-1]) + 1)[: len(pair)]
    together = np.diff(edge, append=len(pair))
    pair = pair[edge]
    return pair >> 32, pair & 0xFFFFFFFF, together
