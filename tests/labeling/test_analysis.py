"""The Snorkel figures by hand, then against dense matrices, then against Snorkel itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.analysis import analyse, analyse_corpus, by_family, gold_tokens, with_gold
from labeling.ballots import collect
from labeling.events import value_of
from labeling.functions import Family, Terms
from labeling.rule import RuleConfig, label
from tests.labeling.planted import MemoryStore, ballots_of, disk_store

SNORKEL = Path(__file__).parents[2] / ".snorkel"


def analysed(ballots, gold=None):
    found = value_of(analyse(ballots))
    return found if gold is None else value_of(with_gold(found, ballots, gold))


def reports(rows, gold=None, **config):
    return analysed(ballots_of(rows, **config), gold).reports


def test_figures_by_hand():
    rows = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, -1, 0, -1]]
    found = analysed(ballots_of(rows, k=1), np.array([1, 0, 1, -1, 0], dtype=np.int8))
    a, b, c = found.reports
    assert (a.side, a.coverage, a.overlap, a.conflict) == ("forget", 3 / 5, 2 / 5, 1 / 5)
    assert (b.side, b.coverage, b.overlap, b.conflict) == ("forget", 3 / 5, 2 / 5, 1 / 5)
    assert (c.side, c.coverage, c.overlap, c.conflict) == ("retain", 2 / 5, 1 / 5, 1 / 5)
    assert (a.judged, a.correct, a.precision, a.recall) == (3, 2, pytest.approx(2 / 3), 1)  # both forget tokens
    assert (b.judged, b.correct, b.precision, b.recall) == (2, 1, 1 / 2, 1 / 2)  # its third vote has no gold
    assert (c.judged, c.correct, c.precision, c.recall) == (2, 1, 1 / 2, 1 / 2)  # of the retain tokens
    assert (a.redundant_with, a.redundancy, a.group) == ("b", pytest.approx(2 / 4), 1)
    assert (c.redundant_with, c.redundancy, c.group) == (None, 0, None)
    assert (found.summary.coverage, found.summary.overlap, found.summary.conflict) == (1, 2 / 5, 1 / 5)
    assert found.summary.histogram[:4] == (0, 3, 1, 1)
    # Votes 1, 2, 1, 1, -1 at k=1: all but the last are forget. Gold says 1, 0, 1 of tokens 0 to 2, and 0 of 4.
    assert (found.summary.forget, found.summary.f1) == (4, pytest.approx(2 * 2 / (2 * 2 + 1)))


def test_leaving_one_out_by_hand():
    rows = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, -1, -1]]
    a, b, c = reports(rows, gold=np.array([1, 1, 0, 0], dtype=np.int8), k=1)
    assert (a.lost, a.gained, a.f1_without) == (1, 0, pytest.approx(2 / 3 - 1))  # token 0 goes; 1 stays by b
    assert (b.lost, b.gained, b.f1_without) == (0, 0, 0)  # token 2 is held back by c anyway
    assert (c.lost, c.gained, c.f1_without) == (0, 1, pytest.approx(4 / 5 - 1))  # token 2 comes in


def test_leaving_a_veto_out_brings_its_tokens_back():
    rows = [[1, 1, 0], [0, -1, -1]]
    _, veto = reports(rows, k=1, vetoes=(1,))
    assert (veto.lost, veto.gained) == (0, 1)


def test_without_gold_there_is_no_precision():
    (only,) = reports([[1, 0]])
    assert (only.judged, only.precision, only.recall, only.redundant_with, only.f1_without) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_planted_copies_are_one_group():
    rng = np.random.default_rng(0)
    rows = (rng.random((6, 4000)) < 0.05).astype(np.int8)
    rows[5] = rows[2]
    rows[5, :50] = 0
    found = reports(rows)
    assert (found[2].redundant_with, found[5].redundant_with) == ("f", "c")
    assert found[2].redundancy > 0.9
    assert [r.group for r in found] == [None, None, 1, None, None, 1]
    assert max(found[n].redundancy for n in (0, 1, 3, 4)) < 0.1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10_000))
def test_sparse_votes_agree_with_the_dense_matrix(n_functions, n_tokens, seed):
    rng = np.random.default_rng(seed)
    dense = rng.choice([-1, 0, 0, 1], size=(n_functions, n_tokens)).astype(np.int8)
    gold = rng.choice([-1, 0, 1], size=n_tokens).astype(np.int8)
    k = int(rng.integers(1, 3))
    for n, (mine, report) in enumerate(zip(dense, reports(dense, gold, k=k), strict=True)):
        others = np.delete(dense, n, axis=0)
        assert report.coverage == pytest.approx(np.mean(mine != 0))
        assert report.overlap == pytest.approx(np.mean((mine != 0) & (others != 0).any(axis=0)))
        assert report.conflict == pytest.approx(np.mean((mine != 0) & (others == -mine).any(axis=0)))
        alike = [
            ((mine == o) & (mine != 0)).sum()
            / max(1, ((mine != 0).sum() + (o != 0).sum() - ((mine == o) & (mine != 0)).sum()))
            for o in others
        ]
        assert report.redundancy == pytest.approx(max(alike, default=0))
        before, after = dense.sum(0, dtype=int) >= k, others.sum(0, dtype=int) >= k
        assert (report.lost, report.gained) == ((before & ~after).sum(), (after & ~before).sum())


def snorkel_says(matrix, gold):
    """LFAnalysis of the same votes by Snorkel in a process of its own, or a skip that says how to get it.

    Snorkel writes forget 1, retain 0 and abstain -1, and has a row per token.
    """
    if not SNORKEL.is_dir():
        pytest.skip("Snorkel is not installed; `make snorkel` puts it into a folder of its own")
    script = (
        "import json, sys, numpy as np; from snorkel.labeling import LFAnalysis\n"
        "L, Y = (np.array(x) for x in json.load(sys.stdin)); a = LFAnalysis(L); s = a.lf_summary(Y)\n"
        "print(json.dumps({'polarity': [[int(v) for v in p] for p in s['Polarity']],"
        " **{c: s[c].tolist() for c in ('Coverage', 'Overlaps', 'Conflicts', 'Correct', 'Incorrect', 'Emp. Acc.')},"
        " 'all': [a.label_coverage(), a.label_overlap(), a.label_conflict()]}))"
    )
    theirs = np.where(matrix > 0, 1, np.where(matrix < 0, 0, -1)).T
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True, timeout=300,
        input=json.dumps([theirs.tolist(), gold.tolist()]), env=os.environ | {"PYTHONPATH": str(SNORKEL)},
    )  # fmt: skip
    return json.loads(done.stdout)


def agrees(matrix, gold, snorkel):
    found = analysed(ballots_of(matrix), gold.astype(np.int8))
    sides = {"forget": [1], "retain": [0], "both": [0, 1], "none": []}
    assert [sides[r.side] for r in found.reports] == snorkel["polarity"]
    assert [r.coverage for r in found.reports] == pytest.approx(snorkel["Coverage"])
    assert [r.overlap for r in found.reports] == pytest.approx(snorkel["Overlaps"])
    assert [r.conflict for r in found.reports] == pytest.approx(snorkel["Conflicts"])
    assert [r.correct for r in found.reports] == snorkel["Correct"]
    assert [r.judged - r.correct for r in found.reports] == snorkel["Incorrect"]
    assert [r.precision or 0 for r in found.reports] == pytest.approx(snorkel["Emp. Acc."])
    s = found.summary
    assert [s.coverage, s.overlap, s.conflict] == pytest.approx(snorkel["all"])


def matrix_of(seed):
    """20 functions of every polarity on 500 tokens, with gold for all."""
    rng = np.random.default_rng(seed)
    votes = rng.choice([-1, 0, 0, 0, 1], size=(20, 500))
    votes[:8] = np.abs(votes[:8])
    votes[8:12] = -np.abs(votes[8:12])
    return votes, rng.integers(0, 2, 500)


def test_analysis_equals_what_snorkel_said_of_a_stored_matrix():
    """`snorkel_lfanalysis.json` is LFAnalysis.lf_summary of Snorkel 0.10.0 on `matrix_of(0)`."""
    agrees(*matrix_of(0), json.loads((Path(__file__).parent / "snorkel_lfanalysis.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_analysis_equals_snorkel(seed):
    matrix, gold = matrix_of(seed)
    agrees(matrix, gold, snorkel_says(matrix, gold))


def test_planted_functions_are_recovered():
    """Accuracies known by construction come out as precision and recall, to sampling error."""
    rng = np.random.default_rng(1)
    truth = rng.random(60_000) < 0.2
    planted = [(0.9, 0.30), (0.7, 0.60), (0.5, 0.05), (0.97, 0.10)]  # precision, recall
    rows = []
    for precision, recall in planted:
        false = 0.2 * recall * (1 - precision) / precision / 0.8  # P(votes | retain)
        rows.append(rng.random(60_000) < np.where(truth, recall, false))
    for found, (precision, recall) in zip(
        reports(np.array(rows, np.int8), truth.astype(np.int8)), planted, strict=True
    ):
        assert found.precision == pytest.approx(precision, abs=0.03)
        assert found.recall == pytest.approx(recall, abs=0.02)


def test_families_are_counted_apart():
    found = by_family(ballots_of([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], lengths=[2, 1, 2]), np.array([0, 1, 1]))
    assert found.tolist() == [[1, pytest.approx(1 / 3)], [0, 0]]


def test_latents_and_other_functions_stand_side_by_side():
    acts = np.array([[9, 0], [0, 0], [0, 0], [0, 9]], dtype=np.float32)
    store = MemoryStore(acts, [3, 1], ["clinic", "sport"])
    functions = [Terms(terms=["a", "b"]), Family(family="sport", votes="retain")]
    text = {"d0": "a b c", "d1": "d"}.__getitem__
    gold = gold_tokens(store, {"d0": ([(0, 1)], [(4, 5)])})
    assert gold.tolist() == [1, 0, -1, -1]
    ballots = collect(store, [0, 1], RuleConfig(z=1), functions, text)
    found = analysed(ballots, gold).reports
    assert [r.name for r in found] == ["latent 0", "latent 1", "terms a, b", "family sport"]
    assert [r.coverage for r in found] == [0.25, 0.25, 0.5, 0.25]
    assert [r.conflict for r in found] == [0, 0.25, 0, 0.25]
    assert [r.precision for r in found] == [1, None, 0.5, None]
    assert (found[0].redundant_with, found[0].redundancy) == ("terms a, b", 0.5)


def test_the_sum_of_the_ballots_is_the_rule():
    rng = np.random.default_rng(2)
    acts = np.where(rng.random((300, 5)) < 0.2, rng.random((300, 5)) * 4, 0).astype(np.float32)
    store = MemoryStore(acts, [100] * 3, ["clinic", "sport", "clinic"])
    functions = [Family(family="sport", votes="retain", veto=True), Family(family="clinic", weight=2)]
    for boundary, window in (("grow_positive", 0), ("grow_above", 0), ("seeds", 0), ("seeds", 3)):
        config = RuleConfig(k=3, z=1, boundary=boundary, grow_above=0.5, close_gap=1, min_tokens=2, window=window)
        ballots = collect(store, range(5), config, functions)
        expected = label(store, range(5), config, functions).flags.tolist()
        assert ballots.grow(ballots.seeds()).tolist() == expected
        for number in range(7):  # leaving one out is labeling without it
            left = [n for n in range(5) if n != number]
            others = [f for i, f in enumerate(functions) if i + 5 != number]
            without = label(store, left, config, others).forget
            report = value_of(analyse(ballots)).reports[number]
            was = label(store, range(5), config, functions).forget
            assert (report.lost, report.gained) == ((was & ~without).sum(), (without & ~was).sum())


def test_the_step_writes_reports_over_train_documents(tmp_path):
    acts = np.array([[3, 0], [3, 3], [0, 0], [3, 3]], dtype=np.float32)
    store = disk_store(tmp_path / "store", acts, [3, 1], ["clinic", "sport"], ["train", "test"])
    gold = {"d0": ([(0, 3)], []), "d1": ([], [])}
    *_, made = analyse_corpus(store.path, [0, 1], RuleConfig(k=1, z=0), [], None, gold, tmp_path / "out", {"rule": 3})
    said = json.loads((made.path / "analysis.json").read_text())
    assert (made.kind, made.info["rule"], said["families"], said["summary"]["tokens"]) == ("analysis", 3, ["clinic"], 3)
    assert [r["name"] for r in said["reports"]] == ["latent 0", "latent 1"]
    assert said["reports"][0]["judged"] == 3  # figures on gold are over annotated documents, whichever their split
    assert (said["summary"]["gold_tokens"], said["summary"]["forget"]) == (4, 2)
    assert np.load(made.path / "alike.npy").shape == (2, 2)
