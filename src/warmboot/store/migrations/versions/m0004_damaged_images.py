"""Damaged runtime images are marked; why a rebuild was put off is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("images", sa.Column("damage", _JSON))
    op.add_column("runtime_snapshots", sa.Column("rebuild_put_off_by", sa.Text()))


def downgrade() -> None:
    op.drop_column("runtime_snapshots", "rebuild_put_off_by")
    op.drop_column("images", "damage")
