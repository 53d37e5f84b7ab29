"""Code points and UTF-16 units: the same place in a text, counted as Python does and as browsers do.

Everything inside counts code points. What comes from a tool whose front end is a browser may count
UTF-16 units, two for an emoji; nothing here guesses where both could be meant.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

Unit = Literal["code points", "UTF-16 units"]
UNITS: tuple[Unit, ...] = ("code points", "UTF-16 units")
Marks = list[tuple[int, int, str]]  # (start, end, label), in some unit


class Offsets:
    """Code points and UTF-16 units of one text."""

    def __init__(self, text: str):
        self.length = len(text)
        # at[i]: units before code point i; None where every character is one unit
        wide = any(c > "\uffff" for c in text)
        self.at = list(accumulate((2 if c > "\uffff" else 1 for c in text), initial=0)) if wide else None

    def to_units(self, point: int) -> int:
        return self.at[point] if self.at else point

    def to_points(self, unit: int) -> int:
        """Raises ValueError for the middle of a surrogate pair or a place behind the text."""
        if self.at is None:
            if unit > self.length:
                raise ValueError(f"offset {unit} is behind the text's {self.length} characters")
            return unit
        point = bisect_left(self.at, unit)
        if point == len(self.at) or self.at[point] != unit:
            raise ValueError(f"UTF-16 offset {unit} is inside a character or behind the text")
        return point


def placed(marks: Marks, text: str, unit: Unit) -> Marks:
    """The marks in code points. Raises ValueError where one is not a range of the text."""
    offsets = Offsets(text) if unit == "UTF-16 units" else None
    out = []
    for start, end, label in marks:
        if (
            bool in (type(start), type(end))
            or not isinstance(start, int)
            or not isinstance(end, int)
            or not 0 <= start < end
        ):
            raise ValueError(f"[{start!r}, {end!r}] is not a range")
        if offsets:
            start, end = offsets.to_points(start), offsets.to_points(end)
        if end > len(text):
            raise ValueError(f"[{start}, {end}) reaches behind the text's {len(text)} characters")
        out.append((start, end, label))
    return out


def located(marks: Marks, surfaces: list[str | None], text: str, units: Sequence[Unit] = UNITS) -> Marks:
    """The marks in code points, whichever of `units` they came in: the one in which every surface fits.

    Raises ValueError if none fits, or if both do and mean different places.
    """
    fitting, reason = list[Marks](), ""
    for unit in units:
        try:
            found = placed(marks, text, unit)
            for (start, end, _), surface in zip(found, surfaces, strict=True):
                if surface is not None and text[start:end] != surface:
                    raise ValueError(
                        f"the text at [{start}, {end}) is {text[start:end]!r}, the record says {surface!r}"
                    )
        except ValueError as error:
            reason = reason or str(error)
        else:
            fitting.append(found)
    if not fitting:
        raise ValueError(reason)
    if fitting[0] != fitting[-1]:
        raise ValueError(
            "its offsets fit both as code points and as UTF-16 units and mean different text; add each span's text"
        )
    return fitting[0]
