"""The append-only log of verdicts: giving one, taking one's own back, who decided what and when."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Project, Verdict


def newest_id(session: Session, project: Project) -> int:
    """Where a sitting that starts now begins."""
    return session.scalar(select(func.max(Verdict.id)).where(Verdict.project_id == project.id)) or 0


def since(session: Session, project: Project, as_of: int) -> Sequence[Verdict]:
    """Events after `as_of`, oldest first."""
    mine = (Verdict.project_id == project.id, Verdict.reference_id == project.reference_id, Verdict.id > as_of)
    return session.scalars(select(Verdict).where(*mine).order_by(Verdict.id)).all()


def newest(session: Session, project: Project, limit: int = 20) -> Sequence[Verdict]:
    """The log, newest first."""
    mine = (Verdict.project_id == project.id, Verdict.reference_id == project.reference_id)
    return session.scalars(select(Verdict).where(*mine).order_by(Verdict.id.desc()).limit(limit)).all()


def taken_back(events: Sequence[Verdict]) -> set[int]:
    """Ids of the events that a later one undoes."""
    return {event.undoes_id for event in events if event.undoes_id is not None}


def give(
    session: Session, project: Project, latent: int, decision: str, note: str, author: str, undoes: int | None = None
) -> Verdict:
    assert project.reference_id is not None
    verdict = Verdict(
        project_id=project.id, reference_id=project.reference_id, latent=latent, decision=decision, note=note,
        author=author, undoes_id=undoes,
    )  # fmt: skip
    session.add(verdict)
    session.flush()
    return verdict


def take_back(session: Session, project: Project, author: str, as_of: int) -> Verdict | None:
    """Undo the author's newest verdict of this sitting; None if none is left.

    What counted before is written once more. ValueError if somebody judged the latent since:
    their verdict stands.
    """
    events = since(session, project, as_of)
    undone = taken_back(events)
    mine = [e for e in events if e.author == author and e.undoes_id is None and e.id not in undone]
    if not mine:
        return None
    last = mine[-1]
    after = [
        e for e in events if e.latent == last.latent and e.id > last.id and e.undoes_id is None and e.id not in undone
    ]
    if after:
        raise ValueError(f"{after[-1].author} judged latent {last.latent} after you; that verdict stays")
    before = _counted_before(session, project, last)
    decision, note = (before.decision, before.note) if before else ("clear", "")
    return give(session, project, last.latent, decision, note, author, undoes=last.id)


def _counted_before(session: Session, project: Project, event: Verdict) -> Verdict | None:
    """The event that counted for a latent when this one came."""
    earlier = (
        Verdict.project_id == project.id, Verdict.reference_id == project.reference_id,
        Verdict.latent == event.latent, Verdict.id < event.id,
    )  # fmt: skip
    return session.scalar(select(Verdict).where(*earlier).order_by(Verdict.id.desc()).limit(1))
