"""Text to tokens with code-point offsets, and labels from one tokenizer to another.

Labels live on characters (half-open code-point ranges). A token is forget if any part of it
overlaps a forget span (METHOD step 1.5); windows cover long documents so that each token is
scored exactly once.
"""

import ctypes
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 1_000_000  # characters; each takes about 70 bytes while it is tokenized
Spans = list[tuple[int, int]]
WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s)|\n)\s*")


@dataclass(frozen=True)
class Tokens:
    """One document's tokens, special tokens left out; offsets are code points of the text."""

    ids: NDArray[np.int32]  # (tok,)
    starts: NDArray[np.int32]  # (tok,)
    ends: NDArray[np.int32]  # (tok,)

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    """Tokenize whole documents with a fast Hugging Face tokenizer; nothing is truncated.

    Byte-level tokenizers count the blank before a word as part of its token; offsets here start
    at the first character that is not blank, so a span never begins with one.
    """
    if not tokenizer.is_fast:
        name = tokenizer.name_or_path
        raise ValueError(f"{name}: a tokenizer without character offsets (no tokenizer.json) cannot carry labels")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    out = [_tokens(*pair) for pair in zip(texts, encodings, strict=True)]
    del encodings
    if sum(map(len, texts)) >= LARGE:
        _give_back()
    return out


def _tokens(text: str, encoding: Any) -> Tokens:
    starts, ends = [], []
    for start, end in encoding.offsets:
        blank = start
        while blank < end and text[blank].isspace():
            blank += 1
        starts.append(blank if blank < end else start)  # a token of blanks alone keeps its place
        ends.append(end)
    return Tokens(*(np.array(column, dtype=np.int32) for column in (encoding.ids, starts, ends)))


def _give_back() -> None:
    """Let the system have what was freed: glibc keeps it, in an arena for each thread that ever tokenized a long text."""
    trim = sys.platform == "linux" and getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim:
        trim(0)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What this tokenizer puts before and after a text ([CLS] and [SEP], a BOS, or nothing)."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # sentence encoders come with padding to a fixed length switched on
    backend.no_truncation()
    encoding = backend.encode("a", add_special_tokens=True)
    own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


def windows(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Cut `length` tokens into windows of at most `size`: (start, end, first token scored here).

    Each window but the first begins with `overlap` tokens that are context only.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the window size {size}")
    if length <= size:
        return [(0, length, 0)] if length else []
    out = [(0, size, 0)]
    while out[-1][1] < length:
        scored_to = out[-1][1]
        start = scored_to - overlap
        out.append((start, min(start + size, length), scored_to))
    return out


def overlapping(starts: NDArray[np.int32], ends: NDArray[np.int32], spans: Spans) -> NDArray[np.bool_]:
    """Which tokens overlap a span. Shapes: (tok,), (tok,) -> (tok,). O(tok log spans)."""
    merged = merge(spans)
    if not merged:
        return np.zeros(len(starts), dtype=bool)
    begins = np.array([s for s, _ in merged])
    stops = np.array([e for _, e in merged])
    following = np.searchsorted(stops, starts, side="right")  # first span that ends after the token starts
    inside = following < len(merged)
    inside[inside] = begins[following[inside]] < ends[inside]
    return inside & (ends > starts)


def merge(spans: Spans) -> Spans:
    """Sorted, non-empty spans with overlapping or touching ones joined."""
    out: Spans = []
    for start, end in sorted((int(s), int(e)) for s, e in spans if e > s):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def to_spans(flags: NDArray[np.bool_], starts: NDArray[np.int32], ends: NDArray[np.int32]) -> Spans:
    """Spans of the maximal runs of flagged tokens, from the first token's start to the last one's end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    runs = edges.reshape(-1, 2)
    return merge([(starts[a], ends[b - 1]) for a, b in runs])


def words(text: str) -> Spans:
    """The units all scores are counted in (DESIGN: `\\w+`), so that tokenizers compare."""
    return [m.span() for m in WORD.finditer(text)]


def sentences(text: str) -> Spans:
    """The text cut after every full stop or line break, blanks going with what is before them. Covers all of it."""
    edges = [0, *(m.end() for m in SENTENCE.finditer(text)), len(text)]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def gaps(spans: Spans, length: int) -> Spans:
    """The parts of [0, length) that no span covers."""
    edges = [0, *(edge for span in merge(spans) for edge in span), length]
    return [(a, b) for a, b in list(pairwise(edges))[::2] if b > a]
