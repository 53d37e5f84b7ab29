"""The quick way to a rule's labels gives the same labels, and its figures are those of `score`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.documents import Document
from labeling.evaluate import score
from labeling.functions import Latent, Terms
from labeling.gold_words import agreement, gold_words
from labeling.postings import gather, half_below
from labeling.rule import RuleConfig, label, latent_weights
from labeling.votes import cast
from labeling.whatif import flag, shares, tally, train_families
from tests.labeling.planted import MemoryStore, disk_store

rules = st.builds(
    RuleConfig,
    k=st.integers(1, 4),
    z=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    boundary=st.sampled_from(["grow_positive", "grow_above", "seeds"]),
    grow_above=st.sampled_from([0.0, 0.7]),
    min_tokens=st.integers(1, 3),
    close_gap=st.integers(0, 2),
    window=st.sampled_from([0, 0, 3]),
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), rules)
def test_the_quick_way_labels_exactly_as_the_rule(seed: int, config: RuleConfig) -> None:
    random = np.random.default_rng(seed)
    acts = (random.random((40, 5)) < 0.4) * random.random((40, 5))
    store = MemoryStore(acts.astype(np.float16).astype(np.float32), [15, 0, 25])
    functions = [
        Latent(latent=4, weight=2),
        Terms(terms=["b"], votes="retain", veto=bool(seed % 2)),
        Terms(terms=["c"], weight=3),
    ]
    texts = {key: "".join(random.choice(list("abcd "), 60)) for key in store.keys}
    votes = [cast(store, function, texts.__getitem__) for function in functions[1:]] if seed % 5 == 0 else []
    used = functions if votes else functions[:1]
    weights = latent_weights(store, [0, 1, 3], used)
    quick = flag(store, tally(store, gather(store, list(weights)), config, weights, votes), config)
    assert quick.tolist() == label(store, [0, 1, 3], config, used, texts.__getitem__).flags.tolist()


def test_a_threshold_in_half_precision_never_moves_a_vote() -> None:
    halves = np.arange(1, 0x7C00, dtype=np.uint16)
    values = halves.view(np.float16).astype(np.float64)
    for shift in (0.0, 1e-9, -1e-9, 1e-5):
        limits = values * (1 + shift)
        assert (half_below(limits) <= np.searchsorted(values, limits, side="right")).all()
        assert ((halves > half_below(limits)) == (values > limits)).all()
    assert half_below(np.array([-1.0, 0.0, 1e9])).tolist() == [0, 0, 0x7BFF]


def test_shares_count_train_tokens_only_and_what_changed(tmp_path) -> None:
    store = disk_store(tmp_path / "s", np.eye(8, 3), [2, 2, 2, 2], ["a", "a", "b", "b"], ["train", "test"] * 2)
    before = np.array([2, 2, 2, 2, 0, 1, 2, 2], np.uint8)
    now = np.array([2, 1, 0, 0, 2, 3, 0, 0], np.uint8)
    a, b = shares(store, train_families(store), now, before)
    assert (a.family, a.tokens, a.seed, a.grown, a.before, a.added, a.removed) == ("a", 2, 0.5, 0.5, 1.0, 0, 0)
    assert (b.tokens, b.flagged, b.vetoed, b.before, b.added, b.removed) == (2, 0.5, 0.5, 0.5, 1, 1)
    assert shares(store, train_families(store), now)[0].before is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_agreement_with_gold_is_what_score_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = ["aa b ccc d, ee", "b 🙂🙂 cc dd", "x"]
    edges = [[(0, 1), (1, 2), (3, 4), (5, 8), (9, 11), (12, 14)], [(0, 1), (2, 4), (2, 4), (5, 7), (8, 10)], [(0, 1)]]
    store = MemoryStore(np.zeros((12, 1)), [6, 5, 1], ["f", "r", "r"])
    store.starts, store.ends = np.array([e for part in edges for e in part], np.int32).T
    gold = [
        Document(f"d{i}", text, family, side, spans=[(int(random.integers(0, 3)), 8)] if side == "forget" else [])
        for i, (text, family, side) in enumerate(zip(texts, "frr", ["forget", "retain", "retain"], strict=True))
    ]
    flags = random.integers(0, 2, 12).astype(bool)
    found = agreement(gold_words(store, gold), flags)
    predictions = []
    for i, document in enumerate(gold):
        spans = [edges[i][t] for t in range(len(edges[i])) if flags[store.document(i)][t]]
        tokens = [[s, e, float([s, e] in [list(x) for x in spans])] for s, e in edges[i]]
        predictions.append({"id": document.id, "spans": [list(s) for s in spans], "tokens": tokens})
    expected = score(predictions, gold)
    for name in ("precision", "recall", "f1", "fpr"):
        assert found.figures[name] == getattr(expected, name)
    assert {n: (f.fpr, f.recall, f.words) for n, f in found.families.items()} == {
        n: (f.fpr, f.recall, f.words) for n, f in expected.families.items()
    }


def test_gold_of_documents_the_store_does_not_hold_is_left_out() -> None:
    store = MemoryStore(np.zeros((3, 1)), [3])
    assert gold_words(store, [Document("elsewhere", "a b", "f", "forget", spans=[])]).documents == []
    assert gold_words(store, [Document("d0", "a b c", "f", "forget", spans=[(0, 1)])]).forget.tolist() == [
        True,
        False,
        False,
    ]
    with pytest.raises(KeyError):
        store.index_of("elsewhere")
