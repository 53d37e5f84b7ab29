"""Preflights: checking a reference on a project's text, and who decided to harvest all the same."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app.db import reading
from app.jobs import JobView
from app.settings import Settings
from labeling.events import Event, Progress

if TYPE_CHECKING:
    from labeling.references import Reference
    from labeling.saes import LoadedSAE

Sessions = sessionmaker[Session]
DOCUMENTS = 48  # read for a check; two thousand tokens are rarely more


def newest_preflight(session: Session, reference_id: int, project_id: int) -> m.Preflight | None:
    mine = (m.Preflight.reference_id == reference_id, m.Preflight.project_id == project_id)
    return session.scalar(select(m.Preflight).where(*mine).order_by(m.Preflight.id.desc()).limit(1))


def override_of(session: Session, preflight: m.Preflight) -> m.PreflightOverride | None:
    mine = m.PreflightOverride.preflight_id == preflight.id
    return session.scalar(select(m.PreflightOverride).where(mine).order_by(m.PreflightOverride.id.desc()).limit(1))


def override(session: Session, preflight: m.Preflight | None, reason: str, author: str) -> None:
    """Record the decision to harvest although a check failed. Raises ValueError if there is nothing to decide."""
    if preflight is None or preflight.passed:
        raise ValueError("there is no failed preflight to override")
    if not reason.strip():
        raise ValueError("say why the failed check may be ignored; the reason is kept with the harvest")
    session.add(m.PreflightOverride(preflight_id=preflight.id, reason=reason.strip(), author=author))


def failures(preflight: m.Preflight) -> list[str]:
    return [f"{check['name']}: {check['text']}" for check in preflight.report["checks"] if check["state"] == "fail"]


def sample_texts(session: Session, project_id: int) -> list[str]:
    """Texts of the train split, families in turn."""
    families = session.scalars(select(m.Family.id).where(m.Family.project_id == project_id)).all()
    each = -(-DOCUMENTS // max(1, len(families)))
    found = [
        session.scalars(
            select(m.Document.text)
            .where(m.Document.project_id == project_id, m.Document.family_id == family, m.Document.split == "train")
            .order_by(m.Document.sha256)
            .limit(each)
        ).all()
        for family in families
    ]
    return [texts[i] for i in range(each) for texts in found if i < len(texts)]


def examine(
    sessions: Sessions, project_id: int, reference_id: int, author: str, model: "Reference", sae: "LoadedSAE"
) -> Iterator[Event]:
    """Step: the checklist, kept as a row."""
    from labeling.preflight import Report, preflight

    with reading(sessions) as session:
        texts = sample_texts(session, project_id)
    for event in preflight(model, sae, texts):
        if isinstance(event, Report):
            whose = {"reference_id": reference_id, "project_id": project_id, "author": author}
            with sessions.begin() as session:
                session.add(m.Preflight(**whose, passed=event.passed, report=event.to_json()))
        else:
            yield event


def clear_for_harvest(
    sessions: Sessions, job: JobView, reference_id: int, model: "Reference", sae: "LoadedSAE"
) -> Iterator[Event]:
    """Run the checklist unless the newest one passed or was overridden; raise ValueError where it fails."""
    assert job.project_id is not None
    if cleared(sessions, reference_id, job.project_id):
        return
    yield from examine(sessions, job.project_id, reference_id, job.author, model, sae)
    if cleared(sessions, reference_id, job.project_id):
        return
    with sessions.begin() as session:
        failed = newest_preflight(session, reference_id, job.project_id)
        assert failed is not None
        if reason := job.args.get("override"):
            override(session, failed, reason, job.author)
            return
        said = "; ".join(failures(failed))
    raise ValueError(
        f"the reference failed its preflight ({said}); correct it, or override the check with a reason "
        f"on its page (/references/{reference_id}) or with --override REASON"
    )


def cleared(sessions: Sessions, reference_id: int, project_id: int) -> bool:
    with reading(sessions) as session:
        newest = newest_preflight(session, reference_id, project_id)
        return newest is not None and (newest.passed or override_of(session, newest) is not None)


def check(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """The job behind the button: load the reference and run its checklist on the project's text."""
    from labeling.harvest import open_reference

    assert job.project_id is not None
    with reading(sessions) as session:
        row = session.get_one(m.Reference, int(job.args["reference_id"]))
    yield Progress(0, None, "", "load reference")
    model, sae = open_reference(row.model, row.sae, row.layer)
    yield from examine(sessions, job.project_id, row.id, job.author, model, sae)
