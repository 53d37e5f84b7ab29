"""The reference whose latent a function names."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # As SQL, because Alembic would rebuild the table on SQLite.
    op.execute("ALTER TABLE function ADD COLUMN reference_id INTEGER REFERENCES reference (id)")
    function = sa.table("function", sa.column("id", sa.Integer), sa.column("project_id", sa.Integer),
                        sa.column("config", sa.JSON), sa.column("reference_id", sa.Integer))  # fmt: skip
    project = sa.table("project", sa.column("id", sa.Integer), sa.column("reference_id", sa.Integer))
    present = sa.select(project.c.reference_id).where(project.c.id == function.c.project_id).scalar_subquery()
    connection = op.get_bind()
    named = [row.id for row in connection.execute(sa.select(function)) if row.config["kind"] == "latent"]
    for id_ in named:
        connection.execute(sa.update(function).where(function.c.id == id_).values(reference_id=present))


def downgrade() -> None:
    with op.batch_alter_table("function") as table:
        table.drop_column("reference_id")
