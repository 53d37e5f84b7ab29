"""The baselines beside a classifier, as pages and tables show them: stored figures in, rows out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.evaluations import Evaluation, Point

BASELINES = {
    "rule": ("The rule itself", "the labels the classifier learned from"),
    "terms": ("Terms", "each word alone, by how often it was forget in training"),
    "tfidf": ("TF-IDF + logistic regression", "a sentence's words and word pairs"),
    "document-probe": ("Document-label probe", "every token given its document's label"),
    "document": ("Document classifier", "the mean of a document's states; a whole document goes or stays"),
}


@dataclass(frozen=True)
class Compared:
    """One system's row; `text` says what it is. Figures are None where a set cannot judge it."""

    name: str
    text: str
    f1: float | None
    f1_interval: Point | None
    precision: float | None
    recall: float | None
    auroc: float | None
    fpr: float | None
    worst_fpr: float | None  # over the retain families


def compared(table: Evaluation, info: dict[str, Any]) -> list[Compared]:
    """The classifier's own row, then each baseline that was scored on the same documents."""
    stored = info.get("baselines") or {}
    rows = [
        (name, text, stored[key][table.name])
        for key, (name, text) in BASELINES.items()
        if table.name in stored.get(key, {})
    ]
    if not rows:
        return []
    return [_row("This classifier", "", info[table.name]), *(_row(*row) for row in rows)]


def _row(name: str, text: str, figures: dict[str, Any]) -> Compared:
    interval = (figures.get("intervals") or {}).get("f1")
    return Compared(
        name, text, figures.get("f1"), (interval[0], interval[1]) if interval else None,
        figures.get("precision"), figures.get("recall"), figures.get("auroc"), figures.get("fpr"),
        max(_retain_fprs(figures), default=None),
    )  # fmt: skip


def _retain_fprs(figures: dict[str, Any]) -> Iterator[float]:
    for family in (figures.get("families") or {}).values():
        if family.get("side") == "retain" and family.get("fpr") is not None:
            yield family["fpr"]
