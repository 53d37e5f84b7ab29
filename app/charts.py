"""Geometry of the small charts: numbers in, SVG coordinates out; the macros only draw them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Point = tuple[float, float]
Bar = tuple[float, float, float, float]  # x, y, width, height


class Line(NamedTuple):
    """One curve in SVG coordinates, with its last value for the legend."""

    name: str
    path: str
    last: Point
    value: float


class Chart(NamedTuple):
    """All curves of one picture on common axes; ticks are (coordinate, value)."""

    lines: list[Line]
    x_ticks: list[Point]
    y_ticks: list[Point]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round values (1, 2, 5 × 10^n) that span the range."""
    rough = (high - low) / max(1, count)
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.6)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line(
    series: Mapping[str, Sequence[Point]],
    width: float,
    height: float,
    x_range: Point | None = None,
    y_range: Point | None = None,
) -> Chart:
    """Curves scaled into `width` × `height`; non-finite points are left out."""
    clean = {name: _finite(curve) for name, curve in series.items()}
    points = [p for curve in clean.values() for p in curve]
    if not points:
        return Chart([], [], [])
    (x0, x1), (y0, y1) = x_range or _span([p[0] for p in points]), y_range or _span([p[1] for p in points])
    sx, sy = width / ((x1 - x0) or 1), height / ((y1 - y0) or 1)

    def place(p: Point) -> Point:
        return round((p[0] - x0) * sx, 1), round(height - (p[1] - y0) * sy, 1)

    lines = []
    for name, curve in clean.items():
        if curve:
            places = [place(p) for p in _thin(curve, int(width))]
            path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
            lines.append(Line(name, path, places[-1], curve[-1][1]))
    x_ticks = [(place((value, y0))[0], value) for value in _ticks(x0, x1, 4)]
    y_ticks = [(place((x0, value))[1], value) for value in _ticks(y0, y1, 3)]
    return Chart(lines, x_ticks, y_ticks)


def _finite(curve: Sequence[Point]) -> list[Point]:
    return [(float(x), float(y)) for x, y in curve if math.isfinite(x) and math.isfinite(y)]


def _span(values: list[float]) -> Point:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _thin(curve: Sequence[Point], most: int) -> Sequence[Point]:
    """At most about `most` points, the last one always among them."""
    stride = max(1, math.ceil(len(curve) / most))
    return [*curve[:-1:stride], curve[-1]]


def bars(counts: Sequence[float], width: float, height: float, log: bool = True) -> list[Bar]:
    """Histogram bars; on a log scale any count above 0 stays visible."""
    sizes = [math.log1p(max(0.0, float(c))) if log else max(0.0, float(c)) for c in counts]
    top = max(sizes, default=0) or 1
    step = width / max(1, len(sizes))
    return [
        (round(i * step, 2), round(height * (1 - s / top), 2), round(max(0.5, step - 1), 2), round(height * s / top, 2))
        for i, s in enumerate(sizes)
    ]


class Overlay(NamedTuple):
    """Two histograms on one log scale: the first as bars, the second as an outline over them."""

    bars: list[Bar]
    outline: str
    y_ticks: list[Point]  # one per decade


def overlay(under: Sequence[float], over: Sequence[float], width: float, height: float) -> Overlay:
    """Shares per bin. The axis begins a decade below the smallest share, so that every one is seen."""
    positive = [v for v in (*under, *over) if v > 0]
    if not positive:
        return Overlay([], "", [])
    floor, top = math.floor(math.log10(min(positive))) - 0.3, math.log10(max(positive)) + 0.1
    step = width / len(under)

    def y(value: float) -> float:
        return round(height * (1 - (math.log10(value) - floor) / (top - floor)), 1) if value > 0 else height

    bars = [
        (round(i * step, 2), y(v), round(max(0.5, step - 1), 2), round(height - y(v), 2)) for i, v in enumerate(under)
    ]
    corners = [
        f"M0 {height:g}",
        *(f"V{y(v):g}H{round((i + 1) * step, 2):g}" for i, v in enumerate(over)),
        f"V{height:g}",
    ]
    decades = range(math.ceil(floor), math.floor(top) + 1)
    return Overlay([b for b in bars if b[3] > 0], "".join(corners), [(y(10.0**d), 10.0**d) for d in decades])


class Whisker(NamedTuple):
    """A value with its interval on a horizontal log axis; `x` is None for a value of zero."""

    low: float
    x: float | None
    high: float


class Intervals(NamedTuple):
    whiskers: list[Whisker]
    x_ticks: list[Point]  # one per decade


def intervals(rows: Sequence[tuple[float, float, float]], width: float) -> Intervals:
    """(low, value, high) of each row. The axis ends at whole decades; what lies below it is drawn at its edge."""
    values = [v for row in rows for v in row[1:] if v > 0]
    if not values:
        return Intervals([], [])
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    first, last = min(first, last - 1), max(last, first + 1)

    def x(value: float) -> float:
        share = (math.log10(value) - first) / (last - first) if value > 0 else 0.0
        return round(width * min(1.0, max(0.0, share)), 1)

    ticks = [(x(10.0**d), 10.0**d) for d in range(first, last + 1)]
    return Intervals([Whisker(x(low), x(v) if v > 0 else None, x(high)) for low, v, high in rows], ticks)
