"""The demo's worked review: documents that were read twice, each reading in a layer of its own, and then adjudicated.

`demo_data/review.json` holds offsets and the hash of each text, no text. Labels are written by the
functions that the pages call, event by event, and only where nobody has labelled yet.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.adjudication import adjudicate, read_twice
from app.annotating import Event
from app.models import Annotation, Document
from app.review_queries import annotate, open_texts
from labeling.agreement import Segment, intersect
from labeling.tokens import Spans

FILE = Path(__file__).parent / "demo_data" / "review.json"
ADJUDICATOR = "demo"


class Reading(BaseModel):
    """One document: what each reader marked, and what was decided where they differ."""

    model_config = ConfigDict(extra="forbid")

    id: str
    sha256: str
    layers: dict[str, Spans]
    adjudicated: Spans


class Review(BaseModel):
    """The file. `about` says who read, and how."""

    model_config = ConfigDict(extra="forbid")

    about: str
    documents: list[Reading]


def load(path: Path = FILE) -> Review:
    return Review.model_validate_json(path.read_text(encoding="utf-8"))


def ensure_review(sessions: sessionmaker[Session], project_id: int, review: Review) -> list[str]:
    """Write the review in one transaction; says of every document that could not be labelled why."""
    left_out = []
    with sessions.begin() as session:
        texts = {
            document.key: document for document in open_texts(session, project_id, [r.id for r in review.documents])
        }
        for reading in review.documents:
            document = texts.get(reading.id)
            if document is None:
                left_out.append(f"{reading.id} is not among this project's open documents; its review is left out")
            elif document.sha256 != reading.sha256:
                left_out.append(f"{reading.id} has other text here than was reviewed; its review is left out")
            elif not _is_labelled(session, document):
                _write(session, document, reading)
    return left_out


def _is_labelled(session: Session, document: Document) -> bool:
    return session.scalar(select(Annotation.id).where(Annotation.document_id == document.id).limit(1)) is not None


def _write(session: Session, document: Document, reading: Reading) -> None:
    for reader, spans in reading.layers.items():
        for version, (start, end) in enumerate(spans):
            _annotate(session, document, reader, version, action="add", start=start, end=end)
        _annotate(session, document, reader, len(spans), action="state", state="done" if spans else "clean")
    (read,) = read_twice(session, document.project_id, document.id)
    adjudicate(session, read, chosen(read.segments, reading.adjudicated), 0, ADJUDICATOR)


def _annotate(session: Session, document: Document, reader: str, version: int, **event: Any) -> None:
    annotate(session, document, Event(version=version, **event), author=reader, layer=reader)


def chosen(disputed: list[Segment], adjudicated: Spans) -> set[tuple[int, int]]:
    """The disputed stretches that were decided to be forget."""
    stretches = {(segment.start, segment.end) for segment in disputed}
    return {stretch for stretch in stretches if intersect([stretch], adjudicated) == [stretch]}
