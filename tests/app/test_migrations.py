"""The migrations make exactly the models' schema."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from app.db import MIGRATIONS, make_engine, migrate
from app.models import AccessLog, Artifact, Base, Function, Project, Rule, UTCDateTime
from app.queries import harvested
from app.settings import Settings


def compare_type(*args: object) -> bool | None:
    return False if isinstance(args[4], UTCDateTime) else None


def test_the_migrated_schema_is_the_models(settings: Settings, sessions: sessionmaker[Session]):
    with sessions() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": compare_type})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(settings: Settings, sessions: sessionmaker[Session], project: Project):
    migrate(settings)
    with sessions() as session:
        assert session.get_one(Project, project.id).name == "Medicine"


def test_labels_made_before_teams_become_the_project_s_own_layer(settings: Settings, tmp_path: Path):
    old = settings.model_copy(update={"data_dir": tmp_path / "old", "database_url": ""})
    migrate(old, "0001")
    engine = make_engine(old.url)
    rows = [(1, 1, "add", "[[0, 4]]", "part"), (1, 2, "state", "[[0, 4]]", "done"), (2, 1, "state", "[]", "clean")]
    with engine.begin() as connection:
        connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        connection.execute(text("INSERT INTO project VALUES (1, 'p', 'P', NULL, '2026-01-01')"))
        connection.execute(text("INSERT INTO family VALUES (1, 1, 'f', 'forget')"))
        connection.execute(text("INSERT INTO import VALUES (1, 1, 'f', 'x', 1, 2, 2, 1, '2026-01-01')"))
        for id_ in (1, 2):
            document = "INSERT INTO document VALUES (:id, 1, 1, 1, :key, 'x', 'train', 4, 'text', '{}')"
            connection.execute(text(document), {"id": id_, "key": str(id_)})
        for id_, (document_id, version, action, spans, state) in enumerate(rows):
            connection.execute(
                text("INSERT INTO annotation VALUES (:i, :d, :v, :a, 0, 4, 'x', :s, '[]', :t, 'owner', '2026-01-01')"),
                {"i": id_, "d": document_id, "v": version, "a": action, "s": spans, "t": state},
            )
    engine.dispose()
    migrate(old)
    with engine.connect() as connection:
        kept = connection.execute(
            text("SELECT document_id, version, action, spans, state FROM annotation WHERE layer = '' ORDER BY id")
        )
        assert [tuple(row) for row in kept] == rows
    engine.dispose()


def test_what_one_reference_made_is_its_own_when_a_second_comes(settings: Settings, tmp_path: Path):
    old = settings.model_copy(update={"data_dir": tmp_path / "old", "database_url": ""})
    migrate(old, "0006")
    engine = make_engine(old.url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO reference VALUES (7, 'r', 'm', 's', 2, '{}', '2026-01-01'), (8, 'q', 'm', 't', 2, '{}', '2026-01-01')"
            )
        )
        connection.execute(text("INSERT INTO project VALUES (1, 'p', 'P', 8, '2026-01-01')"))
        for id_, kind, info in (
            (1, "store", '{"reference_id": 7}'),
            (2, "discovery", '{"fired": 3}'),
            (3, "store", '{"reference_id": 8}'),
        ):
            artifact = "INSERT INTO artifact VALUES (:i, 1, NULL, :k, :p, :n, '2026-01-01')"
            connection.execute(text(artifact), {"i": id_, "k": kind, "p": f"{kind}-{id_}", "n": info})
        connection.execute(
            text("INSERT INTO rule VALUES (1, 1, 1, 'abc', '{}', '[5]', '[]', 'owner', '2026-01-01', '{}')")
        )
        for id_, config in ((1, '{"kind": "latent", "latent": 5}'), (2, '{"kind": "terms"}')):
            function = "INSERT INTO function VALUES (:i, 1, 'f', :c, 'owner', '2026-01-01', NULL)"
            connection.execute(text(function), {"i": id_, "c": config})
    engine.dispose()
    migrate(old)
    with Session(engine) as session:
        assert session.get_one(Artifact, 2).info == {"reference_id": 7, "fired": 3}
        assert session.get_one(Rule, 1).reference_id == 8
        assert harvested(session, 1, 8, "discovery") is None
        assert [f.reference_id for f in session.scalars(select(Function).order_by(Function.id))] == [8, None]
    engine.dispose()


def test_the_access_log_only_grows(sessions: sessionmaker[Session], project: Project):
    with sessions.begin() as session:
        session.add(AccessLog(project_id=project.id, action="reveal", user="owner", reason="final test"))
    for change in ("UPDATE access_log SET reason = ''", "DELETE FROM access_log"):
        with pytest.raises(DBAPIError, match="append-only"), sessions.begin() as session:
            session.execute(text(change))


def test_two_processes_may_migrate_at_once(settings: Settings, tmp_path: Path):
    fresh = settings.model_copy(update={"data_dir": tmp_path / "fresh"})
    run = "from app.db import migrate; from app.settings import Settings; migrate(Settings())"
    env = os.environ | {"TOKENSIEVE_DATA_DIR": str(fresh.data_dir), "TOKENSIEVE_DATABASE_URL": fresh.database_url}
    command = [sys.executable, "-c", run]
    started = [subprocess.Popen(command, env=env, cwd=MIGRATIONS.parent, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1].decode() for process in started] == ["", ""]
    engine = make_engine(fresh.url)
    assert "annotation" in inspect(engine).get_table_names()
    engine.dispose()
