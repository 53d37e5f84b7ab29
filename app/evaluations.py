"""Evaluation results as pages show them: a stored JSON table in, rows and curves out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]
SETS = {
    "sealed": "against the gold labels of the sealed documents, revealed once",
    "gold": "against gold labels",
    "test": "against weak labels of the test split",
    "validation": "against weak labels of the validation split; the threshold was chosen here",
}
FIGURES = {
    "f1": "F1", "precision": "Precision", "recall": "Recall", "f2": "F2", "auroc": "AUROC",
    "pauroc": "AUROC, FPR ≤ 5%", "fpr": "False positives",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One number with its 95% interval, documents resampled."""

    key: str
    label: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FamilyRow:
    """One family of the evaluated documents; `fpr` on its retain words, `recall` on its forget words."""

    name: str
    side: str | None
    documents: int
    words: int
    fpr: float | None
    fpr_interval: Point | None
    recall: float | None


@dataclass(frozen=True)
class Evaluation:
    """One table: what it was measured against, its figures, families, and curves (empty if not stored)."""

    name: str
    text: str
    documents: int
    words: int
    forget_words: int
    figures: list[Figure]
    families: list[FamilyRow]
    pr: list[Point]
    roc: list[Point]
    at: Point | None  # (recall, precision) at the classifier's threshold
    at_roc: Point | None  # (false-positive rate, recall) there
    reliability: list[Point]  # (mean p, share that is forget) per tenth of p
    ece: float | None  # expected calibration error

    def __getitem__(self, key: str) -> Figure:
        return next(figure for figure in self.figures if figure.key == key)

    @property
    def worst_fpr(self) -> float:
        """Over the retain families: elsewhere a retain word is the odd one out, and few are at stake."""
        rates = (row.fpr for row in self.families if row.fpr is not None and row.side in ("retain", None))
        return max(rates, default=0.0)


def evaluations(info: dict[str, Any], details: Mapping[str, Any] | None = None) -> list[Evaluation]:
    """The stored tables of a classifier, gold first."""
    more = details or {}
    found = ((name, text, info.get(name)) for name, text in SETS.items())
    return [
        _evaluation(name, text, table, more.get(name, {})) for name, text, table in found if isinstance(table, dict)
    ]


def _evaluation(name: str, text: str, table: dict[str, Any], details: Mapping[str, Any]) -> Evaluation:
    intervals = table.get("intervals") or {}
    figures = [Figure(k, label, table.get(k), *(intervals.get(k) or (None, None))) for k, label in FIGURES.items()]
    curve = [(float(t), float(p), float(r)) for t, p, r in table.get("pr_curve") or []]
    words, forget = int(table.get("words") or 0), int(table.get("forget_words") or 0)
    precision, recall, fpr = (table.get(key) for key in ("precision", "recall", "fpr"))
    calibration = details.get("calibration") or {}
    roc = [(float(x), float(y)) for _, x, y in details.get("roc_curve") or []]
    return Evaluation(
        name, text, int(table.get("documents") or 0), words, forget, figures,
        [_family(key, row) for key, row in sorted((table.get("families") or {}).items(), key=_worst_first)],
        pr=sorted((r, p) for _, p, r in curve), roc=[(0.0, 0.0), *roc] if roc else roc_of(curve, words, forget),
        at=(recall, precision) if precision is not None and recall is not None else None,
        at_roc=(fpr, recall) if fpr is not None and recall is not None else None,
        reliability=[(mean, share) for mean, share, _ in calibration.get("bins") or []], ece=calibration.get("ece"),
    )  # fmt: skip


def _worst_first(item: tuple[str, dict[str, Any]]) -> tuple[bool, float, str]:
    """Retain families first."""
    return item[1].get("side") not in ("retain", None), -(item[1].get("fpr") or 0.0), item[0]


def _family(name: str, row: dict[str, Any]) -> FamilyRow:
    interval = (row.get("intervals") or {}).get("fpr")
    return FamilyRow(
        name, row.get("side"), int(row.get("documents") or 0), int(row.get("words") or 0), row.get("fpr"),
        (interval[0], interval[1]) if interval else None, row.get("recall"),
    )  # fmt: skip


def roc_of(curve: list[tuple[float, float, float]], words: int, forget: int) -> list[Point]:
    """(false-positive rate, recall) from (threshold, precision, recall): precision = hits / flagged."""
    retain = words - forget
    if not curve or retain <= 0:
        return []
    points = [(r * forget * (1 / p - 1) / retain, r) for _, p, r in curve if p > 0]
    return [(0.0, 0.0), *sorted(points), (1.0, 1.0)]
