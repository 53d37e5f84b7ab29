"""Why a token has its label, on stores small enough to see it."""

import numpy as np

from labeling.functions import Terms
from labeling.rule import RuleConfig, label
from labeling.votes import StoredVotes
from labeling.why import explain, nearest_seed
from tests.labeling.planted import MemoryStore


def stored(function, tokens, sign):
    return StoredVotes(function, np.array(tokens, np.int32), np.full(len(tokens), sign, np.int8))


def test_every_function_that_speaks_for_a_token_is_named_with_its_margin() -> None:
    store = MemoryStore(np.array([[9, 0, 1], [0, 0, 0], [0, 2, 0], [0, 0, 0]], np.float32), [4])
    config = RuleConfig(k=3, z=1)
    votes = [stored(Terms(terms=["x"], weight=2), [0, 3], 1), stored(Terms(terms=["y"], votes="retain"), [3], -1)]
    flags = np.array([2, 0, 0, 0], np.uint8)
    reason = explain(store, {0: 1, 1: 1, 2: 1}, config, votes, flags, 0)
    assert [(v.name, v.vote) for v in reason.voices] == [("terms x", 1), ("latent 0", 1), ("latent 2", 1)]
    assert (reason.score, reason.needed, reason.flag, reason.seed) == (4, 3, 2, None)
    latent = reason.voices[1]
    assert latent.value == 9 and latent.threshold == 9 / 4 + np.std([9, 0, 0, 0])
    contested = explain(store, {0: 1}, config, votes, flags, 3)
    assert contested.score == 1 and {v.vote for v in contested.voices} == {1, -1}


def test_a_grown_token_names_the_nearest_seed_of_its_own_span() -> None:
    store = MemoryStore(np.ones((9, 1), np.float32), [5, 4])
    flags = np.array([2, 1, 1, 2, 0, 2, 0, 1, 2], np.uint8)
    at_2 = nearest_seed(store, flags, 2)
    assert at_2 is not None and (at_2.token, at_2.distance, at_2.start) == (3, 1, 6)
    at_7 = nearest_seed(store, flags, 7)
    assert at_7 is not None and (at_7.token, at_7.start) == (8, 6)
    at_1 = nearest_seed(store, flags, 1)
    assert at_1 is not None and at_1.distance == -1


def test_a_seed_of_a_window_counts_the_votes_around_it() -> None:
    acts = np.array([[5, 0], [0, 0], [5, 5], [0, 0], [0, 0], [5, 0]], np.float32)
    store, config = MemoryStore(acts, [5, 1]), RuleConfig(k=3, z=0, window=1, boundary="seeds")
    votes = [
        stored(Terms(terms=["x"], weight=2), [1], 1),
        stored(Terms(terms=["y"], votes="retain", veto=True), [4], -1),
    ]
    scores = [explain(store, {0: 1, 1: 1}, config, votes, np.zeros(6, np.uint8), token).score for token in range(6)]
    assert scores == [4.5, 5, 4, 2, 0, 3]  # a document's first token has two in its window, and they count for three
    assert explain(store, {0: 1}, config, votes, np.zeros(6, np.uint8), 3).window == 1


def test_a_veto_and_a_filled_gap_are_told_apart() -> None:
    acts = np.array([[5], [0], [5], [0], [0]], np.float32)
    store = MemoryStore(acts, [5])
    config = RuleConfig(k=1, z=0.5, close_gap=1)
    flags = label(store, [0], config).flags
    filled = explain(store, {0: 1}, config, [], flags, 1)
    assert filled.filled and filled.seed is not None and abs(filled.seed.distance) == 1
    veto = stored(Terms(terms=["x"], votes="retain", veto=True), [2], -1)
    vetoed = explain(store, {0: 1}, config, [veto], np.array([2, 0, 3, 0, 0], np.uint8), 2)
    assert vetoed.flag == 3 and [v.final for v in vetoed.voices] == [True, False]
    assert vetoed.score == 1  # a veto is no vote against: it is final
