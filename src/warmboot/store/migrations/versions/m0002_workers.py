"""Workers and their checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("docker_id", sa.Text()),
        sa.Column("image_digest", sa.Text(), nullable=False),
        sa.Column("paused_into", sa.Uuid()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("error", _JSON),
        sa.Column("heard_at", _MOMENT),
        sa.Column("paused_at", _MOMENT),
        sa.Column("resumed_at", _MOMENT),
        sa.Column("listens", _JSON, nullable=False),
        sa.Column("resume_at_start", sa.Boolean(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_index("uq_workers_name", "workers", ["name"], unique=True)
    op.create_index("ix_workers_created_at_id", "workers", ["created_at", "id"])
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("versions", _JSON, nullable=False),
        sa.Column("image_digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("processes", sa.Integer(), nullable=False),
        sa.Column("tcp_connections", sa.Integer(), nullable=False),
        sa.Column("left_running", sa.Boolean(), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name="fk_checkpoints_worker_id", ondelete="CASCADE"
        ),
    )
    op.create_index(
        "uq_checkpoints_worker_id_name", "checkpoints", ["worker_id", "name"], unique=True
    )


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_table("workers")
