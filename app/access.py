"""What most handlers begin with: the settings and the project that the address names."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from app.artifacts import LatentTable, open_store, open_table
from app.db import SessionDep
from app.models import Project
from app.queries import newest_artifact, project_by_slug
from app.settings import Settings
from labeling.store import Store


def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def get_project(slug: str, session: SessionDep) -> Project:
    project = project_by_slug(session, slug)
    if project is None:
        raise HTTPException(404, f"There is no project called {slug}.")
    return project


SettingsDep = Annotated[Settings, Depends(get_settings)]
ProjectDep = Annotated[Project, Depends(get_project, scope="function")]


def get_store(project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Store | None:
    """The project's newest activation store; None before its first harvest."""
    artifact = newest_artifact(session, project.id, "store")
    return open_store(settings, artifact) if artifact else None


def get_table(project: ProjectDep, session: SessionDep, settings: SettingsDep) -> LatentTable | None:
    """The project's newest latent statistics; None before the first discovery."""
    artifact = newest_artifact(session, project.id, "discovery")
    return open_table(settings, artifact) if artifact else None


StoreDep = Annotated[Store | None, Depends(get_store, scope="function")]
TableDep = Annotated[LatentTable | None, Depends(get_table, scope="function")]
