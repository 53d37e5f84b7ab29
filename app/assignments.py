"""Who is asked to read which documents, blind or not, and how far they are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Account, Annotation, Assignment, Document, now
from app.roles import Viewer

FINISHED = ("done", "clean", "skip")
PAUSE = timedelta(minutes=5)  # a longer gap between two events is a break, not work
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Pace:
    """What a person did lately. `per_hour` is documents finished in an hour of work, breaks left out."""

    finished: int
    today: int
    week: int
    per_hour: float | None


@dataclass(frozen=True)
class Member:
    """One person's share of a project."""

    account: Account
    assigned: int
    blind: int
    pace: Pace

    @property
    def open(self) -> int:
        return max(0, self.assigned - self.pace.finished)

    @property
    def hours_left(self) -> float | None:
        return self.open / self.pace.per_hour if self.pace.per_hour else None


def assignments_of(session: Session, project_id: int, user: str) -> dict[int, bool]:
    """Document id -> whether it is to be read blind."""
    query = select(Assignment.document_id, Assignment.blind).join(Document, Document.id == Assignment.document_id)
    rows = session.execute(query.where(Document.project_id == project_id, Assignment.user == user))
    return dict(rows.tuples().all())


def assignment_of(session: Session, document_id: int, user: str) -> Assignment | None:
    where = (Assignment.document_id == document_id, Assignment.user == user)
    return session.scalar(select(Assignment).where(*where))


def is_blind(session: Session, document_id: int, viewer: Viewer) -> bool:
    found = assignment_of(session, document_id, viewer.name)
    return found is not None and found.blind


def assigned_ids(session: Session, project_id: int) -> set[int]:
    """Documents that somebody is to read."""
    query = select(Assignment.document_id).join(Document, Document.id == Assignment.document_id)
    return set(session.scalars(query.where(Document.project_id == project_id)))


def readers_of(session: Session, document_ids: Sequence[int]) -> dict[int, set[str]]:
    """Document id -> who it is assigned to."""
    query = select(Assignment.document_id, Assignment.user)
    found: dict[int, set[str]] = {id_: set() for id_ in document_ids}
    for document_id, user in session.execute(query.where(Assignment.document_id.in_(document_ids))):
        found[document_id].add(user)
    return found


def share_out(document_ids: Sequence[int], users: Sequence[str], readers: int) -> list[tuple[int, str]]:
    """Each document to `readers` people, everybody equally many, neighbours in the list to different pairs of people."""
    if not 1 <= readers <= len(users):
        raise ValueError(f"each document can have 1 to {len(users)} readers among those chosen")
    load, met = Counter[str](dict.fromkeys(users, 0)), Counter[tuple[str, str]]()
    out = []
    for document_id in document_ids:
        chosen: list[str] = []
        for _ in range(readers):
            rest = [user for user in users if user not in chosen]
            best = min(rest, key=lambda u: (load[u], sum(met[u, c] for c in chosen)))
            for user in chosen:
                met[user, best] += 1
                met[best, user] += 1
            chosen.append(best)
            load[best] += 1
        out += [(document_id, user) for user in chosen]
    return out


def assign(session: Session, pairs: Sequence[tuple[int, str]], blind: bool, by: str) -> int:
    """Store new assignments; those there are stay as they are. Returns how many are new."""
    known = readers_of(session, sorted({id_ for id_, _ in pairs}))
    new = [(id_, user) for id_, user in pairs if user not in known[id_]]
    session.add_all(Assignment(document_id=id_, user=user, blind=blind, assigned_by=by) for id_, user in new)
    session.flush()
    return len(new)


# Progress and pace


def pace_of(session: Session, project_id: int, layer: str) -> Pace:
    """From the layer's events: the last week for the pace, all of them for the count."""
    since = now() - WEEK
    mine = (Annotation.layer == layer, Document.project_id == project_id)
    events = session.execute(
        select(Annotation.created_at, Annotation.document_id, Annotation.state)
        .join(Document, Document.id == Annotation.document_id)
        .where(*mine, Annotation.created_at > since, Annotation.action.not_in(("import", "adjudicate")))
        .order_by(Annotation.created_at)
    ).all()  # fmt: skip
    done = {document: at for at, document, state in events if state in FINISHED}
    later = select(func.max(Annotation.version)).where(Annotation.document_id == Document.id, Annotation.layer == layer)
    query = select(func.count()).select_from(Annotation).join(Document, Document.id == Annotation.document_id)
    newest = Annotation.version == later.correlate(Document).scalar_subquery()
    finished = session.scalar(query.where(*mine, newest, Annotation.state.in_(FINISHED))) or 0
    hours = worked([at for at, _, _ in events]).total_seconds() / 3600
    day = now() - timedelta(hours=24)
    return Pace(
        finished=finished, today=sum(at > day for at in done.values()), week=len(done),
        per_hour=len(done) / hours if hours > 1 / 60 and done else None,
    )  # fmt: skip


def worked(times: Sequence[datetime]) -> timedelta:
    """Time spent: the gaps between events that are too short to be breaks."""
    return sum((b - a for a, b in pairwise(times) if b - a <= PAUSE), timedelta())


def members_of(session: Session, project_id: int, accounts: Sequence[Account]) -> list[Member]:
    out = []
    for account in accounts:
        mine = assignments_of(session, project_id, account.name)
        out.append(Member(account, len(mine), sum(mine.values()), pace_of(session, project_id, account.name)))
    return out
