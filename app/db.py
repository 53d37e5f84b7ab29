"""Engine and sessions: one transaction per request, one short transaction per stored event.

SQLite writers take the write lock when they begin (`BEGIN IMMEDIATE`): a deferred transaction
that upgrades later fails at once, whatever the timeout. Readers begin deferred and cannot write
(`query_only`), so that neither a long page nor a step that reads texts for minutes ever holds
the lock, and a GET that writes fails in the first test that meets it.
"""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.config import Config
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings

MIGRATIONS = Path(__file__).parent.parent / "migrations"
BUSY_SECONDS = 30
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def make_engine(url: str) -> Engine:
    """An engine that behaves the same on both databases: durable commits, checked foreign keys."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if database := make_url(url).database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=20, max_overflow=40)
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, in _sqlite_begin
    _switch_to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: Any) -> None:
    """Kept in the file, so it happens once; two processes that do it at once get no busy wait from SQLite."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _sqlite_begin(connection: Connection) -> None:
    readonly = connection.get_execution_options().get("postgresql_readonly", False)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


def session_factory(settings: Settings) -> sessionmaker[Session]:
    """Sessions that write. `with sessions.begin() as session:` is one transaction."""
    return sessionmaker(make_engine(settings.url), expire_on_commit=False)


def reading(sessions: sessionmaker[Session]) -> Session:
    """A session that only reads: `with reading(sessions) as session:`. Never waits for a writer."""
    return sessions(bind=sessions.kw["bind"].execution_options(postgresql_readonly=True))


def get_session(request: Request) -> Iterator[Session]:
    """The request's transaction: read-only for GET, committed before the response for the rest."""
    sessions: sessionmaker[Session] = request.app.state.sessions
    with reading(sessions) if request.method in SAFE_METHODS else sessions() as session:
        yield session
        session.commit()


# With FastAPI's default scope the commit would run after the response went out,
# and a failed commit would still answer 200.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def migrate(settings: Settings, revision: str = "head") -> None:
    """Bring the schema up to date. Two processes may start at once: the second waits, then finds nothing to do."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = make_engine(settings.url)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(8765)"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()
