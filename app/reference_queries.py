"""SQL about references: what was harvested with which, and how they compare on one corpus."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app import queries
from app.artifacts import LatentTable
from app.models import Artifact, Job, LabelSet, Preflight, PreflightOverride, Project, Reference, Rule
from app.preflights import newest_preflight, override_of
from labeling.discovery import selective

RATIOS = tuple(range(3, 31))


@dataclass(frozen=True)
class Compared:
    """One reference on one corpus. Artifacts are None where it has not come so far."""

    reference: Reference
    preflight: Preflight | None
    store: Artifact | None
    discovery: Artifact | None
    accepted: int
    labels: LabelSet | None

    def flagged(self, family: str) -> float | None:
        """Share of the family's tokens, of all splits, that the newest rule over these latents flags."""
        splits = (self.labels.info.get("families", {}).get(family, {}) if self.labels else {}).values()
        tokens = sum(split["tokens"] for split in splits)
        return sum(split["tokens"] * split["share"] for split in splits) / tokens if tokens else None


def selectivity(table: LatentTable) -> list[tuple[float, float]]:
    """(ratio, latents that reach it with strong firings enough): how much a dictionary offers on this corpus."""
    return [(ratio, len(selective(table.columns, ratio))) for ratio in RATIOS]


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
                labels_under(session, project.id, reference.id),
            )
        )
    return sorted(rows, key=lambda row: row.store is None)


def labels_under(session: Session, project_id: int, reference_id: int | None) -> LabelSet | None:
    """The newest weak labels by a rule over the reference's latents, or over none."""
    query = select(LabelSet).join(Rule, Rule.id == LabelSet.rule_id)
    mine = (LabelSet.project_id == project_id, or_(Rule.reference_id == reference_id, Rule.reference_id.is_(None)))
    return session.scalar(query.where(*mine).order_by(LabelSet.id.desc()).limit(1))


def checked_projects(
    session: Session, reference_id: int, mine: set[int] | None
) -> list[tuple[Project, Preflight | None, PreflightOverride | None]]:
    """Projects (those in `mine`, or all) with the reference's newest preflight on their text, and what overrode it."""
    rows = []
    for project in session.scalars(select(Project).order_by(Project.name)):
        if mine is None or project.id in mine:
            preflight = newest_preflight(session, reference_id, project.id)
            rows.append((project, preflight, override_of(session, preflight) if preflight else None))
    return rows


def adding_jobs(session: Session, limit: int = 3) -> Sequence[Job]:
    """The newest jobs that add references."""
    return session.scalars(select(Job).where(Job.kind == "reference").order_by(Job.id.desc()).limit(limit)).all()


def preflight_jobs(session: Session, reference_id: int, project_ids: Sequence[int]) -> list[Job]:
    """Each project's newest check of the reference."""
    query = select(Job).where(Job.kind == "preflight", Job.project_id.in_(project_ids)).order_by(Job.id)
    newest = {job.project_id: job for job in session.scalars(query) if job.args.get("reference_id") == reference_id}
    return list(newest.values())
