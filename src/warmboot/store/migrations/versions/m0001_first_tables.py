"""The first tables: images, snapshots, leases, containers, VMs, journal, events, idempotency."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _images_and_snapshots()
    _containers_and_vms()
    _journals()


def _images_and_snapshots() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("manifest", _JSON, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("deleted_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
    )
    for column in ("name", "digest"):
        op.create_index(
            f"uq_images_{column}",
            "images",
            [column],
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
    op.create_table(
        "runtime_snapshots",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("runtime_image_id", sa.Uuid(), nullable=False),
        sa.Column("snapshot_path", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("hypervisor", sa.Text(), nullable=False),
        sa.Column("fc_version", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("success_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("consecutive_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_used_at", _MOMENT),
        sa.Column("replaces", sa.Uuid()),
        sa.Column("error", _JSON),
        sa.Column("metadata", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runtime_snapshots"),
        sa.ForeignKeyConstraint(
            ["runtime_image_id"], ["images.id"], name="fk_runtime_snapshots_runtime_image_id"
        ),
        sa.ForeignKeyConstraint(
            ["replaces"],
            ["runtime_snapshots.id"],
            name="fk_runtime_snapshots_replaces",
            ondelete="SET NULL",
        ),
    )
    _index("runtime_snapshots", "runtime_image_id", "state")
    _index("runtime_snapshots", "replaces")
    op.create_table(
        "leases",
        sa.Column("snapshot_id", sa.Uuid(), nullable=False),
        sa.Column("holder_id", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", "holder_id", name="pk_leases"),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["runtime_snapshots.id"], name="fk_leases_snapshot_id"
        ),
    )
    _index("leases", "holder_id")


def _containers_and_vms() -> None:
    op.create_table(
        "containers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("runtime_image_id", sa.Uuid()),
        sa.Column("runtime_snapshot_id", sa.Uuid()),
        sa.Column("vm_id", sa.Text()),
        sa.Column("docker_id", sa.Text()),
        sa.Column("boot_method", sa.Text()),
        sa.Column("fallback_reason", sa.Text()),
        sa.Column("fallback_details", sa.Text(), nullable=False),
        sa.Column("stages", _JSON, nullable=False),
        sa.Column("boot_s", sa.Float()),
        sa.Column("ports", _JSON, nullable=False),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("oom_killed", sa.Boolean(), nullable=False),
        sa.Column("error", _JSON),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("finished_at", _MOMENT),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_containers"),
        sa.ForeignKeyConstraint(
            ["runtime_image_id"], ["images.id"], name="fk_containers_runtime_image_id"
        ),
        sa.ForeignKeyConstraint(
            ["runtime_snapshot_id"],
            ["runtime_snapshots.id"],
            name="fk_containers_runtime_snapshot_id",
            ondelete="SET NULL",
        ),
    )
    op.create_index("uq_containers_name", "containers", ["name"], unique=True)
    _index("containers", "created_at", "id")
    _index("containers", "state", "created_at", "id")
    _index("containers", "runtime_image_id")
    _index("containers", "runtime_snapshot_id")
    op.create_table(
        "vms",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("handle", _JSON),
        sa.Column("slot", _JSON),
        sa.Column("snapshot_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("id", name="pk_vms"),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["runtime_snapshots.id"],
            name="fk_vms_snapshot_id",
            ondelete="SET NULL",
        ),
    )
    _index("vms", "snapshot_id")


def _journals() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("error", _JSON),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    _index("operations", "state", "updated_at")
    op.create_table(
        "operation_steps",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operation_steps"),
        sa.ForeignKeyConstraint(
            ["operation_id"],
            ["operations.id"],
            name="fk_operation_steps_operation_id",
            ondelete="CASCADE",
        ),
    )
    _index("operation_steps", "operation_id", "id")
    op.create_table(
        "events",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", _JSON),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_idempotency_keys"),
    )
    _index("idempotency_keys", "created_at")
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )


def downgrade() -> None:
    for table in (
        "meta",
        "idempotency_keys",
        "events",
        "operation_steps",
        "operations",
        "vms",
        "containers",
        "leases",
        "runtime_snapshots",
        "images",
    ):
        op.drop_table(table)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
