"""Which containers of an engine its next boot starts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("engines", sa.Column("restarts", _JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("engines", "restarts")
