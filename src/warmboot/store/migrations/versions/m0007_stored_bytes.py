"""What a checkpoint takes on the disk."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("stored_bytes", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("checkpoints", "stored_bytes")
