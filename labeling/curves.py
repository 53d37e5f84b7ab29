"""What follows from scores alone, whatever the threshold: areas, curves, calibration, and thresholds to choose.

`p` is P(forget) of each item (word or token), `y` whether it is forget. An item counts as forget if p >= threshold.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOW_FPR = 0.05  # partial AUROC looks no further: a filter that removes more than this of good text is not used
BETAS = {"f1": 1.0, "f2": 2.0}  # F2 counts recall four times as much
WAYS = (*BETAS, "fpr", "budget", "value")  # how a threshold can be chosen


def area(forget: Floats, retain: Floats, most: float = 1.0) -> Floats:
    """Area under the ROC curve up to a false-positive rate of `most`, ties half: 0.5 is chance, 1 perfect.

    Both are counts of items by ascending value of p, (boot, value). Scaled after McClish (1989), as
    scikit-learn's `max_fpr` is, so that areas for different `most` compare.
    """
    x, y = (_shares(counts) for counts in (retain, forget))  # (boot, value + 1), from the largest p down
    wide = np.diff(x)
    inside = (np.minimum(x[:, 1:], most) - np.minimum(x[:, :-1], most)) / np.where(wide > 0, wide, 1)
    strips = inside * wide * (y[:, :-1] + inside * np.diff(y) / 2)
    least = most**2 / 2
    out = 0.5 * (1 + (strips.sum(axis=1) - least) / (most - least))
    return np.where((forget.sum(axis=1) > 0) & (retain.sum(axis=1) > 0), out, np.nan)


def _shares(counts: Floats) -> Floats:
    total = counts.sum(axis=1, keepdims=True)
    up = np.cumsum(counts[:, ::-1], axis=1) / np.where(total > 0, total, 1)
    return np.concatenate((np.zeros((len(counts), 1)), up), axis=1)


def area_of(p: Floats, y: Bools, most: float = 1.0) -> Floats:
    """The area over all items, as one value in an array."""
    values, at = np.unique(p, return_inverse=True)
    forget, retain = (np.bincount(at, weight, len(values)).astype(np.float64)[None] for weight in (y, ~y))
    return area(forget, retain, most)


def areas_resampled(p: Floats, y: Bools, of: Ints, draws: Ints, most: float = 1.0, bins: int = 256) -> Floats:
    """The area of each resample of documents; p is cut into quantiles, so that many resamples are one product."""
    if not len(p):
        return np.array([])
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins), method="lower"))
    at = of * len(edges) + np.searchsorted(edges, p, side="right") - 1
    shape = draws.shape[1], len(edges)
    of_documents = (np.bincount(at, weight, shape[0] * shape[1]).reshape(shape) for weight in (y, ~y))
    forget, retain = (draws.astype(np.float64) @ items for items in of_documents)
    return area(forget, retain, most)


def _cuts(p: Floats, y: Bools) -> tuple[Floats, Ints, Ints]:
    """(values, hits, flagged): for each distinct p from the largest down, what p >= value catches."""
    p, y = np.asarray(p, dtype=np.float64), np.asarray(y, dtype=bool)
    if not y.any():
        raise ValueError(f"none of the {len(y):,} items is forget, so no threshold is better than another")
    order = np.argsort(-p, kind="stable")
    p, y = p[order], y[order]
    last = np.flatnonzero(np.concatenate((p[1:] != p[:-1], [True])))
    return p[last], np.cumsum(y, dtype=np.int64)[last], last.astype(np.int64) + 1


def pr_curve(p: Floats, y: Bools, points: int = 200) -> list[tuple[float, float, float]]:
    """(threshold, precision, recall) of at most `points` thresholds."""
    values, hits, flagged = _cuts(p, y)
    kept = _spread(len(values), points)
    return [(float(values[i]), float(hits[i] / flagged[i]), float(hits[i] / hits[-1])) for i in kept]


def roc_curve(p: Floats, y: Bools, points: int = 200) -> list[tuple[float, float, float]]:
    """(threshold, false-positive rate, recall) of at most `points` thresholds; empty without retain items."""
    values, hits, flagged = _cuts(p, y)
    wrong = flagged - hits
    if not wrong[-1]:
        return []
    # Half of the points by rank, half by false-positive rate on a log scale, which is where filters live.
    low = np.searchsorted(wrong, np.geomspace(1, wrong[-1], points // 2))
    kept = np.union1d(_spread(len(values), points // 2), np.minimum(low, len(values) - 1))
    return [(float(values[i]), float(wrong[i] / wrong[-1]), float(hits[i] / hits[-1])) for i in kept]


def _spread(length: int, points: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, length - 1, min(points, length)).round().astype(np.intp))


def best_threshold(p: Floats, y: Bools, beta: float = 1.0) -> float:
    """The threshold with the most F1, or F-beta."""
    values, hits, flagged = _cuts(p, y)
    return _below(values, int(np.argmax((1 + beta**2) * hits / (flagged + beta**2 * hits[-1]))))


def threshold_for_fpr(p: Floats, y: Bools, cap: float) -> float:
    """The lowest threshold that flags at most `cap` of the retain items."""
    values, hits, flagged = _cuts(p, y)
    return _last_within(values, flagged - hits, cap * float((~np.asarray(y, bool)).sum()))


def threshold_for_budget(p: Floats, y: Bools, budget: float) -> float:
    """The lowest threshold that flags at most `budget` of all items."""
    values, _, flagged = _cuts(p, y)
    return _last_within(values, flagged, budget * len(p))


def _last_within(values: Floats, counts: Ints, most: float) -> float:
    within = int(np.searchsorted(counts, most + 1e-9, side="right")) - 1
    if within < 0:  # even the largest p alone is too much: flag nothing
        return float(np.nextafter(values[0], np.inf))
    return _below(values, within)


def _below(values: Floats, at: int) -> float:
    """Halfway from values[at] to the next smaller p, so that rounding flips nothing."""
    return float((values[at] + (values[at + 1] if at + 1 < len(values) else 0.0)) / 2)


def check_choice(by: str, value: float | None) -> None:
    """Raises ValueError if a threshold cannot be chosen so."""
    if by not in WAYS:
        raise ValueError(f"a threshold is chosen by {', '.join(WAYS)}, not {by!r}")
    if by not in BETAS and (value is None or not 0 < value < 1):
        raise ValueError(f"give a share between 0 and 1 to choose a threshold by {by}, not {value}")


def choose_threshold(p: Floats, y: Bools, by: str, value: float | None = None) -> float:
    """A threshold by the most F1 or F2, a cap on the false-positive rate, a budget, or as given. Raises ValueError."""
    check_choice(by, value)
    if by in BETAS or value is None:
        return best_threshold(p, y, BETAS.get(by, 1.0))
    return value if by == "value" else {"fpr": threshold_for_fpr, "budget": threshold_for_budget}[by](p, y, value)


def calibration(p: Floats, y: Bools, bins: int = 10) -> dict[str, Any]:
    """How far p can be taken as a probability: per tenth of p its mean, the share that is forget, and the items.

    `ece` is the mean distance between the two, weighted by items; `brier` the mean squared error of p.
    """
    p, y = np.asarray(p, np.float64), np.asarray(y, bool)
    if not len(p):
        return {"ece": None, "brier": None, "bins": []}
    at = np.minimum((p * bins).astype(int), bins - 1)
    items = np.bincount(at, minlength=bins)
    mean = np.bincount(at, p, bins) / np.maximum(items, 1)
    share = np.bincount(at, y, bins) / np.maximum(items, 1)
    return {
        "ece": float((np.abs(mean - share) * items).sum() / len(p)),
        "brier": float(((p - y) ** 2).mean()),
        "bins": [[float(mean[i]), float(share[i]), int(items[i])] for i in range(bins) if items[i]],
    }
