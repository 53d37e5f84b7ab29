"""What is kept of an evaluation beside its figures: curves, calibration, the worst errors, counts per document.

Too much for a table's column, so it is a file among the artifacts, one per classifier, written anew by each
evaluation. Without one (made by an earlier version) a page shows the figures alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from app.settings import Settings
from labeling.artifacts import write_json
from labeling.curves import Ints
from labeling.evaluate import Interval, paired

COMPARED = {"f1": "F1", "precision": "Precision", "recall": "Recall", "f2": "F2", "fpr": "False positives"}


def _path(settings: Settings, classifier_id: int) -> Path:
    return settings.artifacts_dir / f"evaluation-{classifier_id}.json"


def write(settings: Settings, classifier_id: int, details: Mapping[str, Any]) -> None:
    settings.artifacts_dir.mkdir(parents=True, exist_ok=True)
    write_json(_path(settings, classifier_id), details)


def details_of(settings: Settings, classifier_id: int) -> dict[str, Any]:
    """Set name -> `Scores.details()`; empty if there is none."""
    path = _path(settings, classifier_id)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return {}


@lru_cache(maxsize=16)
def _read(path: Path, time: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Counts:
    """Words per document, as `labeling.evaluate.paired` wants them."""

    ids: list[str]
    counts: Ints


@dataclass(frozen=True)
class Difference:
    """A figure of one classifier minus that of another, on the same labels."""

    label: str
    value: float | None
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the documents of one set whose labels are the same for both."""

    name: str
    documents: int
    left_out: int
    differences: list[Difference]


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Comparison]:
    """One comparison per set that both were evaluated on. Documents whose labels changed between are left out."""
    out = []
    for name in ("gold", "test", "validation"):
        mine, theirs = (d.get(name, {}).get("per_document") or {} for d in (a, b))
        same = sorted(key for key in mine.keys() & theirs.keys() if _labels(mine[key]) == _labels(theirs[key]))
        if same:
            left, right = (Counts(same, np.array([d[key] for key in same], np.int64)) for d in (mine, theirs))
            found = [Difference(label, *paired(left, right, key)) for key, label in COMPARED.items()]
            out.append(Comparison(name, len(same), len(mine.keys() | theirs.keys()) - len(same), found))
    return out


def _labels(counts: list[int]) -> tuple[int, int]:
    """(forget, retain) words of a document, from (TP, FP, FN, TN)."""
    return counts[0] + counts[2], counts[1] + counts[3]
