"""Who gets in: a single-use login link or a password, then a session cookie; everything else is refused.

One ASGI layer around the whole app, mounts included, so that no route can be forgotten: it
checks the host (DNS rebinding), the origin of unsafe requests (CSRF) and the session or token,
in this order, and puts the headers on every answer. Tokens are random; the database keeps only
hashes. What a member may do once inside is `app.roles`.
"""

import hashlib
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
from app.models import Account, ApiToken, LoginLink, LoginSession, now
from app.roles import OWNER, SOLO, Viewer
from app.settings import Settings

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


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def cookie_name(settings: Settings) -> str:
    """The port is part of it: cookies ignore ports, and two workbenches may run on one machine."""
    return f"tokensieve_{settings.port}"


def check_bind(settings: Settings) -> None:
    """Solo mode has no accounts, so it answers only on this machine. Raises ValueError with what is missing."""
    if not settings.team:
        return
    missing = []
    if not settings.allowed_hosts:
        missing.append("set TOKENSIEVE_ALLOWED_HOSTS to the names browsers will use, such as '[\"label.example.org\"]'")
    if not settings.loopback and not settings.insecure_http and not (settings.tls_cert and settings.tls_key):
        missing.append(
            "give TOKENSIEVE_TLS_CERT and TOKENSIEVE_TLS_KEY (or TOKENSIEVE_INSECURE_HTTP=1 if something in front encrypts)"
        )
    if missing:
        raise ValueError(f"host {settings.host!r} lets other machines in: {'; '.join(missing)}")


def check_admin(settings: Settings, session: Session) -> None:
    """Other machines are let in only once somebody can govern who. Raises ValueError."""
    if not settings.team:
        return
    admin = select(Account.id).where(Account.role == "admin", Account.disabled_at.is_(None)).limit(1)
    if session.scalar(admin) is None:
        raise ValueError("a team needs an admin first: run `tokensieve account add NAME --role admin` on this machine")


def make_login_link(session: Session, settings: Settings) -> str:
    """A path that logs in whoever opens it first. The caller prints it after the host and port."""
    token = secrets.token_urlsafe(32)
    session.add(LoginLink(token_hash=token_hash(token), expires_at=now() + timedelta(hours=LINK_HOURS)))
    session.flush()
    return f"/login/{token}"


def use_login_link(session: Session, settings: Settings, token: str) -> str | None:
    """Spend the link; the new session's cookie value, or None if it was spent, expired or never made."""
    fresh = (LoginLink.token_hash == token_hash(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now())
    spent = session.execute(update(LoginLink).where(*fresh).values(used_at=now()))
    return open_session(session, settings) if spent.rowcount == 1 else None  # type: ignore[attr-defined]


def open_session(session: Session, settings: Settings, user: str = OWNER) -> str:
    """A new login session; returns the cookie's value. Expired ones are cleared on the way."""
    session.execute(delete(LoginSession).where(LoginSession.expires_at < now()))
    token = secrets.token_urlsafe(32)
    until = now() + timedelta(days=settings.session_days)
    session.add(LoginSession(token_hash=token_hash(token), user=user, expires_at=until))
    session.flush()
    return token


def close_session(session: Session, token: str) -> None:
    session.execute(delete(LoginSession).where(LoginSession.token_hash == token_hash(token)))


def close_sessions(session: Session, user: str) -> None:
    """Log this person out everywhere."""
    session.execute(delete(LoginSession).where(LoginSession.user == user))


def set_cookie(request: Request, response: Response, settings: Settings, token: str) -> None:
    response.set_cookie(
        cookie_name(settings), token, max_age=settings.session_days * 86400, httponly=True, samesite="lax",
        secure=request.url.scheme == "https",
    )  # fmt: skip


def session_viewer(settings: Settings, sessions: sessionmaker[Session], token: str) -> Viewer | None:
    """Whose cookie this is; the owner's is worth nothing where other machines are let in."""
    alive = (LoginSession.token_hash == token_hash(token), LoginSession.expires_at > now())
    query = select(LoginSession.user, Account.role, Account.disabled_at).where(*alive)
    with reading(sessions) as session:
        found = session.execute(query.outerjoin(Account, Account.name == LoginSession.user)).one_or_none()
    if found is None:
        return None
    user, role, disabled_at = found
    if user == OWNER:
        return None if settings.team else SOLO
    return Viewer(user, role) if role and disabled_at is None else None


def token_viewer(sessions: sessionmaker[Session], token: str) -> Viewer | None:
    """Whose script this is."""
    alive = (
        ApiToken.token_hash == token_hash(token), ApiToken.expires_at > now(), ApiToken.revoked_at.is_(None),
        Account.disabled_at.is_(None),
    )  # fmt: skip
    query = select(Account.name, Account.role, ApiToken.scope).join(Account, Account.id == ApiToken.account_id)
    with reading(sessions) as session:
        found = session.execute(query.where(*alive)).one_or_none()
    return Viewer(*found, by_token=True) if found else None


def has_accounts(sessions: sessionmaker[Session]) -> bool:
    with reading(sessions) as session:
        return session.scalar(select(Account.id).limit(1)) is not None


def host_allowed(host: str, settings: Settings) -> bool:
    """Only names that mean this server; any port, since an SSH tunnel may change it."""
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    rest = host.removeprefix(name)
    if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
        return False
    named = settings.allowed_hosts + ([settings.host] if settings.loopback else [])
    return name.lower() in {"localhost", "127.0.0.1", "[::1]", *(own.lower() for own in named)}


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
        """Why this request goes no further; else None, with who sent it in the scope's state."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not host_allowed(hosts[0], self.settings):
            return PlainTextResponse("This workbench answers only under its own address.", 421)
        viewer = None
        if "authorization" in headers and "cookie" not in headers:  # no browser sends this by itself
            scheme, _, token = headers["authorization"].partition(" ")
            if scheme.lower() == "bearer":
                viewer = await run_in_threadpool(token_viewer, self.sessions, token.strip())
        elif scope["method"] not in SAFE_METHODS and not same_origin(headers, scope["scheme"]):
            return PlainTextResponse("Refused: this request came from another site.", 403)
        elif cookie := Request(scope).cookies.get(cookie_name(self.settings)):
            viewer = await run_in_threadpool(session_viewer, self.settings, self.sessions, cookie)
        scope.setdefault("state", {}).update(viewer=viewer, user=viewer.name if viewer else None)
        if viewer is None and not is_public(scope["path"]):
            return _login_first(scope, headers, await run_in_threadpool(has_accounts, self.sessions))
        return None


def _login_first(scope: Scope, headers: Headers, accounts: bool) -> Response:
    from app.pages import render

    if "hx-request" in headers:
        return PlainTextResponse("Log in first.", 401, {"HX-Redirect": "/login"})
    if "text/html" in headers.get("accept", "") and scope["method"] in SAFE_METHODS:
        return render(Request(scope), "login.html", status=401, accounts=accounts)
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
