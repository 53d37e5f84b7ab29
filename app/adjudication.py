"""Where people who read the same document agree, where they do not, and who decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, undefer

from app.annotating import GOLD_STATES
from app.assignments import FINISHED
from app.gold import PROJECT, is_newest
from app.models import Annotation, Assignment, Document, Family
from app.review_queries import StaleVersion, newest_annotation
from app.roles import Viewer
from labeling.agreement import Agreement, Double, Segment, agree, by_family, consensus, intersect, segments
from labeling.tokens import Spans, merge

CONTEXT = 160  # characters shown around what is disputed


@dataclass(frozen=True)
class Read:
    """A document that at least two people finished."""

    document: Document
    family: str
    layers: dict[str, Spans]  # by member; the project's own layer is not among them
    seen: str  # changes when any of these layers does
    decided: Spans | None  # the project's own layer, once somebody has adjudicated

    @property
    def adjudicated(self) -> bool:
        return self.decided is not None

    @property
    def disputed(self) -> Spans:
        return consensus(list(self.layers.values()))[1]

    @property
    def segments(self) -> list[Segment]:
        return segments(self.layers)


@dataclass(frozen=True)
class Question:
    """One thing to decide, with the text around it."""

    segment: Segment
    before: str
    text: str
    after: str
    ticked: bool  # as decided before, else as most people say


def read_twice(session: Session, project_id: int, document_id: int | None = None) -> list[Read]:
    """Documents with two finished layers or more, with their texts, oldest first; never sealed ones."""
    query = (
        select(Document, Family.name, Annotation)
        .join(Annotation, Annotation.document_id == Document.id).join(Family, Family.id == Document.family_id)
        .where(
            Document.project_id == project_id, Document.split != "sealed", Annotation.state.in_(GOLD_STATES),
            is_newest(),
        )
        .order_by(Document.id, Annotation.layer)
    )  # fmt: skip
    if document_id is not None:
        query = query.where(Document.id == document_id)
    found: dict[int, tuple[Document, str, list[Annotation]]] = {}
    for document, family, row in session.execute(query.options(undefer(Document.text))):
        found.setdefault(document.id, (document, family, []))[2].append(row)
    reads = []
    for document, family, rows in found.values():
        layers = {r.layer: merge([(s, e) for s, e in r.spans]) for r in rows if r.layer != PROJECT}
        if len(layers) > 1:
            seen = ",".join(f"{r.layer}:{r.version}" for r in rows)
            own = [merge([(s, e) for s, e in r.spans]) for r in rows if r.layer == PROJECT]
            reads.append(Read(document, family, layers, seen, own[0] if own else None))
    return reads


def pairs(reads: Iterable[Read]) -> dict[tuple[str, str], list[Double]]:
    """Who read what with whom."""
    found: dict[tuple[str, str], list[Double]] = {}
    for read in reads:
        for a, b in combinations(sorted(read.layers), 2):
            double = Double(read.family, read.document.text, read.layers[a], read.layers[b])
            found.setdefault((a, b), []).append(double)
    return found


@dataclass(frozen=True)
class Table:
    """Agreement of a project's readers."""

    pooled: Agreement
    pairs: dict[tuple[str, str], Agreement]
    families: dict[str, Agreement]


def agreement_table(reads: Sequence[Read]) -> Table | None:
    by_pair = pairs(reads)
    every = [double for doubles in by_pair.values() for double in doubles]
    if not every:
        return None
    return Table(agree(every), {pair: agree(doubles) for pair, doubles in by_pair.items()}, by_family(every))


# Adjudication


def closed_to(session: Session, project_id: int, viewer: Viewer) -> set[int]:
    """Documents this person is to read blind and has not finished: others' labels stay hidden until then."""
    blind = (
        select(Assignment.document_id).join(Document, Document.id == Assignment.document_id)
        .where(Document.project_id == project_id, Assignment.user == viewer.name, Assignment.blind)
    )  # fmt: skip
    finished = select(Annotation.document_id).where(
        Annotation.layer == viewer.layer, Annotation.state.in_(FINISHED), is_newest()
    )
    return set(session.scalars(blind)) - set(session.scalars(finished))


def questions(read: Read) -> list[Question]:
    text = read.document.text
    return [
        Question(
            segment, text[max(0, segment.start - CONTEXT) : segment.start], text[segment.start : segment.end],
            text[segment.end : segment.end + CONTEXT], _is_ticked(read, segment),
        )
        for segment in read.segments
    ]  # fmt: skip


def _is_ticked(read: Read, segment: Segment) -> bool:
    if read.decided is None:
        return 2 * len(segment.voters) > len(read.layers)
    return bool(intersect(read.decided, [(segment.start, segment.end)]))


def adjudicate(session: Session, read: Read, chosen: set[tuple[int, int]], version: int, author: str) -> Annotation:
    """Write the decision to the project's layer. Raises StaleVersion, or ValueError for text nobody disputes."""
    disputed = {(segment.start, segment.end) for segment in read.segments}
    if strange := chosen - disputed:
        start, end = min(strange)
        raise ValueError(f"[{start}, {end}) is not among what is disputed in this document")
    head = newest_annotation(session, read.document.id)
    if version != (head.version if head else 0):
        raise StaleVersion(head)
    agreed, _ = consensus(list(read.layers.values()))
    spans = merge([*agreed, *chosen])
    row = Annotation(
        document_id=read.document.id, layer=PROJECT, version=version + 1, action="adjudicate",
        spans=[list(span) for span in spans], judged=[], state="done" if spans else "clean", author=author,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise StaleVersion(newest_annotation(session, read.document.id)) from None
    return row
