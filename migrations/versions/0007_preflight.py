"""Preflights with their overrides, and the reference whose latents a rule holds."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "preflight",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("reference_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["reference_id"], ["reference.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_preflight_of", "preflight", ["reference_id", "project_id"])
    op.create_table(
        "preflight_override",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("preflight_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["preflight_id"], ["preflight.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_preflight_override_preflight_id"), "preflight_override", ["preflight_id"])
    _name_references_of_discoveries()
    # As SQL, because Alembic would rebuild the table on SQLite, and label sets point at it.
    op.execute("ALTER TABLE rule ADD COLUMN reference_id INTEGER REFERENCES reference (id)")
    # Until now a project had one reference at a time, and its rules are of that one.
    op.execute("UPDATE rule SET reference_id = (SELECT reference_id FROM project WHERE project.id = rule.project_id)")


def _name_references_of_discoveries() -> None:
    """A discovery is of the reference that made the newest store before it; from now on it says so."""
    artifact = sa.table("artifact", *(sa.column(c, t) for c, t in
                        (("id", sa.Integer), ("project_id", sa.Integer), ("kind", sa.String), ("info", sa.JSON))))  # fmt: skip
    connection, read_by = op.get_bind(), dict[int, int]()
    wanted = artifact.c.kind.in_(("store", "discovery"))
    for row in connection.execute(sa.select(artifact).where(wanted).order_by(artifact.c.id)).all():
        if row.kind == "store" and "reference_id" in row.info:
            read_by[row.project_id] = row.info["reference_id"]
        elif row.kind == "discovery" and row.project_id in read_by:
            info = {"reference_id": read_by[row.project_id], **row.info}
            connection.execute(sa.update(artifact).where(artifact.c.id == row.id).values(info=info))


def downgrade() -> None:
    with op.batch_alter_table("rule") as table:
        table.drop_column("reference_id")
    op.drop_table("preflight_override")
    op.drop_table("preflight")
