"""Members of a team, each with a browser of their own."""

from functools import lru_cache

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.accounts import hasher, join
from app.models import Account, Project
from app.security import cookie_name, open_session
from app.settings import Settings

PASSWORD = "correct horse battery"


@lru_cache
def password_hash() -> str:
    return hasher().hash(PASSWORD)  # slow on purpose, so made once


def browser(app: FastAPI, **more: str) -> TestClient:
    headers = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html,*/*"} | more
    return TestClient(app, base_url="http://127.0.0.1:8765", headers=headers, follow_redirects=False)


def member(
    app: FastAPI, sessions: sessionmaker[Session], settings: Settings, name: str, role: str, *projects: Project
) -> TestClient:
    """A logged-in browser of a new account."""
    with sessions.begin() as session:
        account = Account(name=name, role=role, password_hash=password_hash())
        session.add(account)
        session.flush()
        join(session, account, [project.id for project in projects])
        token = open_session(session, settings, name)
    logged_in = browser(app)
    logged_in.cookies.set(cookie_name(settings), token)
    return logged_in
