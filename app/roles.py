"""Who may do what. Every route needs a curator unless it is listed here, so a new one is closed to annotators.

A project that somebody is not a member of does not exist for them (404), as with sealed documents.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import SAFE_METHODS, SessionDep
from app.models import Account, Job, Membership, Project

OWNER = "owner"  # the one user of solo mode
ROLES = ("annotator", "curator", "admin")  # each may do what those before it may
SCOPES = ("read", "write")

# By the address's pattern, never by the address: the router decides what a request asks for.
FOR_ANNOTATORS = {"/", "/account", "/account/password", "/health", "/login", "/logout", "/projects/{slug}/review"}
FOR_ANNOTATORS_UNDER = ("/login/", "/projects/{slug}/documents/")
FOR_ADMINS_UNDER = ("/team", "/projects/{slug}/sealed/")
NOT_FOR_TOKENS_UNDER = ("/account", "/team")


@dataclass(frozen=True)
class Viewer:
    """Whoever sends a request: solo mode's owner, or a member of the team."""

    name: str
    role: str
    scope: str = "write"  # of the token it came with
    by_token: bool = False

    @property
    def layer(self) -> str:
        """Whose labels this person writes: their own, or in solo mode the project's."""
        return "" if self.name == OWNER else self.name

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


SOLO = Viewer(OWNER, "admin")


def role_needed(method: str, path: str) -> str:
    """The least role for a route, by its pattern."""
    if path.startswith(FOR_ADMINS_UNDER):
        return "admin"
    listed = path in FOR_ANNOTATORS or path.startswith(FOR_ANNOTATORS_UNDER)
    return "annotator" if listed or (path == "/projects" and method in SAFE_METHODS) else "curator"


def memberships(session: Session, viewer: Viewer) -> set[int] | None:
    """Ids of the projects this person may see; None means all."""
    if viewer.may("admin"):
        return None
    query = select(Membership.project_id).join(Account, Account.id == Membership.account_id)
    return set(session.scalars(query.where(Account.name == viewer.name)))


def join_project(session: Session, viewer: Viewer, project_id: int) -> None:
    """Whoever makes a project is a member of it; the owner needs no membership."""
    account_id = session.scalar(select(Account.id).where(Account.name == viewer.name))
    if account_id is not None:
        session.add(Membership(account_id=account_id, project_id=project_id))


def _project_id(session: Session, parameters: dict[str, str]) -> int | None:
    """The project that an address is about, if it names one that exists."""
    if "slug" in parameters:
        return session.scalar(select(Project.id).where(Project.slug == parameters["slug"]))
    job_id = parameters.get("job_id", "")
    if job_id.isdecimal() and len(job_id) < 10:  # what fits the column
        return session.scalar(select(Job.project_id).where(Job.id == int(job_id)))
    return None


def _belongs_to_all(session: Session, parameters: dict[str, str]) -> bool:
    """A job that adds a reference is of no project."""
    job_id = parameters.get("job_id", "")
    job = session.get(Job, int(job_id)) if job_id.isdecimal() and len(job_id) < 10 else None
    return job is not None and job.project_id is None


def authorise(request: Request, session: SessionDep) -> None:
    """A dependency of the whole app: it runs after routing and before anything else of the route."""
    viewer: Viewer | None = request.state.viewer
    if viewer is None:
        return  # a public route: the guard let nothing else through
    path: str = request.scope["route"].path
    reads = request.method in SAFE_METHODS
    if viewer.by_token and (path.startswith(NOT_FOR_TOKENS_UNDER) or not (reads or viewer.scope == "write")):
        raise HTTPException(403, "This token may not do that.")
    needed = role_needed(request.method, path)
    if not viewer.may(needed):
        raise HTTPException(403, f"This needs the role {needed}; yours is {viewer.role}.")
    if viewer.may("admin") or not ({"slug", "job_id"} & request.path_params.keys()):
        return
    mine, asked = memberships(session, viewer), _project_id(session, request.path_params)
    if mine is not None and asked not in mine and not _belongs_to_all(session, request.path_params):
        raise HTTPException(404, "There is no such project, or you are not a member of it.")


def current_viewer(request: Request) -> Viewer:
    viewer: Viewer | None = request.state.viewer
    if viewer is None:
        raise HTTPException(401, "Log in first.")
    return viewer


ViewerDep = Annotated[Viewer, Depends(current_viewer)]
