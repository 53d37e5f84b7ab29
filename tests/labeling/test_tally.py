"""The pass over all postings against a literal telling of what it counts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from labeling import tally
from labeling.store import Store
from labeling.tally import TOP, tallies
from tests.fakes import planted_store

FAMILIES = {"clinic": 1, "sport": -1, "biology": -1, "web": 0}


def store_of(folder: Path, seed: int) -> Store:
    """Few different values, so that many tie; a latent that never fires, one that always does, tails outside train."""
    rng = np.random.default_rng(seed)
    documents, dense = [], []
    for i in range(24):
        words = [f"w{int(n)}" for n in rng.zipf(1.4, int(rng.integers(1, 40))) % 90]
        documents.append(
            (f"d{i}", " ".join(words), str(rng.choice(list(FAMILIES))), str(rng.choice(["train", "train", "test"])))
        )
        fires = rng.random((len(words), 9)) < [0, 1, 0.5, 0.5, 0.2, 0.2, 0.05, 0.05, 0.01]
        dense.append(fires * rng.choice([6e-8, 0.5, 1, 1.5, 7, 65504], (len(words), 9)))
    documents[0] = ("d0", documents[0][1], "clinic", "train")
    documents[1] = ("d1", documents[1][1], "sport", "train")
    return Store.open(planted_store(folder / f"store-{seed}", np.concatenate(dense), documents, shard_documents=5))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("postings", [1, 60, 1 << 20])
def test_every_count_is_the_literal_one(
    seed: int, postings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "POSTINGS", postings)
    store, z = store_of(tmp_path, seed), 0.5
    sides = np.array([FAMILIES[family] for family in store.families], np.int8)
    train, doc = store.token_split_mask("train"), store.doc_of_tokens(np.arange(store.n_tokens))
    limit = store.stats.mean + z * store.stats.sd
    found = list(tallies(store, sides, z))
    assert [(t.begin, t.end) for t in found] == tally.blocks(store)
    for block in found:
        for latent in range(block.begin, block.end):
            where, values = store.latent(latent)
            firings = [(int(t), float(v)) for t, v in zip(where, values, strict=True) if train[t]]
            strong, wins, sums = [0] * len(store.families), 0.0, Counter[int]()
            for token, value in firings:
                strong[store.token_family[token]] += value > limit[latent]
                if value > min(limit[latent], 0.75 * store.stats.max[latent]):
                    sums[int(store.ids[token])] += value
            for token, value in firings:
                for other, its in firings:
                    if sides[store.token_family[token]] > 0 > sides[store.token_family[other]]:
                        wins += (value > its) + (value == its) / 2
            top = sorted(sums, key=lambda word: (-sums[word], word))[:TOP]
            i = latent - block.begin
            assert block.strong[i].tolist() == strong
            assert block.documents[i] == len({int(doc[token]) for token, _ in firings})
            assert block.wins[i] == wins
            assert block.top[i].tolist() == top + [-1] * (TOP - len(top))
