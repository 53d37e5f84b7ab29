"""Logging in by a single-use link, and out again."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from app.db import SessionDep
from app.pages import redirect, render
from app.security import close_session, cookie_name, set_cookie, use_login_link

router = APIRouter()


@router.get("/login")
def login_page(request: Request) -> Response:
    if request.state.user:
        return RedirectResponse("/", status_code=303)
    return render(request, "login.html")


@router.get("/login/{token}")
def login(request: Request, token: str) -> Response:
    """The one GET that writes: the link comes from a terminal, so it has to be a plain link."""
    if request.state.user:
        return RedirectResponse("/", status_code=303)
    settings = request.app.state.settings
    with request.app.state.sessions.begin() as session:
        cookie = use_login_link(session, settings, token)
    if cookie is None:
        return render(request, "login.html", status=403, spent=True)
    response = RedirectResponse("/", status_code=303)
    set_cookie(response, settings, cookie)
    return response


@router.post("/logout")
def logout(request: Request, session: SessionDep) -> Response:
    name = cookie_name(request.app.state.settings)
    close_session(session, request.cookies[name])
    response = redirect(request, "/login")
    response.delete_cookie(name)
    return response


@router.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
