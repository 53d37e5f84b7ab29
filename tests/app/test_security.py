"""Who gets in, and what every answer carries."""

import re
from datetime import timedelta
from typing import Annotated

import pytest
from fastapi import FastAPI, Form
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.routing import BaseRoute, Mount, Route

from app.main import create_app
from app.models import LoginLink, LoginSession, Project, now
from app.security import CSP, FORM_BYTES, PUBLIC_PATHS, PUBLIC_PREFIXES, cookie_name, host_allowed, make_login_link
from app.settings import Settings

HTML = {"Accept": "text/html"}


def every_route(app: FastAPI, slug: str = "1") -> list[tuple[str, str]]:
    """(method, path with its parameters filled in) of every route and mount."""

    def walk(routes: list[BaseRoute], prefix: str = "") -> list[tuple[str, str]]:
        found = []
        for route in routes:
            if isinstance(route, Mount):
                found.append(("GET", f"{prefix}{route.path}/app.css"))
            elif isinstance(route, Route):
                path = re.sub(r"\{[^}]+\}", "1", (prefix + route.path).replace("{slug}", slug))
                found += [(method, path) for method in sorted(route.methods or {"GET"})]
            else:  # an included router
                found += walk(route.original_router.routes, prefix)  # type: ignore[attr-defined]
        return found

    return walk(app.routes)


def fresh_link(sessions: sessionmaker[Session], settings: Settings) -> str:
    with sessions.begin() as session:
        return make_login_link(session, settings)


def test_the_link_logs_in_once(anonymous: TestClient, sessions: sessionmaker[Session], settings: Settings):
    link = fresh_link(sessions, settings)
    response = anonymous.get(link)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"tokensieve_{settings.port}=") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert anonymous.get("/jobs/1", headers=HTML).status_code == 404  # inside now
    anonymous.cookies.clear()
    again = anonymous.get(link)
    assert again.status_code == 403 and "does not work any more" in again.text and "set-cookie" not in again.headers


def test_an_expired_or_invented_link_is_refused(anonymous, sessions: sessionmaker[Session], settings: Settings):
    link = fresh_link(sessions, settings)
    with sessions.begin() as session:
        session.execute(update(LoginLink).values(expires_at=now() - timedelta(seconds=1)))
    assert anonymous.get(link).status_code == 403
    assert anonymous.get("/login/invented").status_code == 403


def test_the_database_holds_no_token(client, sessions: sessionmaker[Session], settings: Settings):
    link = fresh_link(sessions, settings)
    token = client.cookies[cookie_name(settings)]
    with sessions() as session:
        stored = [*session.scalars(select(LoginLink.token_hash)), *session.scalars(select(LoginSession.token_hash))]
    assert len(stored) == 2 and all(len(h) == 32 and h not in (token.encode(), link.encode()) for h in stored)


def test_a_deleted_or_expired_session_is_out_by_the_next_request(client, sessions: sessionmaker[Session]):
    assert client.get("/jobs/1").status_code == 404
    with sessions.begin() as session:
        session.execute(update(LoginSession).values(expires_at=now() - timedelta(seconds=1)))
    assert client.get("/jobs/1").status_code == 401
    with sessions.begin() as session:
        session.execute(delete(LoginSession))
    assert client.get("/jobs/1").status_code == 401


def test_logging_out_revokes_the_cookie(client: TestClient, settings: Settings):
    token = client.cookies[cookie_name(settings)]
    assert client.post("/logout").headers["location"] == "/login"
    client.cookies.set(cookie_name(settings), token)
    assert client.get("/jobs/1").status_code == 401


def test_the_public_list_is_short():
    assert len(PUBLIC_PATHS) + len(PUBLIC_PREFIXES) <= 5


def test_a_stranger_reaches_nothing_else(app: FastAPI, anonymous: TestClient):
    assert ("POST", "/jobs/1/cancel") in every_route(app)
    for method, path in [*every_route(app), ("GET", "/nowhere"), ("GET", "/openapi.json")]:
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            continue
        assert anonymous.request(method, path).status_code == 401, (method, path)


def test_a_stranger_sees_how_to_log_in(anonymous: TestClient):
    page = anonymous.get("/projects", headers=HTML)
    assert page.status_code == 401 and "tokensieve" in page.text and "Log in" in page.text
    fragment = anonymous.get("/jobs/1", headers={"HX-Request": "true"})
    assert (fragment.status_code, fragment.headers["HX-Redirect"]) == (401, "/login")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "", "Origin": "http://127.0.0.1:8765"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8765"},
    ],
)
def test_requests_from_other_sites_are_refused_on_every_unsafe_route(app, client: TestClient, headers):
    for method, path in every_route(app):
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, path, headers=headers).status_code == 403, (method, path)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8765", 404),
        ("http://127.0.0.1:9999", 403),
        ("https://127.0.0.1:8765", 403),
        ("null", 403),
        (None, 403),
    ],
)
def test_without_fetch_metadata_the_origin_must_match(app: FastAPI, client: TestClient, origin, status):
    del client.headers["Sec-Fetch-Site"]
    headers = {"Origin": origin} if origin else {}
    assert client.post("/jobs/1/cancel", headers=headers).status_code == status
    assert client.post("/jobs/1/cancel", headers={**headers, "Content-Type": "text/plain"}).status_code == status


@pytest.mark.parametrize(
    "host", ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test:8765", "[::1", "", "127.0.0.1:x"]
)
def test_other_hosts_are_refused_on_every_route(app: FastAPI, client: TestClient, host: str):
    for method, path in every_route(app):
        assert client.request(method, path, headers={"Host": host}).status_code == 421, (method, path)


def test_hosts_that_mean_this_machine(settings: Settings):
    for host in ("127.0.0.1", "127.0.0.1:8765", "localhost:9000", "LOCALHOST", "[::1]:8000", "[::1]"):
        assert host_allowed(host, settings), host
    for host in ("[::2]:8000", "[::1]evil.test", "localhost:80:80", "localhost:", "127.0.0.1@evil.test", "0.0.0.0"):
        assert not host_allowed(host, settings), host


def test_every_answer_carries_the_headers(client: TestClient, anonymous: TestClient, project: Project):
    answers = [
        client.get("/projects/medicine/jobs"),
        client.get("/static/app.css"),
        client.get("/nowhere", headers=HTML),
        anonymous.get("/login"),
        anonymous.get("/projects", headers=HTML),
        anonymous.get("/login", headers={"Host": "evil.test"}),
    ]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answers[0].headers["Cache-Control"] == "no-store"


def test_a_crash_shows_a_page_with_headers_and_no_details(app: FastAPI, settings: Settings, client: TestClient):
    @app.get("/test/crash")
    def crash() -> None:
        raise RuntimeError("secret detail")

    quiet = TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False, cookies=client.cookies)
    answer = quiet.get("/test/crash", headers=HTML)
    assert answer.status_code == 500 and "secret detail" not in answer.text
    assert answer.headers["Content-Security-Policy"] == CSP


def test_large_forms_are_refused(app: FastAPI, client: TestClient):
    @app.post("/test/form")
    def form(name: Annotated[str, Form()]) -> int:
        return len(name)

    assert client.post("/test/form", data={"name": "a" * 1000}).json() == 1000
    assert client.post("/test/form", data={"name": "a" * FORM_BYTES}).status_code == 413


def test_solo_mode_answers_only_this_machine(settings: Settings):
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="lets other machines in: set TOKENSIEVE_ALLOWED_HOSTS"):
            create_app(settings.model_copy(update={"host": host}))


def test_hashed_static_files_are_cached_for_good(client: TestClient):
    page = client.get("/nowhere", headers=HTML).text
    address = re.search(r'href="(/static/app\.css\?v=\w+)"', page)
    assert address and "immutable" in client.get(address[1]).headers["Cache-Control"]
    assert client.get("/static/app.css").headers["Cache-Control"] == "no-cache"
