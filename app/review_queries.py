"""SQL of the review: the state of documents, the queue, annotation events, gold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, undefer

from app.annotating import EMPTY, GOLD_STATES, Event, Labels, apply, labels_of, rewound, surface_sha256
from app.models import Annotation, Artifact, Classifier, Document, Family, Job, LabelSet
from labeling.tokens import merge

SPLITS = ("train", "validation", "test")  # of these a person may see documents; sealed ones stay closed
OPEN = ("todo", "part")


class StaleVersion(Exception):
    """Somebody wrote first; `newest` is the event that counts now (None: the document has none)."""

    def __init__(self, newest: Annotation | None) -> None:
        super().__init__("the document changed since this page was loaded")
        self.newest = newest


@dataclass(frozen=True)
class Filters:
    """What the queue shows; `why` chooses its order, the others narrow it."""

    why: str = "all"  # all | flagged | disagreement | retain
    family: str = ""
    split: str = ""
    state: str = ""  # "" any | open (todo or part) | one state

    def admits(self, state: str) -> bool:
        return not self.state or state == self.state or (self.state == "open" and state in OPEN)


def _newest() -> ColumnElement[bool]:
    """Join condition: the annotation that counts for a document, if any."""
    inner = select(func.max(Annotation.version)).where(Annotation.document_id == Document.id).correlate(Document)
    return and_(Annotation.document_id == Document.id, Annotation.version == inner.scalar_subquery())


def open_document(session: Session, project_id: int, document_id: int) -> Document | None:
    """The document with its text; a sealed one does not exist here."""
    where = (Document.id == document_id, Document.project_id == project_id, Document.split != "sealed")
    return session.scalar(select(Document).where(*where).options(undefer(Document.text)))


def newest_annotation(session: Session, document_id: int) -> Annotation | None:
    where = Annotation.document_id == document_id
    return session.scalar(select(Annotation).where(where).order_by(Annotation.version.desc()).limit(1))


def labels_at(session: Session, document_id: int, version: int) -> Labels:
    where = (Annotation.document_id == document_id, Annotation.version == version)
    return labels_of(session.scalars(select(Annotation).where(*where)).one()) if version else EMPTY


def _after(session: Session, document: Document, event: Event, head: Annotation | None) -> Labels:
    """The labels after `event`. Undo and redo read what every event was, not the spans each one carries."""
    if event.action not in ("undo", "redo"):
        return apply(event, labels_now(head), document.text)
    query = select(Annotation.version, Annotation.action).where(Annotation.document_id == document.id)
    history = session.execute(query.order_by(Annotation.version)).tuples()
    return labels_at(session, document.id, rewound(history, event.action))


def annotate(session: Session, document: Document, event: Event, author: str) -> Annotation:
    """Write the event as the next version. Raises StaleVersion, or ValueError if it makes no sense.

    The unique constraint on (document, version) decides between two writers, not this check.
    """
    head = newest_annotation(session, document.id)
    if event.version != (head.version if head else 0):
        raise StaleVersion(head)
    after = _after(session, document, event, head)
    ranged = event.action in ("add", "remove", "right", "wrong")
    span = (event.start, event.end) if ranged and event.start is not None and event.end is not None else None
    return write(session, document, event.version, event.action, after, author, span)


def write(
    session: Session, document: Document, version: int, action: str, labels: Labels, author: str,
    span: tuple[int, int] | None = None,
) -> Annotation:  # fmt: skip
    """The event that follows `version`. Raises StaleVersion if another one does already."""
    start, end = span or (None, None)
    row = Annotation(
        document_id=document.id, version=version + 1, action=action, start=start, end=end,
        surface_sha256=surface_sha256(document.text, *span) if span else None,
        spans=[list(s) for s in labels.spans], judged=[list(j) for j in labels.judged], state=labels.state,
        author=author,
    )  # fmt: skip
    document_id = document.id
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise StaleVersion(newest_annotation(session, document_id)) from None
    return row


def labels_now(row: Annotation | None) -> Labels:
    return labels_of(row) if row else EMPTY


# The queue


def _reviewable(project_id: int, filters: Filters) -> Select[Document, Annotation]:
    query = (
        select(Document, Annotation).outerjoin(Annotation, _newest())
        .where(Document.project_id == project_id, Document.split != "sealed")
    )  # fmt: skip
    if filters.family:
        query = query.where(Document.family.has(Family.name == filters.family))
    if filters.split:
        query = query.where(Document.split == filters.split)
    state = func.coalesce(Annotation.state, "todo")
    if filters.state:
        query = query.where(state.in_(OPEN) if filters.state == "open" else state == filters.state)
    return query


def documents_in_order(
    session: Session, project_id: int, filters: Filters, offset: int, limit: int
) -> tuple[list[tuple[Document, Annotation | None]], int]:
    """A slice of the documents as imported, and how many the filters admit."""
    query = _reviewable(project_id, filters)
    total = session.scalar(select(func.count()).select_from(query.with_only_columns(Document.id).subquery())) or 0
    rows = session.execute(query.order_by(Document.id).offset(offset).limit(limit))
    return [(document, annotation) for document, annotation in rows], total


def documents_by_key(session: Session, project_id: int, keys: list[str]) -> list[tuple[Document, Annotation | None]]:
    """These documents in the order of `keys`; sealed and missing ones left out."""
    rows = session.execute(_reviewable(project_id, Filters()).where(Document.key.in_(keys)))
    found = {document.key: (document, annotation) for document, annotation in rows}
    return [found[key] for key in keys if key in found]


def neighbour(session: Session, project_id: int, filters: Filters, document_id: int, step: int) -> Document | None:
    """The next (step 1) or previous (step -1) document as imported that the filters admit."""
    query = _reviewable(project_id, filters)
    if step > 0:
        query = query.where(Document.id > document_id).order_by(Document.id)
    else:
        query = query.where(Document.id < document_id).order_by(Document.id.desc())
    return session.scalar(query.limit(1))


def open_documents(
    session: Session, project_id: int, family: str, split: str, document_id: int | None, first: int, limit: int
) -> Iterator[tuple[Document, Annotation | None]]:
    """Unfinished documents with their texts, from document id `first` on."""
    query = _reviewable(project_id, Filters(family=family, split=split, state="open")).where(Document.id >= first)
    if document_id is not None:
        query = query.where(Document.id == document_id)
    query = query.options(undefer(Document.text)).order_by(Document.id).limit(limit)
    yield from session.execute(query.execution_options(yield_per=50)).tuples()


def states_by_key(session: Session, project_id: int) -> dict[str, str]:
    """Key -> state of every document somebody touched: few beside the corpus."""
    query = select(Document.key, Annotation.state).join(Annotation, _newest()).where(Document.project_id == project_id)
    return dict(session.execute(query).tuples().all())


@dataclass(frozen=True)
class ReviewProgress:
    """How far a project's review is; sealed documents are not counted."""

    total: int
    states: dict[str, int]

    @property
    def gold(self) -> int:
        return sum(self.states.get(state, 0) for state in GOLD_STATES)


def review_progress(session: Session, project_id: int) -> ReviewProgress:
    mine = (Document.project_id == project_id, Document.split != "sealed")
    total = session.scalar(select(func.count()).select_from(Document).where(*mine)) or 0
    query = select(Annotation.state, func.count()).select_from(Document).join(Annotation, _newest()).where(*mine)
    states = dict(session.execute(query.group_by(Annotation.state)).tuples().all())
    return ReviewProgress(total, {**states, "todo": total - sum(n for s, n in states.items() if s != "todo")})


# Gold


def gold_rows(session: Session, project_id: int) -> Iterator[dict[str, Any]]:
    """Finished documents in DESIGN's gold format, oldest first; nothing sealed leaves this way."""
    query = (
        select(Document, Annotation, Family).join(Annotation, _newest()).join(Family, Document.family_id == Family.id)
        .where(Document.project_id == project_id, Document.split != "sealed", Annotation.state.in_(GOLD_STATES))
        .options(undefer(Document.text)).order_by(Document.id)
    )  # fmt: skip
    for document, annotation, family in session.execute(query.execution_options(yield_per=50)):
        spans = merge([(s, e) for s, e in annotation.spans])
        yield {
            "id": document.key, "text": document.text, "family": family.name, "side": family.side,
            "meta": document.meta, "spans": [list(span) for span in spans],
        }  # fmt: skip


# Classifiers and filter runs


def classifier_of(session: Session, project_id: int, classifier_id: int) -> Classifier | None:
    return session.scalar(select(Classifier).where(Classifier.project_id == project_id, Classifier.id == classifier_id))


def label_sets_of(session: Session, project_id: int) -> list[LabelSet]:
    where = LabelSet.project_id == project_id
    return list(session.scalars(select(LabelSet).where(where).order_by(LabelSet.id.desc()).limit(20)))


def filter_runs(session: Session, project_id: int, limit: int = 30) -> list[tuple[Job, Artifact | None]]:
    """Filter jobs, newest first, each with what it made."""
    where = (Job.project_id == project_id, Job.kind == "filter")
    made = and_(Artifact.job_id == Job.id, Artifact.kind == "filter")
    query = select(Job, Artifact).outerjoin(Artifact, made).where(*where).order_by(Job.id.desc()).limit(limit)
    return list(session.execute(query).tuples().all())
