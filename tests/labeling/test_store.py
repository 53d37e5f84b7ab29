"""The store answers from disk what the dense matrix it was made of would answer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labeling.artifacts import MANIFEST, ArtifactError
from labeling.store import Store
from tests.fakes import planted_store

DOCUMENTS = [
    ("a", "one two three", "clinic", "train"),
    ("b", "four five", "sport", "test"),
    ("empty", "…", "sport", "train"),
    ("c", "six", "sport", "train"),
]
DENSE = np.array(
    [
        [0.0, 2.0, 0.0, 0.5],
        [0.0, 0.0, 0.0, 0.5],
        [0.0, 4.0, 0.0, 0.5],
        [0.0, 100.0, 0.0, 0.0],
        [0.0, 0.0, 7.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
    ]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(planted_store(tmp_path / "store", DENSE, DOCUMENTS))


def test_a_latent_comes_back_over_all_shards_with_its_values(store: Store) -> None:
    assert len(store.shards) == 2
    for latent in range(4):
        where, values = store.latent(latent)
        assert where.dtype == np.int64
        assert values.dtype == np.float32
        np.testing.assert_array_equal(where, np.flatnonzero(DENSE[:, latent]))
        np.testing.assert_array_equal(values, DENSE[where, latent])


def test_documents_and_tokens_find_each_other(store: Store) -> None:
    assert store.n_tokens == 6
    assert store.doc_indptr.tolist() == [0, 3, 5, 5, 6]
    assert store.document(store.index_of("b")) == slice(3, 5)
    assert store.document(store.index_of("empty")) == slice(5, 5)
    assert store.doc_of_tokens(np.arange(6)).tolist() == [0, 0, 0, 1, 1, 3]
    assert store.families == ["clinic", "sport"]
    assert store.token_family.tolist() == [0, 0, 0, 1, 1, 1]
    assert store.token_split_mask("train").tolist() == [True, True, True, False, False, True]
    assert DOCUMENTS[0][1][store.starts[1] : store.ends[1]] == "two"
    with pytest.raises(KeyError):
        store.index_of("nowhere")


def test_statistics_come_from_train_tokens_only_zeros_included(store: Store) -> None:
    """By hand: train tokens are 0, 1, 2 and 5; latent 1 is 2, 0, 4, 0 there and 100 in the test split."""
    assert store.stats.tokens == 4
    assert store.stats.family_tokens.tolist() == [3, 1]
    assert store.stats.sum.tolist() == [0, 6, 1, 1.5]
    assert store.stats.max.tolist() == [0, 4, 1, 0.5]
    assert store.stats.mean.tolist() == [0, 1.5, 0.25, 0.375]
    np.testing.assert_allclose(store.stats.sd, [0, np.std([2, 0, 4, 0]), np.std([0, 0, 0, 1]), np.std([0.5] * 3 + [0])])
    assert store.stats.active.tolist() == [[0, 0], [2, 0], [0, 1], [3, 0]]
    assert store.info["l0"] == 6 / 4


def test_changing_only_other_splits_leaves_the_statistics_as_they_were(tmp_path: Path, store: Store) -> None:
    loud = DENSE.copy()
    loud[3:5] = 999
    other = Store.open(planted_store(tmp_path / "other", loud, DOCUMENTS))
    for name in ("sum", "sumsq", "max", "active", "family_tokens"):
        np.testing.assert_array_equal(getattr(other.stats, name), getattr(store.stats, name))


def test_random_postings_agree_with_dense_sums(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(["w"] * rng.integers(1, 30)) for _ in range(25)]
    split = rng.choice(["train", "validation"], 25)
    documents = [(f"d{i}", t, rng.choice(["f", "r"]), split[i]) for i, t in enumerate(texts)]
    tokens = sum(len(t.split()) for t in texts)
    dense = rng.exponential(size=(tokens, 40)) * (rng.random((tokens, 40)) < 0.2)
    dense = dense.astype(np.float16).astype(float)
    store = Store.open(planted_store(tmp_path / "store", dense, documents, shard_documents=3))
    train = dense[store.token_split_mask("train")]
    np.testing.assert_allclose(store.stats.mean, train.mean(0))
    np.testing.assert_allclose(store.stats.sd, train.std(0))
    np.testing.assert_array_equal(store.stats.active.sum(1), (train > 0).sum(0))


def test_half_precision_neither_overflows_nor_loses_a_firing(tmp_path: Path) -> None:
    store = Store.open(planted_store(tmp_path / "store", [[1e9], [1e-12]], [("a", "big small", "f", "train")]))
    _, values = store.latent(0)
    assert values[0] == 65504
    assert 0 < values[1] < 1e-6


def test_a_store_in_which_nothing_fires_still_opens(tmp_path: Path) -> None:
    documents = [("a", "…", "web", "train"), ("b", "one", "web", "test")]
    store = Store.open(planted_store(tmp_path / "store", [[0.0, 0.0]], documents, shard_documents=1))
    assert len(store.latent(1)[0]) == 0
    assert store.stats.mean.tolist() == store.stats.sd.tolist() == [0, 0]


def test_a_latent_the_sae_does_not_have_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        store.latent(4)


def test_an_unfinished_folder_is_not_a_store(tmp_path: Path, store: Store) -> None:
    (store.path / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="not a finished"):
        Store.open(store.path)


def test_asking_the_store_needs_no_torch() -> None:
    """The web process answers from the store; torch would cost it seconds and half a gigabyte."""
    program = "import sys, labeling.store, labeling.discovery; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
