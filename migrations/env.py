"""Alembic's entry: `app.db.migrate` hands in an open connection inside a transaction."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from app.models import Base, UTCDateTime


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Migrations stay readable when the models' own types are renamed or gone."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UTCDateTime) else False


def compare_type(_: Any, __: Any, inspected: Any, declared: Any, ___: Any) -> bool | None:
    return False if isinstance(declared, UTCDateTime) else None


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_item=render_item,
    compare_type=compare_type,
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
