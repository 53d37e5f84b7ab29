"""A document as the reader page shows it: exact text, cut at tokens, a chunk at a time.

A 10 MB document must open in a second, so the page holds a few chunks and asks for others as the
reader moves. A chunk carries what the machines say; what people say is drawn by the page. Offsets
are always those of the whole document, in code points, so that the browser never computes any.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64
from markupsafe import Markup, escape

from app.comparing import Mask, Pair
from app.shading import decile
from app.suggestions import GROWN, SEED, VETOED, Sources, TokenTable, flagged, position

CHARACTERS = 4000  # of a chunk, about
BUCKETS = 120  # of the outline
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
class Chunk:
    """A stretch of a document; the others are where another one begins, None if there is none such."""

    pieces: list[Piece]
    start: int
    end: int
    before: int | None
    after: int | None
    flagged_before: int | None  # the nearest that holds a suggestion
    flagged_after: int | None
    last: int


@dataclass(frozen=True)
class Outline:
    """The whole document in figures. Shares are of the tokens of whoever flags; None if nobody looked."""

    by_rule: float | None
    by_classifier: float | None
    buckets: list[float]  # stretches of equal length: flagged tokens there, as a share of the fullest one's


def exact(text: str) -> Markup:
    """Escaped so that the browser's text is the text: HTML turns a raw carriage return into a line feed."""
    return Markup(str(escape(text)).replace("\r", "&#13;"))


def cuts(text: str) -> list[int]:
    """Where chunks begin, and the end of the text: after a line, else after a blank, else anywhere."""
    out = [0]
    while len(text) - out[-1] > CHARACTERS * 5 // 4:
        half, limit = out[-1] + CHARACTERS // 2, out[-1] + CHARACTERS
        at = text.rfind("\n", half, limit) + 1 or text.rfind(" ", half, limit) + 1 or limit
        out.append(at)
    return [*out, len(text)]


def suggested(table: TokenTable, threshold: float) -> Bool[np.ndarray, " tok"]:
    """Tokens that the rule or the classifier flags."""
    out = np.zeros(len(table.starts), dtype=bool)
    if table.weak is not None:
        out |= flagged(table.weak)
    if table.p is not None:
        out |= table.p >= threshold
    return out


def runs(
    flags: Bool[np.ndarray, " tok"], starts: Int32[np.ndarray, " tok"], edges: list[int]
) -> Int64[np.ndarray, " tok"]:
    """The suggestion each flagged token belongs to, from 1; 0 elsewhere. A suggestion ends with its chunk."""
    part = np.searchsorted(edges, starts, side="right")
    fresh = np.concatenate(([True], ~flags[:-1] | (np.diff(part) > 0)))[: len(flags)]
    return np.where(flags, np.cumsum(flags & fresh), 0)


def chunk(sources: Sources, key: str, text: str, at: int = 0, pair: Pair | None = None) -> Chunk:
    """The chunk that holds code point `at`. While a pair is compared, its disagreements are what is suggested."""
    edges = cuts(text)
    number = min(bisect_right(edges, max(0, at)), len(edges) - 1) - 1
    start, end = (_uncut(sources, key, edge) for edge in edges[number : number + 2])
    table = sources.tokens_of(key, text, start, end)
    sides = pair.masks(table) if pair else None
    flags = sides[0] ^ sides[1] if sides else suggested(table, sources.threshold)
    here = pair.disagreements(sources.tokens_of(key, text)) if pair else flagged_at(sources, key)
    before, after = here[here < start], here[here >= end]

    def holding(point: int) -> int:
        return _uncut(sources, key, edges[bisect_right(edges, point, hi=len(edges) - 1) - 1])

    return Chunk(
        pieces=_pieces(table, runs(flags, table.starts, []), sides, text, start, end),
        start=start, end=end,
        before=_uncut(sources, key, edges[number - 1]) if number else None,
        after=end if number + 2 < len(edges) else None,
        flagged_before=holding(int(before[-1])) if len(before) else None,
        flagged_after=holding(int(after[0])) if len(after) else None,
        last=_uncut(sources, key, edges[-2]),
    )  # fmt: skip


def _uncut(sources: Sources, key: str, edge: int) -> int:
    """The edge, or the end of the store's token that it would cut."""
    part = sources.part_of(key, 0, edge)
    if part is None or sources.store is None or part.start == part.stop:
        return edge
    return max(edge, int(sources.store.ends[max(part.start, part.stop - 8) : part.stop].max()))


def flagged_at(sources: Sources, key: str) -> Int64[np.ndarray, " tok"]:
    """Where in the document the rule or the classifier flags a token, ascending."""
    found = [np.zeros(0, np.int32)]
    at = position(sources, key)
    if sources.store is not None and sources.flags is not None and at is not None:
        part = sources.store.document(at)
        found.append(sources.store.starts[part][flagged(sources.flags[part])])
    if sources.predictions is not None and (scored := sources.predictions.document(key)) is not None:
        found.append(scored[0][scored[2] >= sources.threshold])
    return np.unique(np.concatenate(found)).astype(np.int64)


def outline(sources: Sources, key: str, characters: int) -> Outline:
    """The document's figures, and where its suggestions lie."""
    by_rule = by_classifier = None
    at = position(sources, key)
    if sources.store is not None and sources.flags is not None and at is not None:
        by_rule = _share(flagged(sources.flags[sources.store.document(at)]))
    if sources.predictions is not None and (scored := sources.predictions.document(key)) is not None:
        by_classifier = _share(scored[2] >= sources.threshold)
    counts, _ = np.histogram(flagged_at(sources, key), BUCKETS, (0, max(1, characters)))
    return Outline(by_rule, by_classifier, [float(n) for n in counts / max(1, counts.max())])


def _share(mask: Bool[np.ndarray, " tok"]) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _pieces(
    table: TokenTable, numbers: Int64[np.ndarray, " tok"], sides: tuple[Mask, Mask] | None,
    text: str, start: int, end: int,
) -> list[Piece]:  # fmt: skip
    """The chunk's tokens and the text between; a gap bears the marks both its sides bear."""
    out: list[Piece] = []
    at, previous, p_before = start, frozenset[str](), -1.0
    for i, (s, e) in enumerate(zip(table.starts.tolist(), table.ends.tolist(), strict=True)):
        p, marks = -1.0, frozenset[str]()
        if table.weak is not None and (name := _WEAK.get(int(table.weak[i]))):
            marks = frozenset({name})
        if sides:
            marks |= {name for name, mask in zip(("in-a", "in-b"), sides, strict=True) if mask[i]}
        if table.p is not None and not np.isnan(table.p[i]):
            p = float(table.p[i])
        if s > at:
            out.append(Piece(at, s, exact(text[at:s]), _classes(marks & previous, min(p, p_before)), False, None, ""))
        classes = " ".join([_classes(marks, p), *(["unseen"] if _unseen(text[s:e]) else [])]).strip()
        run = int(numbers[i]) or None
        out.append(Piece(s, e, exact(text[s:e]), classes, True, run, f"{p:.3f}" if p >= 0 else ""))
        at, previous, p_before = e, marks, p
    if at < end:
        out.append(Piece(at, end, exact(text[at:end]), "", False, None, ""))
    return out


def _unseen(surface: str) -> bool:
    """Nothing but zero-width and other format characters: the page must show where the token is."""
    return all(unicodedata.category(character) == "Cf" for character in surface)


def _classes(marks: AbstractSet[str], p: float) -> str:
    """CSS classes; a `p` below 0 means that nobody scored this."""
    return " ".join([*sorted(marks), *([decile(p)] if p >= 0 else [])])
