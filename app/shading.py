"""Text cut into shaded pieces for a template: (piece, CSS class), the class empty where nothing is marked."""

from collections.abc import Sequence
from typing import Any

Pieces = list[tuple[str, str]]


def decile(share: float) -> str:
    """t0 … t9, the token shades of app.css."""
    return f"t{min(9, max(0, int(share * 10)))}"


def pieces(
    text: str, starts: Sequence[int] | Any, ends: Sequence[int] | Any, classes: Sequence[str], join: bool = True
) -> Pieces:
    """Cut `text` at marked tokens. With `join`, neighbours of one class become one piece, blanks between them too."""
    out: Pieces = []
    at = 0
    for start, end, mark in zip(starts, ends, classes, strict=True):
        start, end = max(int(start), at), int(end)
        if not mark or end <= start:
            continue
        between = text[at:start]
        if join and out and out[-1][1] == mark and not between.strip():
            out[-1] = (out[-1][0] + between + text[start:end], mark)
        else:
            if between:
                out.append((between, ""))
            out.append((text[start:end], mark))
        at = end
    if text[at:]:
        out.append((text[at:], ""))
    return out
