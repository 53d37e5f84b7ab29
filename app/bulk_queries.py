"""SQL of bulk verdicts: give one, list them, take one back whole."""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from app import review_queries as review
from app.annotating import Event, Labels
from app.bulk import LOOK_AT, BulkFilter, Haul, judged
from app.models import BulkVerdict, Document
from app.roles import Viewer


def candidates(
    session: Session, project_id: int, viewer: Viewer, asked: BulkFilter
) -> Iterator[tuple[Document, Labels, int]]:
    """The unfinished documents a bulk verdict looks at, with their labels and version in the viewer's layer."""
    rows = review.open_documents(
        session, project_id, viewer, asked.family, asked.split, asked.document, asked.first, LOOK_AT
    )
    for document, row in rows:
        yield document, review.labels_now(row), row.version if row else 0


def give(session: Session, project_id: int, asked: BulkFilter, haul: Haul, viewer: Viewer) -> BulkVerdict:
    """One event per document, all or none. Raises StaleVersion if somebody wrote to one of them meanwhile."""
    written = []
    for one in haul.found:
        after = judged(one.labels, one.suggestions, asked.verdict)
        row = review.write(session, one.document, one.version, "bulk", after, viewer.name, layer=viewer.layer)
        written.append([one.document.id, row.version])
    bulk = BulkVerdict(
        project_id=project_id, asked=asked.model_dump(exclude_defaults=True) | {"verdict": asked.verdict},
        suggestions=haul.suggestions, written=written, author=viewer.name,
    )  # fmt: skip
    session.add(bulk)
    session.flush()
    return bulk


def take_back(session: Session, bulk: BulkVerdict, viewer: Viewer) -> BulkVerdict:
    """Undo it in every document that nobody changed since; the others keep what they have now."""
    written = []
    for document_id, version in bulk.written:
        document = review.open_document(session, bulk.project_id, document_id)
        newest = review.newest_annotation(session, document_id, viewer.layer)
        if document is not None and newest is not None and newest.version == version:
            row = review.annotate(session, document, Event(version=version, action="undo"), viewer.name, viewer.layer)
            written.append([document_id, row.version])
    undone = BulkVerdict(
        project_id=bulk.project_id, asked=bulk.asked, suggestions=bulk.suggestions, written=written,
        undoes_id=bulk.id, author=viewer.name,
    )  # fmt: skip
    session.add(undone)
    session.flush()
    return undone


def _given(project_id: int, viewer: Viewer) -> list[ColumnElement[bool]]:
    """Bulk verdicts of this person's own, which are written in nobody else's layer; no undoings."""
    own = (BulkVerdict.project_id == project_id, BulkVerdict.author == viewer.name)
    return [*own, BulkVerdict.undoes_id.is_(None)]


def bulk_of(session: Session, project_id: int, viewer: Viewer, bulk_id: int) -> BulkVerdict | None:
    return session.scalar(select(BulkVerdict).where(*_given(project_id, viewer), BulkVerdict.id == bulk_id))


def is_undone(session: Session, bulk_id: int) -> bool:
    return session.scalar(select(BulkVerdict.id).where(BulkVerdict.undoes_id == bulk_id)) is not None


def bulks_of(
    session: Session, project_id: int, viewer: Viewer, limit: int = 20
) -> list[tuple[BulkVerdict, BulkVerdict | None]]:
    """The newest bulk verdicts, each with its undoing."""
    undoing = aliased(BulkVerdict)
    query = (
        select(BulkVerdict, undoing).outerjoin(undoing, undoing.undoes_id == BulkVerdict.id)
        .where(*_given(project_id, viewer)).order_by(BulkVerdict.id.desc()).limit(limit)
    )  # fmt: skip
    return [(bulk, undone) for bulk, undone in session.execute(query)]
