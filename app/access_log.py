"""The access log: what was asked of sealed and blind documents. It only grows (a trigger refuses the rest)."""

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import AccessLog, Document


def note(
    sessions: sessionmaker[Session], project_id: int, action: str, user: str, document_id: int | None, reason: str
) -> None:
    """Write in a transaction of its own: it counts whatever becomes of the request, and a GET cannot write."""
    with sessions.begin() as session:
        session.add(AccessLog(project_id=project_id, action=action, user=user, document_id=document_id, reason=reason))


def entries(session: Session, project_id: int, limit: int = 500) -> list[tuple[AccessLog, str | None]]:
    """(entry, the document's key), newest first."""
    query = (
        select(AccessLog, Document.key).outerjoin(Document, Document.id == AccessLog.document_id)
        .where(AccessLog.project_id == project_id).order_by(AccessLog.id.desc()).limit(limit)
    )  # fmt: skip
    return list(session.execute(query).tuples().all())
