"""The migrations make exactly the models' schema."""

import os
import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.orm import Session, sessionmaker

from app.db import MIGRATIONS, make_engine, migrate
from app.models import Base, Project, UTCDateTime
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
