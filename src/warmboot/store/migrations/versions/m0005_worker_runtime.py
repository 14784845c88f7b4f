"""Workers may run on a runtime of ours; their checkpoints are then in folders of our own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "workers", sa.Column("runtime", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
    op.add_column("checkpoints", sa.Column("folder", sa.Text()))


def downgrade() -> None:
    op.drop_column("checkpoints", "folder")
    op.drop_column("workers", "runtime")
