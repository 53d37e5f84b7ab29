"""The Snorkel figures by hand, then against dense matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.analysis import Votes, analyse, gold_tokens, reports
from labeling.functions import Family, Terms
from labeling.rule import RuleConfig
from tests.labeling.planted import MemoryStore


def votes(name, row):
    """A function's votes from a row like [1, 0, -1]."""
    row = np.array(row, dtype=np.int8)
    return Votes(name, "latent", np.flatnonzero(row), row[row != 0])


def test_figures_by_hand():
    a, b, c = reports(
        [votes("a", [1, 1, 1, 0, 0]), votes("b", [0, 1, 1, 1, 0]), votes("c", [0, 0, -1, 0, -1])],
        5,
        gold=np.array([1, 0, 1, -1, 0], dtype=np.int8),
    )
    assert (a.coverage, a.overlap, a.conflict) == (3 / 5, 2 / 5, 1 / 5)
    assert (b.coverage, b.overlap, b.conflict) == (3 / 5, 2 / 5, 1 / 5)
    assert (c.coverage, c.overlap, c.conflict) == (2 / 5, 1 / 5, 1 / 5)
    assert (a.judged, a.precision) == (3, pytest.approx(2 / 3))
    assert (b.judged, b.precision) == (2, pytest.approx(1 / 2))  # its third vote has no gold
    assert (c.judged, c.precision) == (2, pytest.approx(1 / 2))
    assert (a.redundant_with, a.redundancy) == ("b", pytest.approx(2 / 4))
    assert (c.redundant_with, c.redundancy) == (None, 0)


def test_without_gold_there_is_no_precision():
    (only,) = reports([votes("a", [1, 0])], 2)
    assert (only.judged, only.precision, only.redundant_with) == (0, None, None)


def test_a_planted_copy_is_found():
    rng = np.random.default_rng(0)
    rows = (rng.random((6, 4000)) < 0.05).astype(np.int8)
    rows[5] = rows[2]
    rows[5, :50] = 0
    found = reports([votes(str(n), row) for n, row in enumerate(rows)], 4000)
    assert found[2].redundant_with == "5"
    assert found[5].redundant_with == "2"
    assert found[2].redundancy > 0.9
    assert max(found[n].redundancy for n in (0, 1, 3, 4)) < 0.1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10_000))
def test_postings_agree_with_the_dense_matrix(n_functions, n_tokens, seed):
    dense = np.random.default_rng(seed).choice([-1, 0, 0, 1], size=(n_functions, n_tokens)).astype(np.int8)
    found = reports([votes(str(n), row) for n, row in enumerate(dense)], n_tokens)
    for n, (mine, report) in enumerate(zip(dense, found, strict=True)):
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


def test_latents_and_other_functions_stand_side_by_side():
    acts = np.array([[9, 0], [0, 0], [0, 0], [0, 9]], dtype=np.float32)
    store = MemoryStore(acts, [3, 1], ["clinic", "sport"])
    functions = [Terms(terms=["a", "b"]), Family(family="sport", votes="retain")]
    text = {"d0": "a b c", "d1": "d"}.__getitem__
    gold = gold_tokens(store, {"d0": ([(0, 1)], [(4, 5)])})
    assert gold.tolist() == [1, 0, -1, -1]
    found = analyse(store, [0, 1], RuleConfig(z=1), functions, text, gold)
    assert [r.name for r in found] == ["latent 0", "latent 1", "terms a, b", "family sport"]
    assert [r.coverage for r in found] == [0.25, 0.25, 0.5, 0.25]
    assert [r.conflict for r in found] == [0, 0.25, 0, 0.25]
    assert [r.precision for r in found] == [1, None, 0.5, None]
    assert (found[0].redundant_with, found[0].redundancy) == ("terms a, b", 0.5)
