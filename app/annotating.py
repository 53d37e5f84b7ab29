"""What a person's event does to a document's labels. No database here, so it can be tested by hand.

Every event carries the whole set of spans after it: undo is writing an earlier set again, and
the newest row alone says what the document's labels are.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from labeling.tokens import Spans, merge

STATES = ("todo", "part", "done", "clean", "skip")
GOLD_STATES = ("done", "clean")
State = Literal["todo", "part", "done", "clean", "skip"]
Judgements = list[tuple[int, int, str]]


class Event(BaseModel):
    """What the reader page posts. `surface` is the text the person saw there: a drifted offset is refused."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=0, lt=2**31)
    action: Literal["add", "remove", "right", "wrong", "state", "undo", "redo"]
    start: int | None = Field(default=None, ge=0, lt=2**31)
    end: int | None = Field(default=None, ge=0, lt=2**31)
    state: State | None = None
    surface: str | None = None


class Row(Protocol):
    """The columns of an annotation row that matter here."""

    spans: list[list[int]]
    judged: list[list[int | str]]
    state: str


@dataclass(frozen=True)
class Labels:
    """A document's gold so far: forget spans, judged suggestions, and how far the person got."""

    spans: Spans
    judged: Judgements
    state: str


EMPTY = Labels([], [], "todo")


def subtract(spans: Spans, start: int, end: int) -> Spans:
    """The spans without [start, end): one that reaches beyond both sides falls into two."""
    kept: Spans = []
    for s, e in merge(spans):
        kept += [(a, b) for a, b in ((s, min(e, start)), (max(s, end), e)) if a < b]
    return kept


def labels_of(row: Row) -> Labels:
    spans = [(int(s), int(e)) for s, e in row.spans]
    return Labels(spans, [(int(s), int(e), str(j)) for s, e, j in row.judged], row.state)


def surface_sha256(text: str, start: int, end: int) -> str:
    return hashlib.sha256(text[start:end].encode()).hexdigest()


def check_range(event: Event, text: str) -> tuple[int, int]:
    """The event's range. Raises ValueError if it is not in the text or not the text the person saw."""
    if event.start is None or event.end is None:
        raise ValueError(f"'{event.action}' needs a start and an end")
    if not event.start < event.end <= len(text):
        raise ValueError(f"[{event.start}, {event.end}) is not a range of this document's {len(text)} characters")
    if event.surface is not None and event.surface != text[event.start : event.end]:
        raise ValueError("the page shows other text at this place than is stored; reload the page")
    return event.start, event.end


def apply(event: Event, before: Labels, text: str) -> Labels:
    """The labels after any event but undo and redo, which `rewound` answers. Raises ValueError."""
    if event.action == "state":
        return _moved(before, event.state)
    start, end = check_range(event, text)
    state = before.state if before.state == "part" else "part"  # an edit reopens a finished document
    if event.action in ("add", "remove"):
        return replace(before, spans=_edited(before.spans, event.action == "add", start, end), state=state)
    others = [j for j in before.judged if j[:2] != (start, end)]
    judged = sorted([*others, (start, end, event.action)])
    return Labels(_edited(before.spans, event.action == "right", start, end), judged, state)


def _edited(spans: Spans, add: bool, start: int, end: int) -> Spans:
    return merge([*spans, (start, end)]) if add else subtract(spans, start, end)


def _moved(before: Labels, state: str | None) -> Labels:
    if state is None:
        raise ValueError("'state' needs the state to set")
    if state == "clean" and before.spans:
        count = "1 forget span is" if len(before.spans) == 1 else f"{len(before.spans)} forget spans are"
        raise ValueError(f"clean means no forget text, but {count} marked; remove them, or mark the document done")
    return replace(before, state=state)


def rewound(history: Iterable[tuple[int, str]], action: Literal["undo", "redo"]) -> int:
    """The version whose labels an undo or redo brings back; 0 is the untouched document. Raises ValueError.

    `history` is every event's version and action, oldest first. Imported gold is where a document
    starts from: undo does not go behind it. What was undone can be redone until the next other event.
    """
    standing, undone = [0], list[int]()
    for version, was in history:
        if was == "undo":
            undone.append(standing.pop())
        elif was == "redo":
            standing.append(undone.pop())
        else:
            standing, undone = [*(standing if was != "import" else []), version], []
    if action == "redo" and undone:
        return undone[-1]
    if action == "undo" and len(standing) > 1:
        return standing[-2]
    raise ValueError(f"nothing to {action}")
