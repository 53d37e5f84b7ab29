"""Figures by hand on small matrices, then a planted latent found among noise."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.planted import plant
from labeling import tally
from labeling.cofiring import cofiring
from labeling.discovery import Table, discover, latent_table, open_table, selective
from labeling.events import Artifact
from labeling.store import Store
from labeling.vocabulary import vocabulary
from tests.fakes import planted_store

SIDES = {"clinic": "forget", "sport": "retain", "biology": "retain", "web": "mixed"}
WORDS = ["the", "dose", "of", "insulin", "and", "a", "goal"]


def _texts(n: int, length: int = 40) -> dict[str, tuple[str, str, str]]:
    """key -> (text, family, split); every fifth document is of the test split."""
    rng = np.random.default_rng(5)
    families = list(SIDES)
    return {
        f"d{i}": (
            f"{i} " + " ".join(rng.choice(WORDS, length - 1)),
            families[i % 4],
            "test" if i % 5 == 4 else "train",
        )
        for i in range(n)
    }


def discovered(store: Store, folder: Path) -> Table:
    *_, last = discover(store.path, SIDES, folder / "discovery")
    assert isinstance(last, Artifact)
    return open_table(last.path)[0]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, tuple[str, str, str]], np.ndarray]:
    """Latent 3 fires on clinic tokens; 5 on clinic and biology; 7 on clinic, but only in the test split."""
    texts = _texts(60)
    rng = np.random.default_rng(0)
    family = np.repeat([f for _, f, _ in texts.values()], 40)
    split = np.repeat([s for _, _, s in texts.values()], 40)
    dense = rng.exponential(size=(len(family), 10)) * (rng.random((len(family), 10)) < 0.05)
    dense[:, [3, 5, 7]] = 0
    hit = rng.random(len(family)) < 0.06
    dense[hit & (family == "clinic"), 3] = 20
    dense[hit & np.isin(family, ["clinic", "biology"]), 5] = 20
    dense[(family == "clinic") & (split == "test"), 7] = 20
    documents = [(key, *rest) for key, rest in texts.items()]
    folder = planted_store(tmp_path_factory.mktemp("planted") / "store", dense, documents, shard_documents=7)
    return Store.open(folder), texts, dense.astype(np.float16).astype(float)


def test_figures_by_hand(tmp_path: Path) -> None:
    """Four forget and four retain train tokens, one latent: 10 on one forget token, 1 on one retain token."""
    documents = [
        ("f", "a b c d", "clinic", "train"),
        ("r", "e f g", "sport", "train"),
        ("b", "h", "biology", "train"),
        ("w", "i j", "web", "train"),
        ("t", "k l", "clinic", "test"),
    ]
    dense = np.zeros((12, 1))
    dense[[1, 4, 8, 10], 0] = 10, 1, 10, 10
    store = Store.open(planted_store(tmp_path / "store", dense, documents))
    table = latent_table(store, SIDES, z=1.0)
    # 10 train tokens: sum 21, mean 2.1, sd sqrt(20.1 - 4.41) = 3.96; strong above 6.06
    assert table["density"].tolist() == [0.3]
    assert table["density_forget"].tolist() == [1 / 4]
    assert table["density_retain"].tolist() == [1 / 4]
    assert table["strong_forget"].tolist() == [1]
    assert table["strong_retain"].tolist() == [0]
    assert table["rate_forget"].tolist() == [1 / 4]
    assert table["ratio"][0] == pytest.approx((1.5 / 5) / (0.5 / 5))
    # the nearest retain family is biology with one token: (0 + .5) / (1 + 1) = 0.25
    assert table["ratio_nearest"][0] == pytest.approx((1.5 / 5) / 0.25)
    # pairs (forget, retain): 10 beats 4 of 4; three zeros tie with three zeros and lose to the 1
    assert table["auroc"][0] == pytest.approx((4 + 3 * 1.5) / 16)
    assert store.families == ["biology", "clinic", "sport", "web"]
    assert table["family_strong"].tolist() == [[0, 1, 0, 1]]
    np.testing.assert_allclose(table["family_density"], [[0, 1 / 4, 1 / 3, 1 / 2]])


def test_auroc_agrees_with_scikit_learn(planted: tuple) -> None:
    store, _, dense = planted
    family = np.array(store.families)[store.token_family]
    used = store.token_split_mask("train") & (family != "web")
    table = latent_table(store, SIDES)
    for latent in range(store.d_sae):
        assert table["auroc"][latent] == pytest.approx(roc_auc_score(family[used] == "clinic", dense[used, latent]))


def test_the_planted_latent_is_selected_and_its_near_miss_is_not(planted: tuple) -> None:
    table = latent_table(planted[0], SIDES, z=2.0)
    assert selective(table, ratio=10, minimum=10).tolist() == [3]
    assert table["ratio_nearest"][5] < 3


def test_a_latent_that_fires_only_outside_train_has_no_figures(planted: tuple, tmp_path: Path) -> None:
    store = planted[0]
    table = discovered(store, tmp_path)
    for column in ("density", "documents", "strong_forget", "mean", "sd", "max"):
        assert table[column][7] == 0, column
    assert table["auroc"][7] == 0.5
    assert (table["top_tokens"][7] == -1).all() and (table["near_fired"][7] == -1).all()


def test_discover_writes_the_table_it_computes(planted: tuple, tmp_path: Path) -> None:
    store, _, _ = planted
    *_, last = discover(store.path, SIDES, tmp_path / "discovery")
    assert isinstance(last, Artifact)
    table, info, words = open_table(last.path)
    assert info["families"] == store.families and words is None
    assert info["sides"]["web"] == "mixed"
    for name, column in latent_table(store, SIDES).items():
        np.testing.assert_array_equal(table[name], column)


def test_discover_without_a_retain_family_says_what_to_do(planted: tuple, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="retain"):
        list(discover(planted[0].path, {"clinic": "forget"}, tmp_path / "discovery"))
    assert not (tmp_path / "discovery").exists()


def test_blocks_of_latents_and_of_shards_change_nothing(planted: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    store = planted[0]
    whole = latent_table(store, SIDES, z=1.0)
    monkeypatch.setattr(tally, "POSTINGS", 100)
    assert len(tally.blocks(store)) > 3 and tally.blocks(store)[-1][1] == store.d_sae
    for name, column in latent_table(store, SIDES, z=1.0).items():
        np.testing.assert_array_equal(column, whole[name])


def test_document_frequency_counts_train_documents(planted: tuple) -> None:
    store, _, dense = planted
    document = np.repeat(np.arange(len(store.keys)), np.diff(store.doc_indptr))
    train = np.array([split == "train" for split in store.doc_split])
    table = latent_table(store, SIDES)
    for latent in range(store.d_sae):
        fired = np.isin(np.flatnonzero(train), document[dense[:, latent] > 0])
        assert table["documents"][latent] == fired.mean()


def test_the_ratio_against_each_retain_family_shows_the_near_miss(planted: tuple) -> None:
    store = planted[0]
    table = latent_table(store, SIDES, z=2.0)
    biology, clinic, sport, web = (table["family_ratio"][5][store.families.index(f)] for f in sorted(SIDES))
    assert biology < 3 < 10 < sport
    assert np.isnan([clinic, web]).all()
    assert table["ratio_nearest"][5] == biology


def test_top_tokens_are_those_with_most_strong_activation(tmp_path: Path) -> None:
    documents = [
        ("a", "dose dose goal of", "clinic", "train"),
        ("b", "goal", "sport", "train"),
        ("c", "web", "web", "test"),
    ]
    store = Store.open(planted_store(tmp_path / "store", [[4], [4], [7], [0.1], [0], [99]], documents))
    words = vocabulary(store, {"a": "dose dose goal of", "b": "goal", "c": "web"}.__getitem__)
    top = latent_table(store, SIDES, z=0.0)["top_tokens"][0]
    assert [words[int(i)] for i in top[:3]] == ["dose", "goal", ""]


def test_latents_that_fire_together_find_each_other(tmp_path: Path) -> None:
    """0 and 1 share 90 of their 100 tokens; 2 fires everywhere; 3 alone; 4 never."""
    texts = {f"d{i}": "w " * 50 for i in range(20)}
    dense = np.zeros((1000, 5))
    dense[100:200, 0] = dense[110:210, 1] = dense[:, 2] = dense[500:600, 3] = 1
    documents = [(key, text, "web", "train") for key, text in texts.items()]
    store = Store.open(planted_store(tmp_path / "store", dense, documents, shard_documents=3))
    *_, (done, near) = cofiring(store)
    assert done == 4
    assert near["near_fired"][0].tolist()[:3] == [1, 2, -1]
    assert near["near_fired_share"][0][0] == pytest.approx(90 / 110, abs=0.05)
    assert near["near_fired_share"][0][1] == pytest.approx(100 / 1000, abs=0.01)
    assert near["near_fired"][3].tolist()[:2] == [2, -1]
    assert (near["near_fired"][4] == -1).all()


def test_ranking_holds_a_block_of_postings_not_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "POSTINGS", 20_000)
    peaks = []
    for tokens in (16_384, 65_536):
        plant(tmp_path / str(tokens), 500, tokens, l0=20, shard=16_384)
        store = Store.open(tmp_path / str(tokens))
        tracemalloc.start()
        for _ in tally.tallies(store, np.array([1, -1, -1, -1], np.int8), 4.0, threads=1):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1] - tokens * 16)  # what is kept per token
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks
