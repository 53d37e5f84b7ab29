"""Curves and thresholds by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from labeling.curves import (
    area_of,
    best_threshold,
    calibration,
    choose_threshold,
    pr_curve,
    roc_curve,
    threshold_for_budget,
    threshold_for_fpr,
)

P = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1])
Y = np.array([True, False, True, False, True, False])


def noisy(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.3
    return np.round(np.clip(y * 0.3 + rng.random(n) * 0.7, 0, 1), 2), y


@pytest.mark.parametrize("most", [0.02, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_areas_agree_with_scikit_learn(seed: int, most: float) -> None:
    p, y = noisy(seed)
    assert area_of(p, y, most)[0] == pytest.approx(metrics.roc_auc_score(y, p, max_fpr=None if most == 1 else most))


def test_an_area_without_both_kinds_is_unknown() -> None:
    assert np.isnan(area_of(P, np.zeros(6, bool))[0]) and np.isnan(area_of(P, np.ones(6, bool), 0.05)[0])


def test_the_roc_curve_holds_its_true_points_and_the_low_end() -> None:
    p, y = noisy(0, 2000)
    fpr, recall, thresholds = metrics.roc_curve(y, p, drop_intermediate=False)
    true = {round(t, 6): (f, r) for t, f, r in zip(thresholds, fpr, recall, strict=True)}
    found = roc_curve(p, y, points=40)
    assert all(true[round(t, 6)] == pytest.approx((f, r)) for t, f, r in found)
    assert len(found) <= 40 and found[-1][1:] == (1, 1) and sum(f < 0.05 for _, f, _ in found) >= 8
    assert roc_curve(P, np.ones(6, bool)) == []


def test_a_cap_on_false_positives_is_used_and_kept() -> None:
    assert threshold_for_fpr(P, Y, 1 / 3) == pytest.approx(0.65)  # flags 0.9, 0.8, 0.7: one of three retain items
    assert threshold_for_fpr(P, Y, 0.1) == pytest.approx(0.85)  # none may be flagged
    assert threshold_for_fpr(-np.sort(-P), ~Y, 0.1) > 0.9  # the surest item is retain: flag nothing


def test_a_budget_is_used_and_kept() -> None:
    assert threshold_for_budget(P, Y, 0.5) == pytest.approx(0.65)
    assert threshold_for_budget(P, Y, 0.1) > 0.9
    tied = np.array([0.5, 0.5, 0.1])
    assert threshold_for_budget(tied, np.array([True, False, False]), 0.5) > 0.5  # ties go together


@given(st.integers(0, 1000), st.floats(0.001, 0.999))
@settings(max_examples=40, deadline=None)
def test_no_lower_threshold_keeps_the_cap(seed: int, cap: float) -> None:
    p, y = noisy(seed, 60)
    if not y.any() or y.all():
        return
    for found, counted in ((threshold_for_fpr(p, y, cap), ~y), (threshold_for_budget(p, y, cap), np.ones(60, bool))):
        assert (counted & (p >= found)).sum() <= cap * counted.sum() + 1e-9
        below = p[p < found]
        if len(below):
            assert (counted & (p >= below.max())).sum() > cap * counted.sum()


def test_a_threshold_is_chosen_as_asked() -> None:
    assert choose_threshold(P, Y, "f1") == best_threshold(P, Y)
    assert choose_threshold(P, Y, "f2") == best_threshold(P, Y, 2) <= best_threshold(P, Y)
    assert choose_threshold(P, Y, "budget", 0.5) == threshold_for_budget(P, Y, 0.5)
    assert choose_threshold(P, Y, "fpr", 0.5) == threshold_for_fpr(P, Y, 0.5)
    assert choose_threshold(P, Y, "value", 0.3) == 0.3
    for by, value in (("magic", 0.1), ("fpr", None), ("budget", 1.0), ("value", 0.0), ("value", float("nan"))):
        with pytest.raises(ValueError, match="threshold"):
            choose_threshold(P, Y, by, value)


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.1, 0.1, 0.9, 1.0]), np.array([False, True, True, True]))
    assert found["bins"] == [[pytest.approx(0.1), 0.5, 2], [pytest.approx(0.95), 1.0, 2]]
    assert found["ece"] == pytest.approx((0.4 * 2 + 0.05 * 2) / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.81 + 0.01) / 4)
    assert calibration(np.zeros(0), np.zeros(0, bool))["ece"] is None


def test_a_calibrated_score_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert calibration(p, y)["ece"] < 0.02 < calibration(p**3, y)["ece"]


def test_the_best_threshold_lies_between_what_it_parts():
    p, y = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, False, False])
    assert best_threshold(p, y) == pytest.approx(0.55)
    assert best_threshold(np.array([0.5, 0.5]), np.array([True, False])) == 0.25
    with pytest.raises(ValueError, match="none of the 2 items is forget"):
        best_threshold(np.array([0.5, 0.5]), np.array([False, False]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_beats_the_best_one(items):
    p, y = np.array([p for p, _ in items]), np.array([y for _, y in items])
    if y.any():
        for beta in (1, 2):
            best = metrics.fbeta_score(y, p >= best_threshold(p, y, beta), beta=beta)
            tried = (metrics.fbeta_score(y, p >= t, beta=beta) for t in np.linspace(0, 1.1, 23))
            assert best == pytest.approx(max(tried))


def test_the_curve_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.random(300) < 0.3
    p = np.round(np.clip(y * 0.3 + rng.random(300) * 0.7, 0, 1), 2)
    precision, recall, thresholds = metrics.precision_recall_curve(y, p)
    ours = np.array(pr_curve(p, y, points=1000))[::-1]
    np.testing.assert_allclose(ours, np.column_stack([thresholds, precision[:-1], recall[:-1]]))
    assert len(pr_curve(p, y, points=10)) == 10
    assert pr_curve(p, y, points=10)[-1][2] == 1
