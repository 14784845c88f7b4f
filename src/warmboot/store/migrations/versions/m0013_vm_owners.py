"""The VMs of one owner are found without a look at all others."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_vms_owner_id", "vms", ["owner_id"])


def downgrade() -> None:
    op.drop_index("ix_vms_owner_id", "vms")
