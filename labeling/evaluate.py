"""Scores of predictions against gold spans, per word, so that tokenizers compare (DESIGN, Formats).

A word (`\\w+`) is forget if its first character lies in a span; a word whose first character lies
in an `ignore` range is not scored. F1 alone misleads: with 19 retain documents per forget one, a
10% false-positive rate is a precision of 0.31 (METHOD, traps). So the false-positive rate stands
beside it, per family, and intervals resample whole documents, since a document's words are alike.
Curves, thresholds and calibration are in `curves.py`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from labeling.curves import LOW_FPR, Bools, Floats, Ints, area_of, areas_resampled, calibration, pr_curve, roc_curve
from labeling.documents import Document, check_spans, check_text, open_lines, parse_json
from labeling.tokens import Spans, merge, words

TP, FP, FN, TN = range(4)
Interval = tuple[float, float] | None  # 95%, documents resampled
LISTED = 60  # errors of each kind that a table keeps to look at
PER_DOCUMENT = 3  # of them from one document at most, so that one bad document does not fill the list


@dataclass(frozen=True)
class FamilyScores:
    """One family's part of the words. `fpr` is None without retain words, `recall` without forget words."""

    side: str | None
    documents: int
    words: int
    forget_words: int
    fpr: float | None
    recall: float | None
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Scores:
    """The evaluation table. A figure with an empty denominator is None, never 0."""

    precision: float | None
    recall: float | None
    f1: float | None
    f2: float | None
    auroc: float | None
    pauroc: float | None  # the part of it below a false-positive rate of LOW_FPR, on the same scale
    fpr: float | None
    documents: int
    words: int
    forget_words: int
    intervals: dict[str, Interval]
    families: dict[str, FamilyScores]
    ids: list[str] = field(repr=False)
    counts: Ints = field(repr=False)  # (docs, 4): TP, FP, FN, TN
    p: Floats = field(repr=False)  # P(forget) of each scored word
    y: Bools = field(repr=False)  # gold of each scored word
    errors: dict[str, list[list[Any]]] = field(repr=False, default_factory=dict)  # [id, start, end, p], worst first

    def to_json(self) -> dict[str, Any]:
        """All figures and the curve to choose a threshold by, without the arrays they came from."""
        return {n: getattr(self, n) for n in _TOLD} | {
            "families": {name: vars(family) for name, family in self.families.items()},
            "pr_curve": pr_curve(self.p, self.y, points=100) if self.y.any() else [],
        }

    def details(self) -> dict[str, Any]:
        """What one looks at after the figures: the low end of the ROC curve, calibration, errors, documents."""
        return {
            "roc_curve": roc_curve(self.p, self.y, points=100) if self.y.any() else [],
            "calibration": calibration(self.p, self.y),
            "errors": self.errors,
            "per_document": dict(zip(self.ids, self.counts.tolist(), strict=True)),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scores":
        """What `to_json` stored, for printing again; the arrays behind the figures stay empty."""
        families = {name: FamilyScores(**family) for name, family in value["families"].items()}
        figures: dict[str, Any] = {name: value.get(name) for name in _TOLD}
        return cls(
            **figures, families=families, ids=[], counts=np.zeros((0, 4), np.int64),
            p=np.zeros(0), y=np.zeros(0, dtype=bool),
        )  # fmt: skip


_TOLD = (
    "precision", "recall", "f1", "f2", "auroc", "pauroc", "fpr", "documents", "words", "forget_words", "intervals",
)  # fmt: skip


class _Judged(NamedTuple):
    """The scored words of one document."""

    starts: Ints
    ends: Ints
    y: Bools  # gold
    flagged: Bools
    p: Floats


def score(
    predictions: Iterable[Mapping[str, Any]], gold: Iterable[Document], bootstrap: int = 1000, seed: int = 0
) -> Scores:
    """Score predictions (DESIGN's format; `read_predictions` gives them) against annotated documents.

    Predictions for other documents are passed over. ValueError if a gold document has no
    prediction, or a word of it no token.
    """
    documents = _by_id(gold)
    found: dict[str, _Judged] = {}
    for prediction in predictions:
        id_ = prediction["id"]
        if id_ in documents:
            if id_ in found:
                raise ValueError(f"{_where(prediction)}: document {id_!r} is predicted twice")
            found[id_] = _judge(prediction, documents[id_])
    missing = [id_ for id_ in documents if id_ not in found]
    if missing:
        shown = ", ".join(map(repr, missing[:3])) + ("…" if len(missing) > 3 else "")
        raise ValueError(f"no prediction for {len(missing)} of {len(documents)} gold documents: {shown}")

    judged = [found[id_] for id_ in documents]
    counts = np.array([_tally(j.y, j.flagged) for j in judged], dtype=np.int64)
    y = np.concatenate([j.y for j in judged])
    p = np.concatenate([j.p for j in judged])
    of = np.repeat(np.arange(len(judged)), [len(j.y) for j in judged])
    draws = draws_of(len(judged), bootstrap, seed)
    totals = counts.sum(axis=0)
    resampled = draws @ counts  # (boot, 4)
    names = ("precision", "recall", "f1", "f2", "fpr")
    intervals = {n: interval_of(FIGURES[n](resampled)) for n in names}
    intervals["auroc"] = interval_of(areas_resampled(p, y, of, draws))
    intervals["pauroc"] = interval_of(areas_resampled(p, y, of, draws, LOW_FPR))
    return Scores(
        **{n: number_of(FIGURES[n](totals[None])) for n in names},  # type: ignore[arg-type]
        auroc=number_of(area_of(p, y)),
        pauroc=number_of(area_of(p, y, LOW_FPR)),
        documents=len(judged),
        words=len(y),
        forget_words=int(y.sum()),
        intervals=intervals,
        families=family_scores(list(documents.values()), counts, draws),
        ids=list(documents),
        counts=counts,
        p=p,
        y=y,
        errors=worst_errors(dict(zip(documents, judged, strict=True))),
    )


def _by_id(gold: Iterable[Document]) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for document in gold:
        if document.id in documents:
            raise ValueError(f"gold document {document.id!r} appears twice")
        if document.spans is None:
            raise ValueError(f"gold document {document.id!r} has no 'spans'; give [] if it was checked and holds none")
        documents[document.id] = document
    if not documents:
        raise ValueError("there is no gold document to score against")
    return documents


def _where(prediction: Mapping[str, Any]) -> str:
    return str(prediction.get("where", f"prediction {prediction['id']!r}"))


def _judge(prediction: Mapping[str, Any], gold: Document) -> _Judged:
    try:
        spans = check_spans(prediction["spans"], "spans", len(gold.text)) or []
        edges = np.array(words(gold.text), dtype=np.int64).reshape(-1, 2)
        first, last = edges[~inside(edges[:, 0], gold.ignore or [])].T
        p = _p_at(first, np.array(prediction["tokens"], dtype=np.float64).reshape(-1, 3), gold.text)
    except ValueError as error:
        raise ValueError(f"{_where(prediction)}: document {gold.id!r}: {error}") from None
    return _Judged(first, last, inside(first, gold.spans or []), inside(first, spans), p)


def inside(at: Ints, spans: Spans) -> Bools:
    """Which characters lie in a span."""
    edges = np.array(merge(spans), dtype=np.int64).reshape(-1)
    return np.searchsorted(edges, at, side="right") % 2 == 1


def _p_at(at: Ints, tokens: Floats, text: str) -> Floats:
    """P(forget) of the token that covers each character; the largest where byte tokens share one."""
    tokens = tokens[np.argsort(tokens[:, 0], kind="stable")]
    starts, ends, p = tokens[:, 0], tokens[:, 1], tokens[:, 2]
    if len(tokens) and (starts[0] < 0 or ends.max() > len(text)):
        raise ValueError(f"a token lies outside the text of {len(text)} characters")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a token's p lies outside 0 to 1")
    reach = np.maximum.accumulate(ends)  # no token before this one reaches further
    best = np.full(len(at), -1.0)
    before = np.searchsorted(starts, at, side="right") - 1
    alive = np.flatnonzero(before >= 0)
    while len(alive := alive[reach[before[alive]] > at[alive]]):
        token = before[alive]
        covering = ends[token] > at[alive]
        best[alive[covering]] = np.maximum(best[alive[covering]], p[token[covering]])
        before[alive] -= 1
        alive = alive[before[alive] >= 0]
    if (best < 0).any():
        gap = int(at[np.flatnonzero(best < 0)[0]])
        raise ValueError(f"no token covers the word at character {gap}; 'tokens' must hold every token of the document")
    return best


def _tally(y: Bools, flagged: Bools) -> list[int]:
    return [int((y & flagged).sum()), int((~y & flagged).sum()), int((y & ~flagged).sum()), int((~y & ~flagged).sum())]


def _ratio(above: Ints, below: Ints) -> Floats:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


FIGURES: dict[str, Callable[[Ints], Floats]] = {
    "precision": lambda c: _ratio(c[:, TP], c[:, TP] + c[:, FP]),
    "recall": lambda c: _ratio(c[:, TP], c[:, TP] + c[:, FN]),
    "f1": lambda c: _ratio(2 * c[:, TP], 2 * c[:, TP] + c[:, FP] + c[:, FN]),
    "f2": lambda c: _ratio(5 * c[:, TP], 5 * c[:, TP] + c[:, FP] + 4 * c[:, FN]),
    "fpr": lambda c: _ratio(c[:, FP], c[:, FP] + c[:, TN]),
}


def number_of(value: Floats) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])


def interval_of(values: Floats) -> Interval:
    """Middle 95% of the resampled values; None if nothing was resampled or no value is defined."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def draws_of(documents: int, bootstrap: int, seed: int) -> Ints:
    """How often each document is drawn in each resample."""
    share = np.full(documents, 1 / documents)
    return np.random.default_rng(seed).multinomial(documents, share, size=bootstrap)


def family_scores(documents: list[Document], counts: Ints, draws: Ints) -> dict[str, FamilyScores]:
    out = {}
    for name in sorted({d.family or "(no family)" for d in documents}):
        here = [i for i, d in enumerate(documents) if (d.family or "(no family)") == name]
        # A family of one document would only be drawn as itself: its interval is a point that says nothing.
        again = here if len(here) > 1 else []
        mine, resampled = counts[here].sum(axis=0), draws[:, again] @ counts[again]
        out[name] = FamilyScores(
            side=documents[here[0]].side,
            documents=len(here),
            words=int(mine.sum()),
            forget_words=int(mine[TP] + mine[FN]),
            fpr=number_of(FIGURES["fpr"](mine[None])),
            recall=number_of(FIGURES["recall"](mine[None])),
            intervals={n: interval_of(FIGURES[n](resampled)) for n in ("fpr", "recall")},
        )
    return out


def worst_errors(judged: Mapping[str, _Judged]) -> dict[str, list[list[Any]]]:
    """Runs of wrongly judged words as [document id, start, end, mean p], worst first, for a person to look at.

    The worst run is the one with the most summed error of p: long and sure of itself.
    """
    found: dict[str, list[tuple[float, str, int, int, float]]] = {"false_positives": [], "false_negatives": []}
    for id_, j in judged.items():
        for kind, wrong in (("false_positives", j.flagged & ~j.y), ("false_negatives", j.y & ~j.flagged)):
            edges = np.flatnonzero(np.diff(np.concatenate(([False], wrong, [False])).astype(np.int8))).reshape(-1, 2)
            runs = []
            for a, b in edges.tolist():
                off = float(np.abs(j.p[a:b] - j.y[a:b]).sum())
                runs.append((off, id_, int(j.starts[a]), int(j.ends[b - 1]), round(float(j.p[a:b].mean()), 4)))
            found[kind] += sorted(runs, reverse=True)[:PER_DOCUMENT]
    return {kind: [list(run[1:]) for run in sorted(runs, reverse=True)[:LISTED]] for kind, runs in found.items()}


class Counted(Protocol):
    """Documents and what became of their words: a `Scores`, or what was stored of one."""

    @property
    def ids(self) -> list[str]: ...

    @property
    def counts(self) -> Ints: ...


def paired(
    a: Counted, b: Counted, figure: str = "f1", bootstrap: int = 1000, seed: int = 0
) -> tuple[float | None, Interval]:
    """A figure of `a` minus that of `b` on the same labels, and its 95% interval: both see each resample."""
    if a.ids != b.ids or not np.array_equal(_forget_and_retain(a), _forget_and_retain(b)):
        raise ValueError("the two were scored on different gold documents; score both on the same file")
    draws, of = draws_of(len(a.ids), bootstrap, seed), FIGURES[figure]
    difference = of(a.counts.sum(axis=0)[None]) - of(b.counts.sum(axis=0)[None])
    return number_of(difference), interval_of(of(draws @ a.counts) - of(draws @ b.counts))


def _forget_and_retain(scores: Counted) -> Ints:
    c = scores.counts
    return np.stack((c[:, TP] + c[:, FN], c[:, FP] + c[:, TN]))


def read_predictions(path: str | Path) -> Iterator[dict[str, Any]]:
    """Predictions of a JSONL file ('-': standard input), each with `where` (file and row). ValueError names the row."""
    shown = "standard input" if str(path) == "-" else str(path)
    rows: dict[str, int] = {}
    try:
        with open_lines(str(path)) as lines:
            for row, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{shown}, row {row}"
                try:
                    value = parse_json(line)
                    id_ = _check_prediction(value)
                    if id_ in rows:
                        raise ValueError(f"document {id_!r} is predicted twice, first in row {rows[id_]}")
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
                rows[id_] = row
                yield {"id": id_, "spans": value["spans"], "tokens": value["tokens"], "where": where}
    except (OSError, EOFError) as error:
        raise ValueError(f"{shown}: cannot be read ({error})") from None
    if not rows:
        raise ValueError(f"{shown}: holds no predictions")


def _check_prediction(value: dict[str, Any]) -> str:
    """The id of a well-formed prediction; what needs the text is checked when it is scored."""
    for name in ("id", "spans", "tokens"):
        if name not in value:
            raise ValueError(f"field {name!r} is missing; a prediction is {{'id', 'spans', 'tokens'}}")
    if check_spans(value["spans"], "spans", sys.maxsize) is None:
        raise ValueError("'spans' must be a list of [start, end]")
    if not isinstance(value["tokens"], list):
        raise ValueError("'tokens' must be a list of [start, end, p]")
    for token in value["tokens"]:
        match token:
            case [int(start), int(end), int(p) | float(p)] if 0 <= start <= end and 0 <= p <= 1 and p is not True:
                pass
            case _:
                raise ValueError(
                    f"'tokens': {json.dumps(token)} is not [start, end, p], 0 <= start <= end, 0 <= p <= 1"
                )
    return check_text(value["id"], "id")


def summary(scores: Mapping[str, Scores]) -> str:
    """Plain text: a row per system."""
    rows = [["", "F1 [95%]", "precision", "recall", "F2", "AUROC", f"AUROC≤{LOW_FPR:g}", "FPR [95%]"]]
    for name, s in scores.items():
        middle = [_show(value) for value in (s.precision, s.recall, s.f2, s.auroc, s.pauroc)]
        rows.append([name, _with(s.f1, s.intervals["f1"]), *middle, _with(s.fpr, s.intervals["fpr"])])
    return _columns(rows)


def format_table(scores: Mapping[str, Scores]) -> str:
    """Plain text: a row per system, then each system's false-positive rate and recall per family."""
    tables = [summary(scores)]
    for name, s in scores.items():
        rows = [["family", "side", "documents", "words", "forget", "FPR [95%]", "recall"]]
        for family, f in sorted(
            s.families.items(), key=lambda item: (item[1].side != "retain", item[1].side or "", item[0])
        ):
            sizes = [f"{size:,}" for size in (f.documents, f.words, f.forget_words)]
            rows.append([family, f.side or "", *sizes, _with(f.fpr, f.intervals["fpr"]), _show(f.recall)])
        tables.append(f"{name}: {s.words:,} words of {s.documents:,} documents\n" + _columns(rows))
    first, *others = scores
    for name in others:
        if len(scores[name].ids):  # none if the table was stored without its counts
            rows = [[f"{first} minus {name}", "95%, paired"]]
            for figure in ("f1", "precision", "recall", "fpr"):
                rows.append([figure, _signed(*paired(scores[first], scores[name], figure))])
            tables.append(_columns(rows))
    return "\n\n".join(tables)


def _signed(value: float | None, interval: Interval) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with(value: float | None, interval: Interval) -> str:
    return _show(value) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _columns(rows: list[list[str]]) -> str:
    """Rows as aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
