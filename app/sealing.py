"""Sealed documents: held back from every page, score and export until they are opened, once, for a reason.

Only documents of the test split that no person has touched are sealed: no statistic, threshold or
verdict was made with them in view. Revealing moves all of them to the split `revealed` for good,
so that a second look at a final test is never taken for the first.
"""

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from app.models import AccessLog, Annotation, Assignment, Document, Family
from app.roles import Viewer

SHORTEST_REASON = 10
UNSYNCED = {"synchronize_session": False}


def revealed(session: Session, project_id: int) -> AccessLog | None:
    """The entry of the one reveal."""
    where = (AccessLog.project_id == project_id, AccessLog.action == "reveal")
    return session.scalar(select(AccessLog).where(*where))


def _sealable(project_id: int) -> list[ColumnElement[bool]]:
    read = select(Annotation.id).where(Annotation.document_id == Document.id, Annotation.action != "import")
    assigned = select(Assignment.id).where(Assignment.document_id == Document.id)
    return [Document.project_id == project_id, Document.split == "test", ~read.exists(), ~assigned.exists()]


def families(session: Session, project_id: int) -> list[tuple[Family, int, int]]:
    """(family, sealed documents, documents that could be sealed)."""

    def count(*where: ColumnElement[bool]) -> dict[int, int]:
        query = select(Document.family_id, func.count()).where(*where).group_by(Document.family_id)
        return dict(session.execute(query).tuples().all())

    sealed = count(Document.project_id == project_id, Document.split == "sealed")
    free = count(*_sealable(project_id))
    rows = session.scalars(select(Family).where(Family.project_id == project_id).order_by(Family.id))
    return [(family, sealed.get(family.id, 0), free.get(family.id, 0)) for family in rows]


def seal(session: Session, project_id: int, per_family: int, viewer: Viewer) -> int:
    """Seal up to so many random documents of each family; how many were. Raises ValueError after the reveal."""
    if revealed(session, project_id):
        raise ValueError(
            "this project's sealed documents were revealed already; another final test needs another project"
        )
    drawn = func.row_number().over(partition_by=Document.family_id, order_by=func.substr(Document.sha256, 33))
    numbered = select(Document.id, drawn.label("drawn")).where(*_sealable(project_id)).subquery()
    chosen = update(Document).where(Document.id.in_(select(numbered.c.id).where(numbered.c.drawn <= per_family)))
    count = int(session.execute(chosen.values(split="sealed"), execution_options=UNSYNCED).rowcount)  # type: ignore[attr-defined]
    if not count:
        raise ValueError("no document of the test split is left that nobody has read; import more first")
    reason = f"{count:,} document{'' if count == 1 else 's'}, at most {per_family:,} a family"
    session.add(AccessLog(project_id=project_id, action="seal", user=viewer.name, reason=reason))
    return count


def reveal(session: Session, project_id: int, reason: str, viewer: Viewer) -> int:
    """Open every sealed document for good. Raises ValueError without a reason, or the second time."""
    reason = reason.strip()
    if len(reason) < SHORTEST_REASON:
        raise ValueError(f"say in at least {SHORTEST_REASON} characters what they are opened for; it stays in the log")
    sealed = (Document.project_id == project_id, Document.split == "sealed")
    change = update(Document).where(*sealed).values(split="revealed")
    opened = int(session.execute(change, execution_options=UNSYNCED).rowcount)  # type: ignore[attr-defined]
    if not opened:  # one of two at once finds none left
        raise ValueError("this project has no sealed documents, or they were revealed already")
    session.add(AccessLog(project_id=project_id, action="reveal", user=viewer.name, reason=reason))
    return opened
