"""What health checks of containers have found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("containers", sa.Column("health", sa.Text()))


def downgrade() -> None:
    op.drop_column("containers", "health")
