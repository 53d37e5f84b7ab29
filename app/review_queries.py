"""SQL of the review: the state of documents, the queue, annotation events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload, undefer

from app.annotating import EMPTY, GOLD_STATES, Event, Labels, apply, labels_of, rewound, surface_sha256
from app.gold import PROJECT
from app.models import Annotation, Artifact, Assignment, Classifier, Document, Family, Job, LabelSet
from app.roles import SOLO, Viewer

OPEN = ("todo", "part")


class StaleVersion(Exception):
    """Somebody wrote first; `newest` is the event that counts now (None: the document has none)."""

    def __init__(self, newest: Annotation | None) -> None:
        super().__init__("the document changed since this page was loaded")
        self.newest = newest


@dataclass(frozen=True)
class Filters:
    """What the queue shows; `why` chooses its order, the others narrow it."""

    why: str = "all"  # a key of review_queue.ORDERS
    family: str = ""
    split: str = ""
    state: str = ""  # "" any | open (todo or part) | one state
    to: int = 0  # the document that others are to be similar to

    def admits(self, state: str) -> bool:
        return not self.state or state == self.state or (self.state == "open" and state in OPEN)


def _newest(layer: str) -> ColumnElement[bool]:
    """Join condition: the annotation that counts for a document in this layer, if any."""
    inner = select(func.max(Annotation.version)).where(Annotation.document_id == Document.id, Annotation.layer == layer)
    version = inner.correlate(Document).scalar_subquery()
    return and_(Annotation.document_id == Document.id, Annotation.layer == layer, Annotation.version == version)


def open_document(session: Session, project_id: int, document_id: int) -> Document | None:
    """The document with its text; a sealed one does not exist here."""
    where = (Document.id == document_id, Document.project_id == project_id, Document.split != "sealed")
    return session.scalar(select(Document).where(*where).options(undefer(Document.text)))


def is_sealed(session: Session, project_id: int, document_id: int) -> bool:
    where = (Document.id == document_id, Document.project_id == project_id, Document.split == "sealed")
    return session.scalar(select(Document.id).where(*where)) is not None


def open_texts(session: Session, project_id: int, keys: list[str]) -> list[Document]:
    """These documents with their texts and families; sealed ones do not exist here."""
    where = (Document.project_id == project_id, Document.key.in_(keys), Document.split != "sealed")
    return list(
        session.scalars(select(Document).where(*where).options(undefer(Document.text), selectinload(Document.family)))
    )


def newest_annotation(session: Session, document_id: int, layer: str = PROJECT) -> Annotation | None:
    where = (Annotation.document_id == document_id, Annotation.layer == layer)
    return session.scalar(select(Annotation).where(*where).order_by(Annotation.version.desc()).limit(1))


def labels_at(session: Session, document_id: int, layer: str, version: int) -> Labels:
    where = (Annotation.document_id == document_id, Annotation.layer == layer, Annotation.version == version)
    return labels_of(session.scalars(select(Annotation).where(*where)).one()) if version else EMPTY


def _after(session: Session, document: Document, event: Event, layer: str, head: Annotation | None) -> Labels:
    """The labels after `event`. Undo and redo read what every event was, not the spans each one carries."""
    if event.action not in ("undo", "redo"):
        return apply(event, labels_now(head), document.text)
    where = (Annotation.document_id == document.id, Annotation.layer == layer)
    query = select(Annotation.version, Annotation.action).where(*where).order_by(Annotation.version)
    return labels_at(session, document.id, layer, rewound(session.execute(query).tuples(), event.action))


def annotate(session: Session, document: Document, event: Event, author: str, layer: str = PROJECT) -> Annotation:
    """Write the event as the layer's next version. Raises StaleVersion, or ValueError if it makes no sense.

    The unique constraint on (document, layer, version) decides between two writers, not this check.
    """
    head = newest_annotation(session, document.id, layer)
    if event.version != (head.version if head else 0):
        raise StaleVersion(head)
    after = _after(session, document, event, layer, head)
    ranged = event.action in ("add", "remove", "right", "wrong")
    span = (event.start, event.end) if ranged and event.start is not None and event.end is not None else None
    return write(session, document, event.version, event.action, after, author, span, layer)


def write(
    session: Session, document: Document, version: int, action: str, labels: Labels, author: str,
    span: tuple[int, int] | None = None, layer: str = PROJECT,
) -> Annotation:  # fmt: skip
    """The event that follows `version`. Raises StaleVersion if another one does already."""
    start, end = span or (None, None)
    before = (Annotation.document_id == document.id, Annotation.layer == layer, Annotation.version == version)
    row = Annotation(
        document_id=document.id, layer=layer, version=version + 1, action=action, start=start, end=end,
        surface_sha256=surface_sha256(document.text, *span) if span else None,
        spans=[list(s) for s in labels.spans], judged=[list(j) for j in labels.judged], state=labels.state,
        ignored=session.scalar(select(Annotation.ignored).where(*before)) or [], author=author,
    )  # fmt: skip
    document_id = document.id
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise StaleVersion(newest_annotation(session, document_id, layer)) from None
    return row


def labels_now(row: Annotation | None) -> Labels:
    return labels_of(row) if row else EMPTY


# The queue


@dataclass(frozen=True)
class Corpus:
    """A project's open documents as arrays, oldest first; texts stay in the database."""

    ids: Int64[np.ndarray, " doc"]
    families: Int64[np.ndarray, " doc"]  # indices into family_names
    family_names: NDArray[np.str_]
    splits: NDArray[np.str_]  # (doc,)
    chance: Float64[np.ndarray, " doc"]  # 0 to 1, drawn once for each text: a random order that stays
    stored: Int64[np.ndarray, " doc"]  # position in the activation store, -1 where it is not there

    def carried(self, stored: Float64[np.ndarray, " stored"]) -> Float64[np.ndarray, " doc"]:
        """A figure per document of the store, for every document here; 0 where the store has none."""
        out = np.zeros(len(self.ids))
        known = (self.stored >= 0) & (self.stored < len(stored))
        out[known] = stored[self.stored[known]]
        return out

    def stored_at(self, document_id: int) -> int | None:
        found = self.stored[self.ids == document_id]
        return int(found[0]) if len(found) and found[0] >= 0 else None


def corpus_mark(session: Session, project_id: int) -> tuple[int, ...]:
    """Changes whenever a project's open documents do: imported, sealed or revealed."""
    revealed = func.count(case((Document.split == "revealed", 1)))
    query = select(func.count(), revealed, func.coalesce(func.max(Document.id), 0)).select_from(Document)
    return tuple(session.execute(query.where(Document.project_id == project_id, Document.split != "sealed")).one())


def corpus(session: Session, project_id: int, position: Callable[[str], int | None]) -> Corpus:
    """All open documents; `position` finds a key in the activation store."""
    query = select(Document.id, Document.key, Document.sha256, Document.split, Family.name)
    query = query.join(Family, Document.family_id == Family.id).order_by(Document.id)
    rows = session.execute(query.where(Document.project_id == project_id, Document.split != "sealed")).all()
    names, families = np.unique(np.array([row[4] for row in rows], dtype=np.str_), return_inverse=True)
    at = [position(row[1]) for row in rows]
    return Corpus(
        ids=np.array([row[0] for row in rows], dtype=np.int64),
        families=families.astype(np.int64), family_names=names,
        splits=np.array([row[3] for row in rows], dtype=np.str_),
        # The end of the hash: its beginning already decided the split.
        chance=np.array([int(row[2][-12:], 16) / 16**12 for row in rows]),
        stored=np.array([-1 if n is None else n for n in at], dtype=np.int64),
    )  # fmt: skip


def documents_by_id(
    session: Session, project_id: int, ids: list[int], layer: str = PROJECT
) -> list[tuple[Document, Annotation | None]]:
    """These documents in this order, each with what counts in the layer; sealed and missing ones left out."""
    query = select(Document, Annotation).outerjoin(Annotation, _newest(layer))
    mine = (Document.project_id == project_id, Document.split != "sealed", Document.id.in_(ids))
    found = {document.id: (document, annotation) for document, annotation in session.execute(query.where(*mine))}
    return [found[id_] for id_ in ids if id_ in found]


def open_documents(
    session: Session, project_id: int, viewer: Viewer, family: str, split: str, document_id: int | None, first: int,
    limit: int,
) -> Iterator[tuple[Document, Annotation | None]]:  # fmt: skip
    """Documents unfinished in the viewer's layer, with their texts, from document id `first` on; none to read blind."""
    blind = select(Assignment.document_id).where(Assignment.user == viewer.name, Assignment.blind)
    query = (
        select(Document, Annotation).outerjoin(Annotation, _newest(viewer.layer))
        .where(
            Document.project_id == project_id, Document.split != "sealed", Document.id >= first,
            Document.id.not_in(blind), func.coalesce(Annotation.state, "todo").in_(OPEN),
        )
    )  # fmt: skip
    if family:
        query = query.where(Document.family.has(Family.name == family))
    if split:
        query = query.where(Document.split == split)
    if document_id is not None:
        query = query.where(Document.id == document_id)
    query = query.options(undefer(Document.text)).order_by(Document.id).limit(limit)
    yield from session.execute(query.execution_options(yield_per=50)).tuples()


def states_by_id(session: Session, project_id: int, layer: str = PROJECT) -> dict[int, str]:
    """State of every document touched in this layer: few beside the corpus."""
    query = select(Document.id, Annotation.state).join(Annotation, _newest(layer))
    return dict(session.execute(query.where(Document.project_id == project_id)).tuples().all())


@dataclass(frozen=True)
class ReviewProgress:
    """How far a project's review is; sealed documents are not counted."""

    total: int
    states: dict[str, int]

    @property
    def gold(self) -> int:
        return sum(self.states.get(state, 0) for state in GOLD_STATES)


def review_progress(session: Session, project_id: int, viewer: Viewer = SOLO) -> ReviewProgress:
    """In the viewer's layer; annotators have nothing before them but what is assigned to them."""
    mine = [Document.project_id == project_id, Document.split != "sealed"]
    if not viewer.may("curator"):
        mine.append(Document.id.in_(select(Assignment.document_id).where(Assignment.user == viewer.name)))
    total = session.scalar(select(func.count()).select_from(Document).where(*mine)) or 0
    query = select(Annotation.state, func.count()).select_from(Document).join(Annotation, _newest(viewer.layer))
    states = dict(session.execute(query.where(*mine).group_by(Annotation.state)).tuples().all())
    return ReviewProgress(total, {**states, "todo": total - sum(n for s, n in states.items() if s != "todo")})


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
