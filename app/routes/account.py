"""One's own account: password and tokens."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import Response

from app import accounts
from app.access import SettingsDep
from app.db import SessionDep
from app.pages import redirect, render
from app.roles import ViewerDep
from app.security import open_session, set_cookie

router = APIRouter(prefix="/account")


def _page(request: Request, session: SessionDep, viewer: ViewerDep, status: int = 200, **more: Any) -> Response:
    context: dict[str, Any] = {
        "tokens": accounts.tokens_of(session, viewer.name),
        "days": accounts.TOKEN_DAYS,
        "made": None,
        "error": None,
    }
    return render(request, "account.html", status=status, **(context | more))


@router.get("")
def show(request: Request, session: SessionDep, viewer: ViewerDep) -> Response:
    return _page(request, session, viewer)


@router.post("/password")
def set_password(
    request: Request, session: SessionDep, settings: SettingsDep, viewer: ViewerDep,
    old: Annotated[str, Form(max_length=1000)] = "", new: Annotated[str, Form(max_length=1000)] = "",
) -> Response:  # fmt: skip
    """Logs out every other browser and revokes every token."""
    account = accounts.account_of(session, viewer.name)
    if account is None:
        raise HTTPException(409, "Solo mode has no password.")
    try:
        if not accounts.hasher().verify(old, account.password_hash):
            raise ValueError("the old password is not right")
        accounts.set_password(session, account, new)
    except ValueError as error:
        return _page(request, session, viewer, 422, error=str(error))
    response = redirect(request, "/account")
    set_cookie(request, response, settings, open_session(session, settings, account.name))
    return response


@router.post("/tokens")
def make_token(
    request: Request, session: SessionDep, viewer: ViewerDep,
    name: Annotated[str, Form(max_length=80)] = "", scope: Annotated[str, Form(max_length=10)] = "read",
    days: Annotated[int, Form(ge=0, le=10_000)] = 30,
) -> Response:  # fmt: skip
    """The one page that ever shows the token."""
    try:
        made = accounts.make_token(session, viewer, name, scope, days)
    except ValueError as error:
        return _page(request, session, viewer, 422, error=str(error))
    return _page(request, session, viewer, made=made)


@router.post("/tokens/{token_id}/revoke")
def revoke(request: Request, session: SessionDep, viewer: ViewerDep, token_id: int) -> Response:
    if not accounts.revoke_token(session, viewer.name, token_id):
        raise HTTPException(404, "You have no such token.")
    return redirect(request, "/account")
