"""A classifier's worst mistakes with the text around them, for a page that leads into the reader."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.review_queries import open_texts

AROUND = 90  # characters of context on either side
KINDS = {"false_positives": "Flagged, yet retain", "false_negatives": "Missed, yet forget"}


@dataclass(frozen=True)
class Mistake:
    """A run of wrongly judged words: where it is, its text between its surroundings, and its mean p."""

    document_id: int
    key: str
    family: str
    side: str
    start: int
    before: str
    text: str
    after: str
    p: float


def worst(session: Session, project_id: int, errors: Mapping[str, list[list[Any]]]) -> dict[str, list[Mistake]]:
    """Per kind, worst first. Documents that are gone or sealed by now are left out."""
    keys = {row[0] for rows in errors.values() for row in rows}
    documents = {d.key: d for d in open_texts(session, project_id, sorted(keys))}
    out: dict[str, list[Mistake]] = {title: [] for title in KINDS.values()}
    for kind, rows in errors.items():
        for key, start, end, p in rows:
            if (d := documents.get(key)) is not None and end <= len(d.text):
                around = d.text[max(0, start - AROUND) : start], d.text[start:end], d.text[end : end + AROUND]
                out[KINDS[kind]].append(Mistake(d.id, key, d.family.name, d.family.side, start, *around, p))
    return out
