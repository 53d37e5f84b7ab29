"""A verdict that takes another one back says which."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("verdict") as batch:
        batch.add_column(sa.Column("undoes_id", sa.Integer(), nullable=True))
        batch.create_foreign_key("fk_verdict_undoes", "verdict", ["undoes_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("verdict") as batch:
        batch.drop_constraint("fk_verdict_undoes", type_="foreignkey")
        batch.drop_column("undoes_id")
