"""Rungs are nested, within budget, and the rule itself stands on its ladder."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.ballots import collect
from labeling.documents import Document
from labeling.functions import Family
from labeling.ladder import check_budgets, climb, ladder_corpus, level, rung_flags
from labeling.rule import RuleConfig, is_forget, label
from tests.labeling.planted import MemoryStore, disk_store


def store_of(seed: int, documents: int = 4, tokens: int = 60) -> MemoryStore:
    rng = np.random.default_rng(seed)
    acts = np.where(rng.random((documents * tokens, 5)) < 0.2, rng.random((documents * tokens, 5)) * 4, 0)
    return MemoryStore(acts.astype(np.float32), [tokens] * documents, ["clinic", "sport"] * (documents // 2))


def test_a_rung_takes_the_most_that_its_budget_allows():
    order = np.array([5.0, 4, 4, 2, 1, 0, 0, 0, 0, 0])
    rungs = list(climb(lambda cut: order >= cut, order[order > 0], [0.05, 0.1, 0.2, 0.35, 0.9]))
    assert [r.share for r in rungs] == [0, 0.1, 0.1, 0.3, 0.5]  # two tokens at 4 come together
    assert [r.cut for r in rungs] == [float("inf"), 5, 5, 4, 1]
    assert [r.reached for r in rungs] == [True, True, True, True, False]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["grow_positive", "grow_above", "seeds"]), st.integers(0, 3), st.integers(1, 3),
    st.sampled_from([0, 0, 4]),
)  # fmt: skip
def test_lower_cuts_only_add_tokens(seed, boundary, close_gap, min_tokens, window):
    parts = {"close_gap": close_gap, "min_tokens": min_tokens, "window": window}
    config = RuleConfig(k=2, z=1, boundary=boundary, grow_above=1.5, **parts)
    veto = Family(family="sport", votes="retain", veto=bool(seed % 2))
    ballots = collect(store_of(seed), range(5), config, [veto])
    order = level(ballots)
    before = np.zeros(ballots.n_tokens, bool)
    for cut in np.unique(order)[::-4]:
        now = is_forget(ballots.grow(order >= cut))
        assert not (before & ~now).any()
        before = now


def test_the_rule_is_the_rung_at_k():
    store = store_of(1)
    for k in (1, 2, 3):
        config = RuleConfig(k=k, z=1)
        ballots = collect(store, range(5), config)
        expected = label(store, range(5), config).flags.tolist()
        assert ballots.grow(level(ballots) >= k).tolist() == expected


def corpus(tmp_path, name="store", noise=0):
    """Three train documents and a validation one, whose activations change with `noise`."""
    memory = store_of(7, 4, 100)
    acts = memory.acts.astype(np.float16).astype(np.float32)
    acts[300:] = np.roll(acts[300:], noise, axis=0) * (1 + noise)
    return disk_store(
        tmp_path / name, acts, [100] * 4, ["clinic", "sport", "clinic", "sport"], ["train"] * 3 + ["validation"]
    )


def climbed(store, out, budgets: Sequence[float] = (0.02, 0.1, 0.3), gold=()):
    *_, made = ladder_corpus(store.path, range(5), RuleConfig(k=2, z=1), [], None, gold, out, budgets, {"rule": 1})
    return made, json.loads((made.path / "ladder.json").read_text()), np.load(made.path / "rungs.npy")


def test_the_step_writes_nested_rungs_within_their_budgets(tmp_path):
    store = corpus(tmp_path)
    gold = [Document("d3", "x " * 100, "sport", "retain", spans=[(0, 40)])]
    made, said, rungs = climbed(store, tmp_path / "out", gold=gold)
    train = store.token_split_mask("train")
    assert [r["budget"] for r in said["rungs"]] == [0.02, 0.1, 0.3]
    for number, rung in enumerate(said["rungs"], 1):
        flags = rung_flags(rungs, number)
        assert is_forget(flags)[train].mean() == pytest.approx(rung["share"]) and rung["share"] <= rung["budget"]
        assert rung["gold"]["recall"] is not None
    own = label(store, range(5), RuleConfig(k=2, z=1)).forget
    assert said["rule"]["share"] == pytest.approx(own[train].mean())
    assert made.info["budgets"] == [0.02, 0.1, 0.3]


def test_budgets_that_make_no_sense_are_named(tmp_path):
    assert check_budgets([0.1, 0.05, 0.1]) == (0.05, 0.1)
    for bad in ([0.0], [1.0], [-0.1], []):
        with pytest.raises(ValueError, match="budget"):
            check_budgets(bad)
    with pytest.raises(ValueError, match="lower z"):
        list(ladder_corpus(corpus(tmp_path).path, [0], RuleConfig(z=50), [], None, [], tmp_path / "out"))
