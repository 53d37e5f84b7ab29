"""Neighbours, where the sample holds every firing, are those of the dense matrix."""

from pathlib import Path

import numpy as np
import pytest

from labeling import cofiring as module
from labeling.cofiring import NEAREST, SAMPLE, cofiring
from labeling.store import Store
from tests.fakes import planted_store


@pytest.mark.parametrize("pairs", [1, 1 << 10, 1 << 23])
def test_latents_sampled_whole_have_the_neighbours_of_the_dense_matrix(
    pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAIRS", pairs)
    rng = np.random.default_rng(0)
    dense = rng.random((600, 30)) < 0.05
    dense[:, 3] = False
    dense[:, 20] = dense[:, 11]
    assert dense.sum(0).max() <= SAMPLE
    documents = [(f"d{i}", "w " * 50, "web", "test" if i % 4 == 3 else "train") for i in range(12)]
    store = Store.open(planted_store(tmp_path / "store", dense, documents, shard_documents=5))
    *_, (_, near) = cofiring(store)
    kept = dense[store.token_split_mask("train")].astype(int)
    both = kept.T @ kept
    jaccard = both / np.maximum(kept.sum(0)[:, None] + kept.sum(0) - both, 1)
    np.fill_diagonal(jaccard, 0)
    order = np.argsort(-jaccard, axis=1, kind="stable")[:, :NEAREST]
    best = np.take_along_axis(jaccard, order, 1)
    np.testing.assert_array_equal(near["near_fired"], np.where(best > 0, order, -1))
    np.testing.assert_allclose(near["near_fired_share"], best, rtol=1e-6)
