"""Versions of snapshots, with weights, pins and statistics; which one a container was booted from.

Snapshots that are there already are numbered per image and shape in the order of their making.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _columns() -> dict[str, tuple[sa.Column[Any], ...]]:
    return {
        "images": (sa.Column("versions", _JSON, nullable=False, server_default="{}"),),
        "runtime_snapshots": (
            sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
            sa.Column("weight", sa.Float(), nullable=False, server_default="100"),
            sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.Column("cause", sa.Text(), nullable=False, server_default="requested"),
            sa.Column("boots", _JSON, nullable=False, server_default="{}"),
            sa.Column("rebuild_failures", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("rebuild_not_before", _MOMENT),
        ),
        "containers": (
            sa.Column("snapshot_version", sa.Integer()),
            sa.Column("boot_attempts", _JSON, nullable=False, server_default="[]"),
        ),
    }


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    _number()


def _number() -> None:
    connection = op.get_bind()
    images = sa.table("images", sa.column("id", sa.Uuid()), sa.column("versions", _JSON))
    snapshots = sa.table(
        "runtime_snapshots",
        sa.column("id", sa.Uuid()),
        sa.column("runtime_image_id", sa.Uuid()),
        sa.column("vcpus", sa.Integer()),
        sa.column("memory_mib", sa.Integer()),
        sa.column("created_at", _MOMENT),
        sa.column("version", sa.Integer()),
    )
    versions: defaultdict[Any, dict[str, int]] = defaultdict(dict)
    in_order = sa.select(snapshots).order_by(snapshots.c.created_at, snapshots.c.id)
    for row in connection.execute(in_order).all():
        counted, shape = versions[row.runtime_image_id], f"{row.vcpus}x{row.memory_mib}"
        counted[shape] = counted.get(shape, 0) + 1
        connection.execute(
            snapshots.update().where(snapshots.c.id == row.id).values(version=counted[shape])
        )
    for image_id, counted in versions.items():
        connection.execute(images.update().where(images.c.id == image_id).values(versions=counted))


def downgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
