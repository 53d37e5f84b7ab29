"""The team: who has an account, with which role, on which projects. Admins only."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import Response
from sqlalchemy import select

from app import accounts
from app.db import SessionDep
from app.models import Account, Project
from app.pages import redirect, render
from app.roles import ROLES
from app.security import CurrentUser

router = APIRouter(prefix="/team")


def get_account(session: SessionDep, account_id: int) -> Account:
    account = session.get(Account, account_id)
    if account is None:
        raise HTTPException(404, "There is no such account.")
    return account


AccountDep = Annotated[Account, Depends(get_account, scope="function")]


def _page(request: Request, session: SessionDep, status: int = 200, **more: Any) -> Response:
    context = {
        "accounts": accounts.accounts(session), "invites": accounts.open_invites(session), "roles": ROLES,
        "projects": session.scalars(select(Project).order_by(Project.id)).all(),
        "member_of": accounts.projects_by_account(session), "link": None, "error": None, "form": {},
    }  # fmt: skip
    return render(
        request, "team/index.html", "team/_invite.html" if status == 422 else None, status, **(context | more)
    )


@router.get("")
def index(request: Request, session: SessionDep) -> Response:
    return _page(request, session)


@router.post("/invites")
def invite(
    request: Request, session: SessionDep, user: CurrentUser,
    name: Annotated[str, Form(max_length=80)] = "", role: Annotated[str, Form(max_length=10)] = "annotator",
    projects: Annotated[list[int], Form()] = [],  # noqa: B006 (FastAPI copies it)
) -> Response:  # fmt: skip
    """The one page that ever shows the link."""
    try:
        path = accounts.invite(session, name.strip(), role, projects, user)
    except ValueError as error:
        return _page(request, session, 422, error=str(error), form={"name": name, "role": role, "projects": projects})
    return _page(request, session, link=_whole(request, path), form={"name": name})


@router.post("/invites/withdraw")
def withdraw(request: Request, session: SessionDep, name: Annotated[str, Form(max_length=80)]) -> Response:
    accounts.withdraw_invites(session, name)
    return redirect(request, "/team")


@router.post("/accounts/{account_id}")
def change(
    request: Request, session: SessionDep, account: AccountDep, role: Annotated[str, Form(max_length=10)],
    projects: Annotated[list[int], Form()] = [],  # noqa: B006 (FastAPI copies it)
) -> Response:  # fmt: skip
    known = set(session.scalars(select(Project.id)))
    try:
        accounts.set_role(session, account, role)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    accounts.join(session, account, known.intersection(projects))
    return redirect(request, "/team")


@router.post("/accounts/{account_id}/close")
def close(request: Request, session: SessionDep, account: AccountDep) -> Response:
    """Out by the next request; what this person labelled stays."""
    try:
        accounts.close(session, account)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return redirect(request, "/team")


@router.post("/accounts/{account_id}/open")
def reopen(request: Request, session: SessionDep, account: AccountDep) -> Response:
    account.disabled_at = None
    return redirect(request, "/team")


@router.post("/accounts/{account_id}/reset")
def reset(request: Request, session: SessionDep, account: AccountDep, user: CurrentUser) -> Response:
    """A link by which this person chooses a new password."""
    path = accounts.reset_link(session, account, user)
    return _page(request, session, link=_whole(request, path), form={"name": account.name})


def _whole(request: Request, path: str) -> str:
    return f"{str(request.base_url).rstrip('/')}{path}"
