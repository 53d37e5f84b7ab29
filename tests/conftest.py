"""Fixtures of the whole suite. Set TOKENSIEVE_TEST_DATABASE_URL to run the same tests on PostgreSQL.

On SQLite each test gets a copy of one migrated file, on PostgreSQL a schema of its own.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from app.db import migrate, session_factory
from app.main import create_app
from app.models import Definition, Document, Family, Import, Project
from app.security import cookie_name, open_session
from app.settings import Settings
from labeling.documents import text_sha256

# Tiny tensors: threads only wait for each other. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is slow, not wrong.
hypothesis_settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("busy")
SERVER_URL = os.environ.get("TOKENSIEVE_TEST_DATABASE_URL", "")
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}

TEXTS = {
    ("clinic", "forget"): [
        "The patient was given 5 mg of warfarin and her INR was checked daily.",
        "Renal biopsy showed diffuse mesangial deposits; prednisone was started.",
        "He presented with chest pain, and troponin was raised on admission.",
        "Fever and a productive cough suggested pneumonia; amoxicillin was prescribed.",
    ],
    ("sport", "retain"): [
        "The striker scored twice before half time and the crowd stood up.",
        "Rain delayed the second innings, and the captain declared at tea.",
        "She broke the national record over 400 metres hurdles by two tenths.",
        "The keeper injured his knee in the tackle but played on. ⚽️",
    ],
    ("biology", "retain"): [
        "Chlorophyll absorbs red and blue light and reflects green.",
        "Ribosomes translate messenger RNA into chains of amino acids.",
        "The beetle's elytra protect its folded wings in flight.",
        "Mitosis divides the copied chromosomes between two daughter cells.",
    ],
}
SPLITS = ("train", "train", "validation", "test")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(data_dir=tmp_path_factory.mktemp("template"), database_url="")
    migrate(settings)
    return settings.data_dir / "tokensieve.db"


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """A data directory of this test's own, with a migrated database."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if not SERVER_URL:
        shutil.copy(request.getfixturevalue("migrated_file"), data_dir / "tokensieve.db")
        yield Settings(data_dir=data_dir, database_url="", lease_seconds=2.0, poll_seconds=0.02)
        return
    schema, server = f"test_{uuid4().hex}", create_engine(SERVER_URL, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    url = f"{SERVER_URL}{'&' if '?' in SERVER_URL else '?'}options=-csearch_path%3D{schema}"
    made = Settings(data_dir=data_dir, database_url=url, lease_seconds=2.0, poll_seconds=0.02)
    migrate(made)
    yield made
    with server.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    server.dispose()


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    made = create_app(settings)
    yield made
    made.state.sessions.kw["bind"].dispose()


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    made = session_factory(settings)
    yield made
    made.kw["bind"].dispose()


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    """A browser that is not logged in."""
    return TestClient(app, base_url="http://127.0.0.1:8765", headers=SAME_ORIGIN, follow_redirects=False)


@pytest.fixture
def client(app: FastAPI, sessions: sessionmaker[Session], settings: Settings) -> TestClient:
    """A logged-in browser. Ask for a fragment with `headers={"HX-Request": "true"}`."""
    with sessions.begin() as session:
        token = open_session(session, settings)
    logged_in = TestClient(app, base_url="http://127.0.0.1:8765", headers=SAME_ORIGIN, follow_redirects=False)
    logged_in.headers["Accept"] = "text/html,*/*"
    logged_in.cookies.set(cookie_name(settings), token)
    return logged_in


@pytest.fixture
def project(sessions: sessionmaker[Session]) -> Project:
    """Medicine: 3 families of 4 documents each (2 train, 1 validation, 1 test)."""
    with sessions.begin() as session:
        made = Project(slug="medicine", name="Medicine")
        session.add(made)
        session.flush()
        session.add(
            Definition(
                project_id=made.id,
                version=1,
                author="owner",
                includes="Diagnosis, treatment, drugs and clinical findings.",
                excludes="General biology; injuries mentioned in passing.",
            )
        )
        for (name, side), texts in TEXTS.items():
            family = Family(project_id=made.id, name=name, side=side)
            session.add(family)
            session.flush()
            source = Import(
                project_id=made.id, filename=f"{name}.jsonl", sha256=text_sha256(name), family_id=family.id,
                rows=len(texts), added=len(texts), finished=True,
            )  # fmt: skip
            session.add(source)
            session.flush()
            for i, (body, split) in enumerate(zip(texts, SPLITS, strict=True), start=1):
                session.add(
                    Document(
                        project_id=made.id,
                        family_id=family.id,
                        import_id=source.id,
                        key=f"{name}-{i}",
                        sha256=text_sha256(body),
                        split=split,
                        characters=len(body),
                        text=body,
                        meta={},
                    )
                )
    return made
