"""What the pages around a rule have in common: the newest finding of a kind, how it stands to the newest rule, its jobs."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import queries
from app.artifacts import folder_of, time_of
from app.jobs import enqueue
from app.models import Artifact, Job, Project, Rule
from app.routes.jobs import job_context
from app.settings import Settings
from labeling.artifacts import ArtifactError, verify


@dataclass(frozen=True)
class Finding:
    """A finished analysis, comparison, ladder or transfer."""

    artifact: Artifact
    folder: Path
    said: dict[str, Any]
    rule: int  # the version it is about

    def array(self, name: str) -> NDArray[Any]:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def finding(
    session: Session, settings: Settings, project: Project, kind: str, version: int | None = None
) -> Finding | None:
    """The newest of a kind, or of one rule version."""
    query = (
        select(Artifact).where(Artifact.project_id == project.id, Artifact.kind == kind).order_by(Artifact.id.desc())
    )
    for artifact in session.scalars(query):
        if version is None or artifact.info.get("rule") == version:
            folder = folder_of(settings, artifact)
            try:
                said = _said(folder, kind, time_of(folder))
            except ArtifactError as error:
                raise HTTPException(409, f"{error}. Run it again.") from None
            return Finding(artifact, folder, said, artifact.info["rule"])
    return None


@lru_cache(maxsize=16)
def _said(folder: Path, kind: str, time: int) -> dict[str, Any]:
    verify(folder, kind)
    (file,) = folder.glob("[a-z]*.json")  # MANIFEST.json is in capitals
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def page_context(
    session: Session, settings: Settings, project: Project, kind: str, job: str, version: int | None = None
) -> dict[str, Any]:
    """`found` (or None), `newest` rule, `versions` that can be looked at, `jobs` of this kind that are not done."""
    jobs = [j for j in queries.newest_jobs(session, project.id, [job], 2) if j.state != "done"]
    made = session.scalars(select(Artifact).where(Artifact.project_id == project.id, Artifact.kind == kind))
    return {
        "project": project,
        "found": finding(session, settings, project, kind, version),
        "newest": queries.newest_rule(session, project.id),
        "versions": sorted({int(a.info["rule"]) for a in made}, reverse=True),
        "jobs": [job_context(session, j) for j in jobs],
    }


def start(session: Session, project: Project, kind: str, author: str, **args: Any) -> Job | None:
    """Queue a job about the newest rule; None if there is no rule yet."""
    rule: Rule | None = queries.newest_rule(session, project.id)
    return enqueue(session, kind, project.id, {"rule_id": rule.id, **args}, author) if rule else None
