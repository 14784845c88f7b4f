"""Snapshots of engines: depth, name, and what they lie on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_LIVE = sa.text("state <> 'deleted'")


def upgrade() -> None:
    op.add_column(
        "runtime_snapshots",
        sa.Column("depth", sa.Text(), nullable=False, server_default="runtime"),
    )
    op.add_column("runtime_snapshots", sa.Column("name", sa.Text()))
    op.add_column("runtime_snapshots", sa.Column("parent_id", sa.Uuid()))
    op.create_index("ix_runtime_snapshots_parent_id", "runtime_snapshots", ["parent_id"])
    op.create_index(
        "uq_runtime_snapshots_name",
        "runtime_snapshots",
        ["name"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )


def downgrade() -> None:
    op.drop_index("uq_runtime_snapshots_name", "runtime_snapshots")
    op.drop_index("ix_runtime_snapshots_parent_id", "runtime_snapshots")
    for column in ("parent_id", "name", "depth"):
        op.drop_column("runtime_snapshots", column)
