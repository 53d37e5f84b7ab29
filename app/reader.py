"""One screenful of a document as the reader page shows it: exact text, cut at tokens.

A 10 MB document must open in a second, so a page shows a part of it; offsets on the page are
always those of the whole document, in code points, so that the browser never computes any.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from markupsafe import Markup, escape

from app.shading import decile
from app.suggestions import GROWN, SEED, VETOED, Sources, TokenTable, flagged
from labeling.tokens import Spans, overlapping

TOKENS = 1500  # on one page
_WEAK = {GROWN: "grown", SEED: "seed", VETOED: "vetoed"}


@dataclass(frozen=True)
class Piece:
    """A token, or the text between two (`token` false). `run` numbers the suggestion it belongs to."""

    start: int
    end: int
    html: Markup
    marks: str
    token: bool
    run: int | None
    p: str


@dataclass(frozen=True)
class Window:
    """The part of a document on the page; `*_at` are code points to open another part at, None if there is none."""

    pieces: list[Piece]
    start: int
    end: int
    number: int
    count: int
    previous_at: int | None
    next_at: int | None
    previous_flagged_at: int | None
    next_flagged_at: int | None
    tokens: int
    by_rule: int | None
    by_classifier: int | None


def exact(text: str) -> Markup:
    """Escaped so that the browser's text is the text: HTML turns a raw carriage return into a line feed."""
    return Markup(str(escape(text)).replace("\r", "&#13;"))


def suggested(table: TokenTable, threshold: float) -> Bool[np.ndarray, " tok"]:
    """Tokens that the rule or the classifier flags."""
    out = np.zeros(len(table.starts), dtype=bool)
    if table.weak is not None:
        out |= flagged(table.weak)
    if table.p is not None:
        out |= table.p >= threshold
    return out


def window(sources: Sources, key: str, text: str, gold: Spans, at: int = 0) -> Window:
    """The part of the document around code point `at`."""
    table = sources.tokens_of(key, text)
    flags = suggested(table, sources.threshold)
    total = len(table.starts)
    number = max(0, int(np.searchsorted(table.starts, at, side="right")) - 1) // TOKENS
    first, last = number * TOKENS, min((number + 1) * TOKENS, total)
    start = int(table.starts[first]) if number else 0
    end = int(table.starts[last]) if last < total else len(text)
    positions = np.flatnonzero(flags)
    before, after = positions[positions < first], positions[positions >= last]

    def code_point(token: int) -> int:
        return int(table.starts[token])

    return Window(
        pieces=_pieces(table, flags, text, gold, first, last, start, end),
        start=start, end=end, number=number + 1, count=max(1, -(-total // TOKENS)),
        previous_at=code_point(first - TOKENS) if number else None,
        next_at=code_point(last) if last < total else None,
        previous_flagged_at=code_point(int(before[-1])) if len(before) else None,
        next_flagged_at=code_point(int(after[0])) if len(after) else None,
        tokens=total,
        by_rule=int(flagged(table.weak).sum()) if table.weak is not None else None,
        by_classifier=int((table.p >= sources.threshold).sum()) if table.p is not None else None,
    )  # fmt: skip


def _pieces(
    table: TokenTable, flags: Bool[np.ndarray, " tok"], text: str, gold: Spans,
    first: int, last: int, start: int, end: int,
) -> list[Piece]:  # fmt: skip
    """Tokens first … last of the document and the text between; a gap bears the marks both its sides bear."""
    starts, ends, here = table.starts[first:last], table.ends[first:last], flags[first:last]
    runs: Int64[np.ndarray, " tok"] = np.cumsum(here & ~np.concatenate(([False], here))[:-1])
    in_gold = overlapping(starts, ends, gold)
    out: list[Piece] = []
    at, previous, p_before = start, frozenset[str](), -1.0
    for i in range(last - first):
        s, e, p = int(starts[i]), int(ends[i]), -1.0
        marks = {"gold"} if in_gold[i] else set()
        if table.weak is not None and (name := _WEAK.get(int(table.weak[first + i]))):
            marks.add(name)
        if table.p is not None and not np.isnan(table.p[first + i]):
            p = float(table.p[first + i])
        run = int(runs[i]) if flags[first + i] else None
        if s > at:
            out.append(Piece(at, s, exact(text[at:s]), _classes(marks & previous, min(p, p_before)), False, None, ""))
        out.append(Piece(s, e, exact(text[s:e]), _classes(marks, p), True, run, f"{p:.3f}" if p >= 0 else ""))
        at, previous, p_before = e, frozenset(marks), p
    if at < end:
        out.append(Piece(at, end, exact(text[at:end]), "", False, None, ""))
    return out


def _classes(marks: AbstractSet[str], p: float) -> str:
    """CSS classes; a `p` below 0 means that nobody scored this."""
    return " ".join([*sorted(marks), *([decile(p)] if p >= 0 else [])])
