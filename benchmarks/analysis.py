"""LF analysis of 300 latents on 2M tokens from sparse votes, against the dense matrix that Snorkel's figures need.

    python -m benchmarks.analysis [--tokens 2000000] [--latents 300]

The dense side computes coverage, overlap and conflict alone, from one int8 matrix, a tenth of the
tokens at a time. The sparse side does that, and pairs, families and leaving each function out.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rule import planted
from labeling.analysis import analyse, counts, figures, redundancy
from labeling.ballots import collect
from labeling.rule import RuleConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=300)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = planted(Path(folder) / "store", a.tokens, a.latents, 0.006)
        begun = time.perf_counter()
        ballots = collect(store, range(a.latents), RuleConfig(k=3, z=2))
        collected = time.perf_counter() - begun
        begun = time.perf_counter()
        reports = figures(ballots, counts(ballots), redundancy(ballots))
        shares = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in analyse(ballots):
            pass
        whole = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        begun = time.perf_counter()
        sums = np.zeros((3, a.latents))
        for first in range(0, a.tokens, a.tokens // 10):
            last = min(first + a.tokens // 10, a.tokens)
            matrix = np.zeros((last - first, a.latents), np.int8)
            for n, f in enumerate(ballots.functions):
                low, high = np.searchsorted(f.tokens, (first, last))
                matrix[f.tokens[low:high] - first, n] = f.votes[low:high]
            votes = matrix != 0
            crowded = votes.sum(1, keepdims=True) > 1
            both = (matrix > 0).any(1, keepdims=True) & (matrix < 0).any(1, keepdims=True)
            sums += [votes.sum(0), (votes & crowded).sum(0), (votes & both).sum(0)]
        dense = time.perf_counter() - begun
        for report, row in zip(reports, (sums / a.tokens).T, strict=True):
            assert np.allclose((report.coverage, report.overlap, report.conflict), row)
        print(
            f"{a.tokens:,} tokens, {a.latents} latents: votes collected in {collected:.1f} s, figures and pairs in"
            f" {shares:.2f} s (dense: {dense:.1f} s, {dense / shares:.0f}×), with leaving each out {whole:.1f} s; peak"
            f" {peak:.0f} MB, the dense matrix alone {a.tokens * a.latents / 2**20:.0f} MB"
        )


if __name__ == "__main__":
    main()
