"""The rule against a literal telling of METHOD step 1 on 1M tokens, and relabeling 8M tokens with 600 latents.

    python -m benchmarks.rule [--tokens 1000000] [--large 8000000]

The literal one visits every token, counts its latents above threshold, then grows one neighbour at
a time until nothing changes; it is given each token's firing latents ready to hand. Relabeling is
set against the same postings as a scipy matrix (compare all values, sum by token, grow by runs).
Labels are asserted equal; rounds alternate and medians are printed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csc_array

from labeling.rule import RuleConfig, grow, is_forget, label
from labeling.store import DocumentRow, Store, finish, write_shard, write_tables

SHARD, DOCUMENT = 1_000_000, 500


def planted(folder: Path, tokens: int, latents: int, density: float) -> Store:
    """A store on disk whose latents fire in stretches, as they do on a topic: runs of about eight tokens."""
    rng = np.random.default_rng(0)
    rows = [
        DocumentRow(f"d{i}", "0" * 64, "web", "train", DOCUMENT, i * DOCUMENT // SHARD)
        for i in range(tokens // DOCUMENT)
    ]
    for shard in range(-(-tokens // SHARD)):
        size = min(SHARD, tokens - shard * SHARD)
        where, which = [], []
        for latent in range(latents):
            begins = rng.integers(0, size - 16, int(size * density / 6))
            run = (begins[:, None] + np.arange(8)).ravel()
            run = np.unique(run[rng.random(len(run)) < 0.75])
            where.append(run)
            which.append(np.full(len(run), latent))
        token, latent_of = np.concatenate(where), np.concatenate(which)
        value = rng.gamma(2.0, 1.0, len(token))
        write_shard(folder / "shards" / f"{shard:05d}", latent_of, token, value, size, latents)
    write_tables(folder, rows, *(np.arange(tokens, dtype=np.int32) for _ in range(3)))
    finish(folder, rows, latents, {})
    return Store.open(folder)


def literal(store: Store, firing: list[list[tuple[int, float]]], config: RuleConfig) -> list[bool]:
    """METHOD step 1.3 and 1.4, as it is told."""
    mean, sd = store.stats.mean.tolist(), store.stats.sd.tolist()
    forget = [sum(v > mean[n] + config.z * sd[n] for n, v in fires) >= config.k for fires in firing]
    changed = True
    while changed:
        changed = False
        for i, fires in enumerate(firing):
            if not forget[i] and any(v > 0 for _, v in fires):
                before = i % DOCUMENT != 0 and forget[i - 1]
                after = (i + 1) % DOCUMENT != 0 and forget[i + 1]
                if before or after:
                    forget[i] = changed = True
    return forget


def by_matrix(store: Store, matrix: csc_array, config: RuleConfig) -> np.ndarray:
    """The same through scipy: a matrix of votes, summed by token."""
    threshold = store.stats.mean + config.z * store.stats.sd
    votes = csc_array(
        (matrix.data > np.repeat(threshold, np.diff(matrix.indptr)), matrix.indices, matrix.indptr), matrix.shape
    )
    score = votes.astype(np.int32).sum(axis=1)
    growable = np.asarray(matrix.astype(bool).sum(axis=1)) > 0
    return is_forget(
        grow(np.asarray(score) >= config.k, growable, np.zeros(store.n_tokens, bool), store.doc_indptr, config)
    )


def timed(work):
    begun = time.perf_counter()
    out = work()
    return time.perf_counter() - begun, out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=8_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, config = planted(Path(folder) / "small", a.tokens, 100, 0.006), RuleConfig(k=3, z=2)
        firing: list[list[tuple[int, float]]] = [[] for _ in range(a.tokens)]
        for latent in range(store.d_sae):
            for token, value in zip(*(x.tolist() for x in store.latent(latent)), strict=True):
                firing[token].append((latent, value))
        fast, slow = [], []
        for _ in range(a.rounds):
            seconds, labels = timed(lambda: label(store, range(store.d_sae), config))
            fast.append(seconds)
        for _ in range(1 if a.tokens > 200_000 else a.rounds):
            seconds, expected = timed(lambda: literal(store, firing, config))
            slow.append(seconds)
        assert labels.forget.tolist() == expected
        one, two = statistics.median(fast), statistics.median(slow)
        print(f"{a.tokens:,} tokens, {store.d_sae} latents, {np.mean(expected):.1%} forget: rule {one:.3f} s, literal {two:.1f} s, {two / one:.0f}×")  # fmt: skip
        del firing

        store = planted(Path(folder) / "large", a.large, 600, 0.006)
        postings = [store.latent(n) for n in range(store.d_sae)]
        indptr = np.cumsum([0] + [len(tokens) for tokens, _ in postings])
        matrix = csc_array(
            (np.concatenate([v for _, v in postings]), np.concatenate([t for t, _ in postings]), indptr),
            (store.n_tokens, store.d_sae),
        )
        del postings
        fast, slow = [], []
        for _ in range(a.rounds):
            seconds, labels = timed(lambda: label(store, range(store.d_sae), config))
            fast.append(seconds)
            seconds, other = timed(lambda: by_matrix(store, matrix, config))
            slow.append(seconds)
        assert (labels.forget == other).all()
        one, two = statistics.median(fast), statistics.median(slow)
        print(f"{a.large:,} tokens, {store.d_sae} latents, {indptr[-1]:,} postings: rule {one:.2f} s from disk, scipy {two:.2f} s from memory, {two / one:.1f}×")  # fmt: skip


if __name__ == "__main__":
    main()
