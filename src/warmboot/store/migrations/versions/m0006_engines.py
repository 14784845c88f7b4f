"""Engines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "engines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("socket", sa.Text(), nullable=False),
        sa.Column("runtime_image_id", sa.Uuid()),
        sa.Column("runtime_snapshot_id", sa.Uuid()),
        sa.Column("snapshot_version", sa.Integer()),
        sa.Column("boot_attempts", _JSON, nullable=False),
        sa.Column("vm_id", sa.Text()),
        sa.Column("handed_over", sa.Boolean(), nullable=False),
        sa.Column("ports", _JSON, nullable=False),
        sa.Column("boot_method", sa.Text()),
        sa.Column("fallback_reason", sa.Text()),
        sa.Column("fallback_details", sa.Text(), nullable=False),
        sa.Column("stages", _JSON, nullable=False),
        sa.Column("boot_s", sa.Float()),
        sa.Column("error", _JSON),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("finished_at", _MOMENT),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_engines"),
        sa.ForeignKeyConstraint(
            ["runtime_image_id"], ["images.id"], name="fk_engines_runtime_image_id"
        ),
        sa.ForeignKeyConstraint(
            ["runtime_snapshot_id"],
            ["runtime_snapshots.id"],
            name="fk_engines_runtime_snapshot_id",
            ondelete="SET NULL",
        ),
    )
    op.create_index("uq_engines_name", "engines", ["name"], unique=True)
    op.create_index("ix_engines_created_at_id", "engines", ["created_at", "id"])
    op.create_index("ix_engines_runtime_image_id", "engines", ["runtime_image_id"])
    op.create_index("ix_engines_runtime_snapshot_id", "engines", ["runtime_snapshot_id"])


def downgrade() -> None:
    op.drop_table("engines")
