"""The rule by hand, then against a literal telling of it that grows one neighbour at a time."""

import json
import time
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.events import Artifact
from labeling.functions import FUNCTIONS, Family, Function, Latent, Terms
from labeling.rule import RuleConfig, grow, label, label_corpus, rule_hash, spans_of
from labeling.store import Stats
from tests.labeling.planted import MemoryStore, disk_store

ZERO_SUM = Stats(np.zeros(2), np.zeros(2), np.zeros(2), np.zeros((2, 1), np.int64), np.array([1]))  # mean 0, SD 0


def flags_of(acts, lengths, functions=(), text_of=None, stats=None, families=(), **config):
    store = MemoryStore(np.array(acts, dtype=np.float32), lengths, list(families))
    latents = range(store.d_sae)
    return label(store, latents, RuleConfig(**config), functions, text_of, stats).flags.tolist()


def test_a_latent_votes_above_mean_plus_z_sd_zeros_included():
    # Nine zeros and a 10: mean 1, population SD 3, so the threshold at z=2 is 7 and at z=3 exactly 10.
    acts = [[0]] * 9 + [[10]]
    assert flags_of(acts, [10], k=1, z=2.9) == [0] * 9 + [2]
    assert flags_of(acts, [10], k=1, z=3) == [0] * 10


def test_a_seed_needs_k_latents():
    acts = [[1, 0], [1, 1], [0, 1]]
    assert flags_of(acts, [3], stats=ZERO_SUM, k=2, z=0, boundary="seeds") == [0, 2, 0]
    assert flags_of(acts, [3], stats=ZERO_SUM, k=2, z=0) == [1, 2, 1]
    assert flags_of(acts, [3], stats=ZERO_SUM, k=3, z=0) == [0, 0, 0]


def test_votes_in_a_window_make_a_seed_between_them_and_one_alone_makes_none():
    acts = [[1, 1], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    alone = {"stats": ZERO_SUM, "z": 0, "boundary": "seeds"}
    assert flags_of(acts, [7], k=3, window=2, **alone) == [2, 2, 2, 0, 0, 0, 0]  # 3 of 3 tokens, 3 of 4, 3 of 5, 1
    assert flags_of(acts, [1, 6], k=3, window=2, **alone) == [2, 0, 0, 0, 0, 0, 0]  # 2 votes on 1 of 5 tokens count 10
    assert flags_of(acts, [0, 7, 0], k=3, window=9, **alone) == [2] * 7  # 3 votes on 7 of 19 tokens


def test_growth_covers_a_run_that_holds_a_seed_and_no_other():
    acts = [[1, 0], [1, 1], [0, 0], [1, 0], [1, 0]]
    assert flags_of(acts, [5], stats=ZERO_SUM, k=2, z=0) == [1, 2, 0, 0, 0]


def test_growth_stops_at_the_end_of_a_document():
    acts = [[1, 0], [1, 1], [1, 0], [1, 0]]
    assert flags_of(acts, [2, 2], stats=ZERO_SUM, k=2, z=0) == [1, 2, 0, 0]
    assert flags_of(acts, [0, 2, 0, 2, 0], stats=ZERO_SUM, k=2, z=0) == [1, 2, 0, 0]


def test_growing_above_a_threshold_leaves_weak_neighbours_out():
    # Latent 0: 8, 2, 1 and five zeros: mean 1.375; SD 2.595.
    acts = [[2], [8], [1], [0], [0], [0], [0], [0]]
    assert flags_of(acts, [8], k=1, z=2, boundary="grow_above", grow_above=0) == [1, 2, 0, 0, 0, 0, 0, 0]
    assert flags_of(acts, [8], k=1, z=2, boundary="grow_above", grow_above=1) == [0, 2, 0, 0, 0, 0, 0, 0]
    assert flags_of(acts, [8], k=1, z=2, boundary="grow_positive") == [1, 2, 1, 0, 0, 0, 0, 0]


def test_short_spans_are_dropped_and_small_gaps_filled():
    acts = [[1], [0], [1], [0], [0], [0], [1], [0]]
    stats = Stats(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros((1, 1), np.int64), np.array([1]))
    assert flags_of(acts, [8], stats=stats, k=1, z=0, close_gap=1) == [2, 1, 2, 0, 0, 0, 2, 0]
    assert flags_of(acts, [8], stats=stats, k=1, z=0, close_gap=1, min_tokens=2) == [2, 1, 2, 0, 0, 0, 0, 0]
    assert flags_of(acts, [8], stats=stats, k=1, z=0, close_gap=3) == [2, 1, 2, 1, 1, 1, 2, 0]
    assert flags_of(acts, [1, 7], stats=stats, k=1, z=0, close_gap=3) == [2, 0, 2, 1, 1, 1, 2, 0]


def test_votes_of_functions_add_their_weight_and_retain_votes_subtract_it():
    acts = [[1, 0], [1, 1]]
    text_of = {"d0": "a b"}.__getitem__
    seeds = {"stats": ZERO_SUM, "z": 0, "boundary": "seeds", "text_of": text_of}
    assert flags_of(acts, [2], [Terms(terms=["a"])], k=2, **seeds) == [2, 2]
    assert flags_of(acts, [2], [Terms(terms=["a"], weight=2)], k=3, **seeds) == [2, 0]
    assert flags_of(acts, [2], [Terms(terms=["b"], votes="retain")], k=2, **seeds) == [0, 0]
    assert flags_of(acts, [2], [Latent(latent=0, weight=5)], k=5, **seeds) == [2, 2]


def test_a_veto_wins_and_stops_growth():
    acts = [[1, 1], [1, 0], [1, 0], [0, 0]]
    veto = Terms(terms=["b", "d"], votes="retain", veto=True)
    text_of = {"d0": "a b c d"}.__getitem__
    # b would have grown; c is cut off from its seed by b; d would not have been forget anyway.
    assert flags_of(acts, [4], [veto], text_of, ZERO_SUM, k=2, z=0) == [2, 3, 0, 0]


def test_a_vetoed_seed_seeds_nothing_and_no_gap_is_closed_over_a_veto():
    acts = [[1, 1], [0, 0], [1, 1], [1, 0]]
    veto = Family(family="news", votes="retain", veto=True)
    assert flags_of(acts, [4], [veto], None, ZERO_SUM, ["news"], k=2, z=0) == [3, 0, 3, 3]
    middle = Terms(terms=["b"], votes="retain", veto=True)
    text_of = {"d0": "a b c d"}.__getitem__
    assert flags_of(acts, [4], [middle], text_of, ZERO_SUM, k=2, z=0, close_gap=1) == [2, 3, 2, 1]


def test_statistics_of_another_store_set_the_thresholds():
    acts = [[5, 0], [1, 0]]
    stats = Stats(np.array([30.0, 0]), np.array([100.0, 0]), np.zeros(2), np.zeros((2, 1), np.int64), np.array([10]))
    assert flags_of(acts, [2], stats=stats, k=1, z=1, boundary="seeds") == [2, 0]  # threshold 3 + 1


def test_functions_that_read_need_text():
    with pytest.raises(ValueError, match="text_of"):
        flags_of([[1, 1]], [1], [Terms(terms=["a"])])


def test_a_latent_the_store_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"latent 2 .* 0 to 1"):
        label(MemoryStore(np.zeros((1, 2)), [1]), [2], RuleConfig())


@pytest.fixture
def picky():
    class Picky(Function):
        kind: Literal["picky"] = "picky"

        def vote(self, text, starts, ends, family):
            if "bad" in text:
                raise ValueError("cannot read 'bad'")
            return np.ones(len(starts), dtype=np.int8)

    yield Picky()
    del FUNCTIONS["picky"]


def test_failures_are_counted_and_abstain(picky):
    store = MemoryStore(np.zeros((2, 1), dtype=np.float32), [1, 1])
    labels = label(store, [], RuleConfig(k=1), [picky], {"d0": "bad", "d1": "fine"}.__getitem__)
    assert labels.flags.tolist() == [0, 2]
    assert labels.errors == {"picky": 1}
    with pytest.raises(ValueError, match=r"picky.* fails on every document: cannot read 'bad'"):
        label(store, [], RuleConfig(k=1), [picky], lambda key: "bad")


def literal(seed, growable, vetoed, config):
    """One document's forget tokens as METHOD tells it, one neighbour at a time."""
    tokens = range(len(seed))
    on = {i for i in tokens if seed[i] and not vetoed[i]}
    while config.boundary != "seeds":
        more = {i for i in tokens if growable[i] and not vetoed[i] and i not in on and {i - 1, i + 1} & on}
        if not more:
            break
        on |= more
    for a, b in pairwise(sorted(on)):
        if b - a - 1 <= config.close_gap and not any(vetoed[a:b]):
            on |= set(range(a, b))
    runs = []
    for i in sorted(on):
        if i - 1 not in on:
            runs.append([])
        runs[-1].append(i)
    return {i for run in runs if len(run) >= config.min_tokens for i in run}


tokens = st.tuples(st.booleans(), st.booleans(), st.sampled_from([False, False, False, True]))
configs = st.builds(
    RuleConfig,
    boundary=st.sampled_from(["grow_positive", "seeds"]),
    min_tokens=st.integers(1, 4),
    close_gap=st.integers(0, 4),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(tokens, max_size=14), max_size=5), configs)
def test_one_pass_equals_growing_one_neighbour_at_a_time(documents, config):
    expected = []
    for document in documents:
        seed, growable, vetoed = ([row[n] for row in document] for n in range(3))
        on, without = literal(seed, growable, vetoed, config), literal(seed, growable, [False] * len(seed), config)
        for i in range(len(seed)):
            expected.append((2 if seed[i] else 1) if i in on else 3 if vetoed[i] and i in without else 0)
    every = np.array([row for document in documents for row in document], dtype=bool).reshape(-1, 3)
    indptr = np.cumsum([0] + [len(d) for d in documents])
    assert grow(*every.T, indptr, config).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_labels_equal_counting_votes_token_by_token(data):
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    value = st.sampled_from([0, 0, 0.25, 0.5, 1, 2, 4])
    acts = np.array([[data.draw(value) for _ in range(3)] for _ in range(sum(lengths))], dtype=np.float32).reshape(
        -1, 3
    )
    store = MemoryStore(acts, lengths)
    config = RuleConfig(
        k=data.draw(st.integers(1, 3)),
        z=data.draw(st.sampled_from([0, 0.5, 1, 2])),
        boundary=data.draw(st.sampled_from(["grow_positive", "grow_above", "seeds"])),
        grow_above=data.draw(st.sampled_from([0, 1])),
        window=data.draw(st.sampled_from([0, 0, 1, 2])),
    )
    full = 2 * config.window + 1
    mean, sd = store.stats.mean.tolist(), store.stats.sd.tolist()
    expected = []
    for i in range(len(lengths)):
        rows = acts[store.document(i)].tolist()
        votes = [sum(0 < v > m + config.z * s for v, m, s in zip(row, mean, sd, strict=True)) for row in rows]
        around = [votes[max(n - config.window, 0) : n + config.window + 1] for n in range(len(rows))]
        seed = [sum(near) * full >= config.k * len(near) for near in around]
        cut = (
            [0, 0, 0]
            if config.boundary == "grow_positive"
            else [m + config.grow_above * s for m, s in zip(mean, sd, strict=True)]
        )
        growable = [any(0 < v > c for v, c in zip(row, cut, strict=True)) for row in rows]
        on = literal(seed, growable, [False] * len(rows), config)
        expected += [(2 if seed[n] else 1) if n in on else 0 for n in range(len(rows))]
    assert label(store, range(3), config).flags.tolist() == expected


def test_spans_run_from_the_first_token_to_the_last():
    store = MemoryStore(np.zeros((5, 1), dtype=np.float32), [2, 3])
    flags = np.array([2, 0, 1, 2, 3], dtype=np.uint8)
    assert spans_of(store, flags, 0) == [(0, 1)]
    assert spans_of(store, flags, 1) == [(0, 3)]


def test_a_rule_is_the_same_whatever_the_order_of_its_parts():
    a, b = Terms(terms=["x"]), Family(family="y")
    first = rule_hash([3, 1], RuleConfig(), [a, b])
    assert first == rule_hash([1, 3], RuleConfig(), [b, a])
    assert first != rule_hash([1, 3], RuleConfig(k=3), [a, b])
    assert first != rule_hash([1], RuleConfig(), [a, b])
    assert first != rule_hash([1, 3], RuleConfig(window=1), [a, b])


def test_rules_of_before_there_was_a_window_keep_their_identity():
    assert rule_hash([1, 3], RuleConfig(k=2, z=3)) == "d0d20907787b54cd8efb1a7042c713ee052e1d76254e04da33ffcc7828633c6a"


def test_the_step_writes_labels_aligned_with_the_store(tmp_path):
    acts = np.array([[3, 0], [3, 3], [0, 0], [3, 3]], dtype=np.float32)
    store = disk_store(tmp_path / "store", acts, [3, 1], ["clinic", "sport"], ["train", "test"])
    config = RuleConfig(k=2, z=0)
    sport = Family(family="sport", votes="retain", veto=True)
    *_, made = label_corpus(store.path, [0, 1], config, [sport], None, tmp_path / "labels", {"name": "mine"}, ZERO_SUM)
    assert isinstance(made, Artifact) and made.kind == "labels"
    assert np.load(made.path / "labels.npy").tolist() == [1, 2, 0, 3]
    assert made.info["families"]["clinic"]["train"] == {"documents": 1, "tokens": 3, "share": 2 / 3}
    assert made.info["families"]["sport"]["test"]["share"] == 0
    assert (made.info["seeds"], made.info["grown"], made.info["vetoed"], made.info["share"]) == (1, 1, 1, 0.5)
    assert made.info["rule"] == rule_hash([0, 1], config, [sport])
    assert json.loads((made.path / "MANIFEST.json").read_text())["info"]["name"] == "mine"


def test_a_rule_without_functions_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="accept some latents"):
        list(label_corpus(tmp_path, [], RuleConfig(), [], None, tmp_path / "labels"))


def test_a_million_tokens_are_labeled_in_a_moment():
    """The goal is 8M tokens and 600 latents within 2 s; a fiftieth of that, with room for slow machines."""
    rng = np.random.default_rng(0)
    n, latents = 1_000_000, 100
    postings = [np.sort(rng.choice(n, 8_000, replace=False)) for _ in range(latents)]
    store = MemoryStore(np.zeros((0, latents), dtype=np.float32), [])
    store.n_tokens, store.keys, store.doc_indptr = n, [], np.arange(0, n + 1, 500)
    store.latent = lambda latent: (postings[latent], np.ones(8_000, dtype=np.float32))
    begin = time.perf_counter()
    flags = label(store, range(latents), RuleConfig(k=2, z=2)).flags
    assert time.perf_counter() - begin < 1.5
    assert 0 < (flags == 2).sum() < n
