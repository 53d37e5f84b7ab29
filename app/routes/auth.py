"""Logging in, by a single-use link, a password or an invite; and out again."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app import accounts
from app.db import SessionDep
from app.pages import redirect, render
from app.security import close_session, cookie_name, has_accounts, set_cookie, use_login_link

router = APIRouter()
Password = Annotated[str, Form(max_length=1000)]


def _let_in(request: Request, cookie: str) -> Response:
    response = RedirectResponse("/", status_code=303)
    set_cookie(request, response, request.app.state.settings, cookie)
    return response


@router.get("/login")
def login_page(request: Request) -> Response:
    if request.state.user:
        return RedirectResponse("/", status_code=303)
    return render(request, "login.html", accounts=has_accounts(request.app.state.sessions))


@router.post("/login")
def log_in(request: Request, name: Annotated[str, Form(max_length=1000)] = "", password: Password = "") -> Response:
    state = request.app.state
    try:
        cookie = accounts.log_in(state.sessions, state.settings, name.strip(), password)
        error, status = "This name and password do not go together.", 403
    except accounts.TooManyTries:
        cookie, status = None, 429
        error = (
            f"Too many tries for this name. Wait {accounts.TRY_MINUTES} minutes, or ask an admin to set a new password."
        )
    if cookie is None:
        return render(request, "login.html", status=status, accounts=True, name=name, error=error)
    return _let_in(request, cookie)


@router.get("/login/{token}")
def login(request: Request, token: str) -> Response:
    """The one GET that writes: the link comes from a terminal, so it has to be a plain link."""
    if request.state.user:
        return RedirectResponse("/", status_code=303)
    state = request.app.state
    cookie = None
    if not state.settings.team:
        with state.sessions.begin() as session:
            cookie = use_login_link(session, state.settings, token)
    if cookie is None:
        return render(request, "login.html", status=403, spent=True, accounts=has_accounts(request.app.state.sessions))
    return _let_in(request, cookie)


@router.get("/login/invite/{token}")
def invited(request: Request, session: SessionDep, token: str) -> Response:
    """Looking does not spend an invite: mail programs look at links before people do."""
    found = accounts.open_invite(session, token)
    return render(request, "invite.html", status=200 if found else 403, invite=found, token=token, error=None)


@router.post("/login/invite/{token}")
def accept(request: Request, session: SessionDep, token: str, password: Password = "") -> Response:
    found = accounts.open_invite(session, token)
    try:
        cookie = accounts.accept_invite(session, request.app.state.settings, token, password)
    except ValueError as error:
        return render(request, "invite.html", status=422 if found else 403, invite=found, token=token, error=str(error))
    return _let_in(request, cookie)


@router.post("/logout")
def logout(request: Request, session: SessionDep) -> Response:
    name = cookie_name(request.app.state.settings)
    close_session(session, request.cookies.get(name, ""))
    response = redirect(request, "/login")
    response.delete_cookie(name)
    return response


@router.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
