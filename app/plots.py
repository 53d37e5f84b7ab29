"""Geometry of the plots around a rule: numbers in, SVG coordinates out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from app.charts import _ticks


class Dot(NamedTuple):
    """One point of a scatter; `r` grows with its weight."""

    x: float
    y: float
    r: float
    name: str
    mark: str


class Scatter(NamedTuple):
    dots: list[Dot]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def scatter(rows: Sequence[tuple[str, float, float, float, str]], width: float, height: float) -> Scatter:
    """(name, x > 0, y in 0..1, weight, class): x on a log scale of whole decades."""
    rows = [row for row in rows if row[1] > 0]
    if not rows:
        return Scatter([], [], [])
    low = math.floor(math.log10(min(row[1] for row in rows)))
    high = max(low + 1, math.ceil(math.log10(max(row[1] for row in rows))))
    heaviest = max(row[3] for row in rows) or 1
    dots = [
        Dot(round((math.log10(x) - low) / (high - low) * width, 1), round((1 - y) * height, 1),
            round(2.5 + 6 * math.sqrt(weight / heaviest), 1), name, mark)
        for name, x, y, weight, mark in sorted(rows, key=lambda row: -row[3])
    ]  # fmt: skip
    x_ticks = [(round((d - low) / (high - low) * width, 1), f"{100 * 10.0**d:g}%") for d in range(low, high + 1)]
    return Scatter(dots, x_ticks, [(round((1 - y) * height, 1), f"{100 * y:g}%") for y in _ticks(0, 1, 4)])


class Cell(NamedTuple):
    x: float
    y: float
    strength: float  # 0..1
    name: str


def heat(
    matrix: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], top: float | None = None
) -> list[Cell]:
    """One cell per value above 0, in units of one cell; the strongest is `top`, or the largest."""
    most = top or max((v for row in matrix for v in row), default=0) or 1
    return [
        Cell(x, y, round(min(1.0, value / most), 3), f"{rows[y]} · {columns[x]}: {value:.3g}")
        for y, row in enumerate(matrix)
        for x, value in enumerate(row)
        if value / most >= 0.004
    ]
