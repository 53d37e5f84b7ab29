"""Majority by hand; Dawid-Skene against crowd-kit's, then on planted functions."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from labeling.documents import Document
from labeling.events import value_of
from labeling.label_models import (
    AGGREGATORS,
    agreement,
    ballot_matrix,
    compare_corpus,
    fit,
    fit_to_train,
    majority,
    soft_labels,
    vote,
)
from labeling.rule import RuleConfig, is_forget, label
from tests.labeling.planted import ballots_of, disk_store


def test_a_majority_needs_more_forget_than_retain_votes():
    ballots = ballots_of([[1, 1, 0, 0, 1], [1, 0, 0, -1, -1], [1, 0, 0, -1, 0]], k=2)
    assert majority(ballots).tolist() == [True, True, False, False, False]
    assert vote(ballots).tolist() == [True, False, False, False, False]


def planted(n=20_000, seed=0):
    """(truth, votes (tok, fn)) of eight independent functions that speak at different rates on each side."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.15
    speaks = np.array(
        [[0.6, 0.02], [0.5, 0.05], [0.4, 0.01], [0.3, 0.04], [0.7, 0.1], [0.2, 0.005], [0.5, 0.2], [0.1, 0.1]]
    )
    return truth, speaks, rng.random((n, 8)) < np.where(truth[:, None], speaks[:, 0], speaks[:, 1])


def test_the_model_is_crowd_kits():
    """Silence is an answer: crowd-kit gets a row per token and function, here only the votes count."""
    pandas = pytest.importorskip("pandas")
    crowdkit = pytest.importorskip("crowdkit.aggregation", reason="crowd-kit is in the dev extra")
    _, _, fires = planted(1500)
    token, function = np.nonzero(np.ones_like(fires))
    answers = pandas.DataFrame({"task": token, "worker": function, "label": fires[token, function].astype(int)})
    theirs = crowdkit.DawidSkene(n_iter=12, tol=-np.inf).fit(answers)
    ours = ballot_matrix(ballots_of(fires.T.astype(np.int8)))
    model = value_of(fit(ours, fires.mean(1), iterations=12, tolerance=0))
    assert model.posterior(ours).max() > 0.9
    errors = theirs.errors_.to_dict()[1]
    assert model.on_forget[:8] == pytest.approx([errors[n, 1] for n in range(8)], abs=1e-9)
    assert model.prior == pytest.approx(theirs.priors_[1], abs=1e-9)
    one_more = value_of(fit(ours, fires.mean(1), iterations=11, tolerance=0))
    assert one_more.posterior(ours) == pytest.approx(theirs.probas_[1].sort_index().to_numpy(), abs=1e-9)


def test_silent_tokens_count_as_rows_of_nothing():
    _, _, fires = planted(3000)
    spoken = fires.any(1)
    start = fires.mean(1)
    every = value_of(fit(csr_array(np.hstack([fires, 0 * fires]).astype(float)), start, iterations=20, tolerance=0))
    only = csr_array(np.hstack([fires, 0 * fires])[spoken].astype(float))
    few = value_of(fit(only, start[spoken], int((~spoken).sum()), iterations=20, tolerance=0))
    assert few.on_forget == pytest.approx(every.on_forget, abs=1e-12)
    assert few.prior == pytest.approx(every.prior, abs=1e-12)


def test_planted_rates_are_recovered_without_gold():
    truth, speaks, fires = planted()
    votes = fires.T.astype(np.int8)
    model, p = value_of(fit_to_train(ballots_of(votes, lengths=[10_000, 10_000]), np.array([True, True])))
    assert model.on_forget[:8] == pytest.approx(speaks[:, 0], abs=0.04)
    assert model.on_retain[:8] == pytest.approx(speaks[:, 1], abs=0.01)
    assert model.prior == pytest.approx(0.15, abs=0.01)
    learned, counted = ((p >= 0.5) == truth).mean(), ((fires.sum(1) >= 2) == truth).mean()
    assert learned > 0.95 and learned > counted + 0.01  # the model knows whom to believe, a count does not


def test_a_retain_function_pulls_the_other_way():
    rng = np.random.default_rng(3)
    truth, _, fires = planted()
    retain = -(rng.random(len(truth)) < np.where(truth, 0.02, 0.5)).astype(np.int8)
    ballots = ballots_of(np.vstack([fires.T.astype(np.int8), retain]))
    model, p = value_of(fit_to_train(ballots, np.array([True])))
    assert model.on_retain[-1] == pytest.approx(0.5, abs=0.02) and model.on_forget[-1] < 0.06
    assert ((p >= 0.5) == truth).mean() > 0.95


def test_agreement_counts_who_says_forget():
    flags = {"vote": np.array([2, 0, 1, 3]), "majority": np.array([2, 2, 0, 0])}
    assert agreement(flags, np.array([True, True, True, False])) == {
        "": 0,
        "vote": 1,
        "majority": 1,
        "vote+majority": 1,
    }


def test_the_step_writes_each_aggregators_labels(tmp_path):
    rng = np.random.default_rng(4)
    acts = np.where(rng.random((400, 6)) < 0.15, rng.random((400, 6)) + 0.5, 0).astype(np.float16).astype(np.float32)
    store = disk_store(tmp_path / "store", acts, [200, 200], ["clinic", "sport"], ["train", "validation"])
    config = RuleConfig(k=2, z=1)
    gold = [
        Document("d1", "x " * 200, "sport", "retain", spans=[]),
        Document("other", "x", "sport", "retain", spans=[]),
    ]
    *_, made = compare_corpus(store.path, range(6), config, [], None, gold, tmp_path / "out", {"rule": 1})
    said = json.loads((made.path / "comparison.json").read_text())
    assert np.load(made.path / "vote.npy").tolist() == label(store, range(6), config).flags.tolist()
    assert sum(said["train"].values()) == 200  # validation tokens are labeled, not counted
    assert set(said["gold"]) == set(AGGREGATORS) and said["gold"]["vote"]["families"]["sport"]["fpr"] is not None
    assert [row["name"] for row in said["functions"]] == [f"latent {n}" for n in range(6)]
    assert np.load(made.path / "p.npy").shape == (400,)


def test_soft_labels_round_to_the_flags_and_spans_are_as_sure_as_their_surest_seed():
    p = np.array([0.9, 0.1, 0.7, 0.2, 0.3, 0.8, 0.95, 0.6], np.float16)
    flags = np.array([2, 1, 2, 0, 1, 2, 3, 0], np.uint8)  # the last a seed that was too short for a span
    soft = soft_labels(p, flags, np.array([0, 3, 8]))
    assert soft == pytest.approx([0.9, 0.9, 0.7, 0.2, 0.8, 0.8, 0, 0], abs=1e-3)
    assert (soft >= 0.5).tolist() == is_forget(flags).tolist()
    apart = soft_labels(np.array([0.9, 0.1, 0.6], np.float16), np.array([2, 1, 2], np.uint8), np.array([0, 1, 3]))
    assert apart == pytest.approx([0.9, 0.6, 0.6], abs=1e-3)  # a span ends with its document
    assert soft_labels(p[:2] * 0, flags[:2] * 0, np.array([0, 2])).tolist() == [0, 0]
