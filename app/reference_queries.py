"""SQL about references: what was harvested with which, and how they compare on one corpus."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import queries
from app.models import Artifact, Job, LabelSet, Preflight, PreflightOverride, Project, Reference, Rule
from app.preflights import newest_preflight, override_of


@dataclass(frozen=True)
class Compared:
    """One reference on one corpus. Artifacts are None where it has not come so far."""

    reference: Reference
    preflight: Preflight | None
    store: Artifact | None
    discovery: Artifact | None
    accepted: int
    labels: LabelSet | None


def compared(session: Session, project: Project) -> list[Compared]:
    """Every reference, those that read the project's corpus first."""
    rows = []
    for reference in queries.references(session):
        verdicts = queries.verdicts_of(session, project, reference_id=reference.id).values()
        rows.append(
            Compared(
                reference,
                newest_preflight(session, reference.id, project.id),
                queries.harvested(session, project.id, reference.id, "store"),
                queries.harvested(session, project.id, reference.id, "discovery"),
                sum(verdict.decision == "accept" for verdict in verdicts),
                newest_labels(session, project.id, reference.id),
            )
        )
    return sorted(rows, key=lambda row: row.store is None)


def newest_labels(session: Session, project_id: int, reference_id: int) -> LabelSet | None:
    query = select(LabelSet).join(Rule, Rule.id == LabelSet.rule_id)
    mine = (LabelSet.project_id == project_id, Rule.reference_id == reference_id)
    return session.scalar(query.where(*mine).order_by(LabelSet.id.desc()).limit(1))


def checked_projects(
    session: Session, reference_id: int
) -> list[tuple[Project, Preflight | None, PreflightOverride | None]]:
    """Every project with the reference's newest preflight on its text, and what overrode that."""
    rows = []
    for project in session.scalars(select(Project).order_by(Project.name)):
        preflight = newest_preflight(session, reference_id, project.id)
        rows.append((project, preflight, override_of(session, preflight) if preflight else None))
    return rows


def reference_jobs(session: Session, reference_id: int | None = None, limit: int = 3) -> Sequence[Job]:
    """Newest jobs that add references, or that check one."""
    kind = "reference" if reference_id is None else "preflight"
    found = session.scalars(select(Job).where(Job.kind == kind).order_by(Job.id.desc()).limit(50))
    return [job for job in found if reference_id is None or job.args.get("reference_id") == reference_id][:limit]
