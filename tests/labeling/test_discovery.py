"""Figures by hand on small matrices, then a planted latent found among noise."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from labeling.discovery import discover, examples, histogram, latent_table, open_table, selective, token_profile
from labeling.events import Artifact
from labeling.store import Store
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


def test_a_latent_that_fires_only_outside_train_has_no_figures_and_no_examples(planted: tuple) -> None:
    store, texts, _ = planted
    table = latent_table(store, SIDES)
    for column in ("density", "strong_forget", "mean", "sd", "max"):
        assert table[column][7] == 0, column
    assert table["auroc"][7] == 0.5
    assert examples(store, 7, lambda key: texts[key][0]) == []
    assert histogram(store, 7)[1].sum() == 0
    assert token_profile(store, 7, lambda key: texts[key][0]) == []


def test_discover_writes_the_table_it_computes(planted: tuple, tmp_path: Path) -> None:
    store, _, _ = planted
    *_, last = discover(store.path, SIDES, tmp_path / "discovery")
    assert isinstance(last, Artifact)
    table, info = open_table(last.path)
    assert info["families"] == store.families
    assert info["sides"]["web"] == "mixed"
    for name, column in latent_table(store, SIDES).items():
        np.testing.assert_array_equal(table[name], column)


def test_discover_without_a_retain_family_says_what_to_do(planted: tuple, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="retain"):
        list(discover(planted[0].path, {"clinic": "forget"}, tmp_path / "discovery"))
    assert not (tmp_path / "discovery").exists()


def test_examples_show_the_text_of_the_document_and_the_value_of_every_token(planted: tuple) -> None:
    store, texts, dense = planted
    found = examples(store, 3, lambda key: texts[key][0], n=8)
    assert len(found) == 8
    for example in found:
        text, family, split = texts[example.key]
        assert (family, split) == ("clinic", "train")
        assert example.family == family
        assert text[example.offset : example.offset + len(example.text)] == example.text
        assert max(value for _, _, value in example.tokens) == example.value
        at = store.document(store.index_of(example.key)).start
        first = at + len(text[: example.offset].split())
        np.testing.assert_array_equal([v for _, _, v in example.tokens], dense[first : first + len(example.tokens), 3])
        assert [example.text[a:b] for a, b, _ in example.tokens] == example.text.split()


def test_examples_come_strongest_first_or_from_a_quantile_or_one_family(planted: tuple) -> None:
    store, texts, _ = planted

    def text_of(key: str) -> str:
        return texts[key][0]

    top = [e.value for e in examples(store, 0, text_of, n=10)]
    middle = [e.value for e in examples(store, 0, text_of, n=10, quantile=0.5)]
    assert top == sorted(top, reverse=True)
    assert max(middle) < min(top)
    assert {e.family for e in examples(store, 5, text_of, family="biology")} == {"biology"}


def test_a_repeated_sentence_is_shown_once(tmp_path: Path) -> None:
    documents = [(f"d{i}", "all rights reserved by us", "web", "train") for i in range(6)]
    store = Store.open(planted_store(tmp_path / "store", np.tile([[0], [0], [3], [0], [0]], (6, 1)), documents))
    found = examples(store, 0, lambda key: "all rights reserved by us")
    assert [e.text for e in found] == ["all rights reserved by us"]
    assert found[0].tokens[2] == (11, 19, 3.0)


def test_token_profile_counts_surfaces(tmp_path: Path) -> None:
    documents = [("a", "dose goal dose", "clinic", "train"), ("b", "dose", "clinic", "test")]
    folder = planted_store(tmp_path / "store", [[2], [1], [4], [9]], documents)
    profile = token_profile(Store.open(folder), 0, {"a": "dose goal dose", "b": "dose"}.__getitem__)
    assert profile == [("dose", 2, 3.0), ("goal", 1, 1.0)]


def test_histograms_of_families_share_their_edges(planted: tuple) -> None:
    store = planted[0]
    edges, every = histogram(store, 0, bins=10)
    parts = [histogram(store, 0, bins=10, families=[family]) for family in store.families]
    assert all((e == edges).all() for e, _ in parts)
    np.testing.assert_array_equal(sum(counts for _, counts in parts), every)
    assert len(edges) == 11
