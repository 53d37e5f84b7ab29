"""Who gets in: a single-use login link, then a session cookie; everything else is refused.

One ASGI layer around the whole app, mounts included, so that no route can be forgotten: it
checks the host (DNS rebinding), the origin of unsafe requests (CSRF) and the session, in this
order, and puts the headers on every answer. Tokens are random; the database keeps only hashes.
"""

import hashlib
import ipaddress
import secrets
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db import SAFE_METHODS, reading
from app.models import LoginLink, LoginSession, now
from app.settings import Settings

OWNER = "owner"  # the one user of solo mode
LINK_HOURS = 12
FORM_BYTES = 4 * 1024**2  # forms and JSON
UPLOAD_BYTES = 8 * 1024**3  # multipart: corpus files
# The whole list of what a stranger may reach.
PUBLIC_PATHS = ("/login", "/health")
PUBLIC_PREFIXES = ("/login/", "/static/")

CSP = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def cookie_name(settings: Settings) -> str:
    """The port is part of it: cookies ignore ports, and two workbenches may run on one machine."""
    return f"tokensieve_{settings.port}"


def check_bind(settings: Settings) -> None:
    """Solo mode has no accounts, so it answers only on this machine."""
    if settings.host == "localhost" or _is_loopback(settings.host):
        return
    raise ValueError(
        f"host {settings.host!r} would let other machines in, and this version has no accounts; "
        "keep TOKENSIEVE_HOST at 127.0.0.1 and reach it through an SSH tunnel"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_login_link(session: Session, settings: Settings) -> str:
    """A path that logs in whoever opens it first. The caller prints it after the host and port."""
    token = secrets.token_urlsafe(32)
    session.add(LoginLink(token_hash=_hash(token), expires_at=now() + timedelta(hours=LINK_HOURS)))
    session.flush()
    return f"/login/{token}"


def use_login_link(session: Session, settings: Settings, token: str) -> str | None:
    """Spend the link; the new session's cookie value, or None if it was spent, expired or never made."""
    fresh = (LoginLink.token_hash == _hash(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now())
    spent = session.execute(update(LoginLink).where(*fresh).values(used_at=now()))
    return open_session(session, settings) if spent.rowcount == 1 else None  # type: ignore[attr-defined]


def open_session(session: Session, settings: Settings, user: str = OWNER) -> str:
    """A new login session; returns the cookie's value. Expired ones are cleared on the way."""
    session.execute(delete(LoginSession).where(LoginSession.expires_at < now()))
    token = secrets.token_urlsafe(32)
    until = now() + timedelta(days=settings.session_days)
    session.add(LoginSession(token_hash=_hash(token), user=user, expires_at=until))
    session.flush()
    return token


def close_session(session: Session, token: str) -> None:
    session.execute(delete(LoginSession).where(LoginSession.token_hash == _hash(token)))


def set_cookie(response: Response, settings: Settings, token: str) -> None:
    response.set_cookie(
        cookie_name(settings), token, max_age=settings.session_days * 86400, httponly=True, samesite="lax"
    )


def session_user(sessions: sessionmaker[Session], token: str) -> str | None:
    alive = (LoginSession.token_hash == _hash(token), LoginSession.expires_at > now())
    with reading(sessions) as session:
        return session.scalar(select(LoginSession.user).where(*alive))


def host_allowed(host: str, settings: Settings) -> bool:
    """Only names that mean this machine; any port, since an SSH tunnel may change it."""
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    rest = host.removeprefix(name)
    if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
        return False
    return name.lower() in {"localhost", "127.0.0.1", "[::1]", settings.host.lower()}


def same_origin(headers: Headers, scheme: str) -> bool:
    """A browser says where a request comes from; one that says nothing is not trusted."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    return headers.get("origin") == f"{scheme}://{headers.get('host', '')}"


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


class Guard:
    """The outermost ASGI layer."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return  # no websockets here
        send = _with_headers(send, scope["path"])
        refusal = await self._refusal(scope)
        if refusal is None:
            await self.app(scope, _limited(receive, Headers(scope=scope)), send)
        else:
            await refusal(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        """Why this request goes no further; else None, with the user's name in the scope's state."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not host_allowed(hosts[0], self.settings):
            return PlainTextResponse("This workbench answers only under its own address.", 421)
        if scope["method"] not in SAFE_METHODS and not same_origin(headers, scope["scheme"]):
            return PlainTextResponse("Refused: this request came from another site.", 403)
        token = Request(scope).cookies.get(cookie_name(self.settings))
        user = await run_in_threadpool(session_user, self.sessions, token) if token else None
        scope.setdefault("state", {})["user"] = user
        if user is None and not is_public(scope["path"]):
            return _login_first(scope, headers)
        return None


def _login_first(scope: Scope, headers: Headers) -> Response:
    from app.pages import render

    if "hx-request" in headers:
        return PlainTextResponse("Log in first.", 401, {"HX-Redirect": "/login"})
    if "text/html" in headers.get("accept", "") and scope["method"] in SAFE_METHODS:
        return render(Request(scope), "login.html", status=401)
    return PlainTextResponse("Log in first.", 401)


def _with_headers(send: Send, path: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if not path.startswith("/static/"):
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return wrapped


def _limited(receive: Receive, headers: Headers) -> Receive:
    """Forms and JSON are small; only file uploads (multipart) may be long, and none is endless."""
    upload = headers.get("content-type", "").startswith("multipart/form-data")
    most, seen = UPLOAD_BYTES if upload else FORM_BYTES, 0

    async def wrapped() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, "This is too large to send in a form; import it with `tokensieve import`.")
        return message

    return wrapped


def current_user(request: Request) -> str:
    """The author of what this request writes."""
    user: str | None = request.state.user
    if user is None:
        raise HTTPException(401, "Log in first.")
    return user


CurrentUser = Annotated[str, Depends(current_user)]
