"""What a step yields. The command line draws these as bars, the worker stores them as rows."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units so far; `total` is None while it is not known."""

    done: int
    total: int | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Metric:
    """One point of a curve (`step` given) or one figure of a result (`step` None)."""

    name: str
    value: float
    step: int | None = None


@dataclass(frozen=True)
class Artifact:
    """A finished folder or file; `info` is small, JSON-able, and shown on pages."""

    kind: str
    path: Path
    info: dict[str, Any] = field(default_factory=dict)


Event = Progress | Metric | Artifact


def value_of(steps: Generator[Any, None, T]) -> T:
    """What a step returns, run to its end with nobody watching."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value
