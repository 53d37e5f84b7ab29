"""The verdict queue: candidates one after another, in an order that holds still while they are judged.

A sitting begins at some verdict (`as_of`, an id of the append-only log): the queue is what was
open then, in the order of then. So nothing jumps while a person works, every address can be
opened again, and what is costly to order by is computed once.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from app.artifacts import LatentTable
from app.latents import LatentQuery
from app.latents import order as listed
from app.models import Verdict
from labeling.candidates import Standing, accept_probability, effects
from labeling.rule import RuleConfig
from labeling.store import Store
from labeling.whatif import Tally

Order = Literal["ratio", "uncertainty", "effect"]
BREAK = 120.0  # seconds without a verdict: a pause, not the pace
MOST = 1000  # candidates in one sitting


class QueueQuery(BaseModel):
    """Which sitting, as the address says it. `of`: what nobody judged yet, or what was left unsure."""

    order: Order = "ratio"
    of: Literal["todo", "unsure"] = "todo"
    minimum: Annotated[int, Field(ge=0)] = 20  # strong firings on forget text
    ratio: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2
    as_of: Annotated[int | None, Field(ge=0)] = None

    def link(self, **changes: object) -> str:
        value = self.model_copy(update=changes)
        return "?" + urlencode(value.model_dump(exclude_defaults=True, exclude_none=True))


@dataclass(frozen=True)
class Pace:
    """How fast verdicts came in this sitting, pauses left out, and how long the rest will take."""

    count: int
    per_minute: float | None
    minutes_left: float | None


@dataclass(frozen=True)
class Place:
    """Where a candidate stands in its queue."""

    latent: int | None
    number: int | None  # counted from 1
    total: int
    done: int
    before: int | None
    after: int | None  # the next one without a verdict; round the end to the first
    upcoming: tuple[int, ...]  # what to have ready


def queue(
    table: LatentTable, query: QueueQuery, then: Mapping[int, Verdict], effect: Mapping[int, int] | None = None
) -> list[int]:
    """Latents of the sitting in order; `then` are the verdicts it began with, `effect` is for the order of that name."""
    ids = candidates(table, query, then)
    if query.order == "uncertainty":
        decided = {n: v.decision == "accept" for n, v in then.items() if v.decision in ("accept", "reject")}
        p = accept_probability(table.columns, decided)
        return sorted(ids, key=lambda latent: abs(p[latent] - 0.5))
    if query.order == "effect":
        assert effect is not None
        return sorted(ids, key=lambda latent: -effect[latent])
    return ids


def candidates(table: LatentTable, query: QueueQuery, then: Mapping[int, Verdict]) -> list[int]:
    """What is to be judged, the highest ratio first."""
    state = "todo" if query.of == "todo" else "unsure"
    asked = LatentQuery(state=state, minimum=query.minimum, ratio=query.ratio)  # type: ignore[arg-type]
    return [int(latent) for latent in listed(table, asked, dict(then))[:MOST]]


def place(ids: Sequence[int], latent: int | None, judged: set[int]) -> Place:
    """`latent` None: the first that waits. `judged` are those with a verdict of this sitting."""
    waiting = [n for n in ids if n not in judged]
    if latent is None:
        latent = waiting[0] if waiting else None
    at = ids.index(latent) if latent in ids else None
    rest = [n for n in ids[at + 1 :] if n not in judged] if at is not None else waiting
    rest += [n for n in waiting if n not in rest and n != latent]
    return Place(
        latent, None if at is None else at + 1, len(ids), len(ids) - len(waiting),
        before=ids[at - 1] if at else None,
        after=rest[0] if rest else None,
        upcoming=tuple(rest[:2]),
    )  # fmt: skip


def pace(times: Sequence[datetime], left: int) -> Pace:
    """From the times of the sitting's verdicts, oldest first."""
    steps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    steps = [step for step in steps if step <= BREAK]
    if len(steps) < 2 or sum(steps) <= 0:
        return Pace(len(times), None, None)
    rate = 60 * len(steps) / sum(steps)
    return Pace(len(times), rate, left / rate)


@lru_cache(maxsize=4)
def standing(store: Store, counted: Tally, config: RuleConfig) -> Standing:
    """What a candidate's effect is measured against; `counted` is kept by `app.whatif`, so it is its own key."""
    return Standing.of(store, counted, config)


@lru_cache(maxsize=8)
def effects_of(standing: Standing, latents: tuple[int, ...]) -> dict[int, int]:
    """Train tokens that each candidate would add."""
    return dict(effects(standing, latents))


@lru_cache(maxsize=512)
def effect_of(standing: Standing, latent: int) -> int:
    return standing.effect(latent)
