"""What a latent's page shows, against the dense matrix the store was made of."""

from pathlib import Path

import numpy as np
import pytest

from labeling.evidence import Density, Firings, densities, examples, histogram, token_profile, wilson
from labeling.store import Store
from labeling.vocabulary import Vocabulary, vocabulary
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


def test_examples_show_the_text_of_the_document_and_the_value_of_every_token(planted: tuple) -> None:
    store, texts, dense = planted
    found = examples(Firings.of(store, 3), lambda key: texts[key][0], n=8)
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

    top = [e.value for e in examples(Firings.of(store, 0), text_of, n=10)]
    middle = [e.value for e in examples(Firings.of(store, 0), text_of, n=10, quantile=0.5)]
    assert top == sorted(top, reverse=True)
    assert max(middle) < min(top)
    assert {e.family for e in examples(Firings.of(store, 5), text_of, family="biology")} == {"biology"}


def test_a_repeated_sentence_is_shown_once(tmp_path: Path) -> None:
    documents = [(f"d{i}", "all rights reserved by us", "web", "train") for i in range(6)]
    store = Store.open(planted_store(tmp_path / "store", np.tile([[0], [0], [3], [0], [0]], (6, 1)), documents))
    found = examples(Firings.of(store, 0), lambda key: "all rights reserved by us")
    assert [e.text for e in found] == ["all rights reserved by us"]
    assert found[0].tokens[2] == (11, 19, 3.0)


def test_histograms_of_families_share_their_edges(planted: tuple) -> None:
    store = planted[0]
    edges, every = histogram(Firings.of(store, 0), bins=10)
    parts = [histogram(Firings.of(store, 0), bins=10, families=[family]) for family in store.families]
    assert all((e == edges).all() for e, _ in parts)
    np.testing.assert_array_equal(sum(counts for _, counts in parts), every)
    assert len(edges) == 11


def test_what_lies_outside_train_is_no_evidence(planted: tuple) -> None:
    store, texts, _ = planted
    silent = Firings.of(store, 7)
    assert len(silent.tokens) == 0 and len(store.latent(7)[0]) > 0
    assert examples(silent, lambda key: texts[key][0]) == []
    assert histogram(silent)[1].sum() == 0


DOSES = {"a": "the dose, then a dose", "b": "Goal! the", "c": "dose"}


def _doses(folder: Path) -> tuple[Store, Vocabulary]:
    """Words as tokens; latent 0 fires on every dose, once on the goal and once on the last the."""
    documents = [
        ("a", DOSES["a"], "clinic", "train"),
        ("b", DOSES["b"], "web", "train"),
        ("c", "dose", "clinic", "test"),
    ]
    dense = [[0], [2], [0], [0], [4], [1], [3], [9]]
    store = Store.open(planted_store(folder / "store", dense, documents))
    return store, vocabulary(store, DOSES.__getitem__)


def test_the_vocabulary_is_read_off_the_texts(tmp_path: Path) -> None:
    store, words = _doses(tmp_path)
    assert sorted(words.surfaces) == ["Goal", "a", "dose", "the", "then"]
    assert words[int(store.ids[1])] == "dose" and words[10**6] == ""
    assert sorted(words[int(i)] for i in words.holding("THE")) == ["the", "then"]
    assert Vocabulary.from_json(words.to_json()).surfaces == words.surfaces


def test_the_token_profile_counts_surfaces_and_kinds_of_train_firings(tmp_path: Path) -> None:
    store, words = _doses(tmp_path)
    profile = token_profile(Firings.of(store, 0), words)
    assert profile.tokens[0] == ("dose", 2, 3.0)
    assert set(profile.tokens[1:]) == {("Goal", 1, 1.0), ("the", 1, 3.0)}
    assert profile.shares == {"stop words": 1 / 4, "punctuation": 0, "word starts": 1}


def test_a_piece_inside_a_word_starts_none() -> None:
    words = Vocabulary(np.arange(4, dtype=np.int32), ["the", "ine", "?!", "The"], np.array([1, 0, 0, 1], bool))
    assert {name: member.tolist() for name, member in words.classes.items()} == {
        "stop words": [True, False, False, True],
        "punctuation": [False, False, True, False],
        "word starts": [True, False, False, True],
    }


def test_densities_have_intervals_as_wide_as_their_documents_differ(tmp_path: Path) -> None:
    """Forty tokens of four documents, ten firings: evenly spread, or all in one document."""
    documents = [(f"d{i}", "w " * 10, "web", "train") for i in range(4)]
    even, lumped = np.zeros((40, 2)), np.zeros((40, 2))
    even[::4, 0] = lumped[:10, 0] = 1
    found = [
        densities(Firings.of(Store.open(planted_store(tmp_path / name, dense, documents)), 0))[0]
        for name, dense in (("even", even), ("lumped", lumped))
    ]
    assert [d.share for d in found] == [0.25, 0.25]
    assert found[0].low == pytest.approx(wilson(0.25, 40)[0], abs=0.05)
    assert found[1].high - found[1].low > 2 * (found[0].high - found[0].low)
    never = densities(Firings.of(Store.open(tmp_path / "even"), 1))
    assert never == [Density("web", 0.0, 0.0, pytest.approx(wilson(0, 4)[1]))]


def test_wilson_agrees_with_the_textbook() -> None:
    low, high = wilson(0.1, 100)
    assert (low, high) == (pytest.approx(0.0552, abs=1e-4), pytest.approx(0.1744, abs=1e-4))
    assert wilson(0, 10)[0] == 0 and wilson(1, 10)[1] == 1
