"""The restart policies of containers, while they are taken off for a pause."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:

    op.add_column("workers", sa.Column("restart_policy", _JSON))


def downgrade() -> None:
    op.drop_column("workers", "restart_policy")
