"""The tables.

    images ◀── runtime_snapshots ◀── leases          operations ◀── operation_steps
       ▲              ▲     ▲
       ├── containers ┤     └── vms                  events, idempotency_keys, meta
       └── engines ───┘
    workers ◀── checkpoints

A runtime image or snapshot that something refers to cannot be removed by accident: the database
refuses. A container, an engine or a VM only remembers its snapshot, and forgets it when that one is
purged; what keeps the snapshot's files in place is the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Uuid,
    false,
    text,
)
from sqlalchemy.schema import SchemaItem

from warmboot.model.checkpoint import CheckpointState, Versions
from warmboot.model.container import ContainerSpec, ContainerState, PortMapping
from warmboot.model.journal.operation import OperationState
from warmboot.model.runtime_image import RuntimeImageManifest
from warmboot.model.runtime_snapshot import BootStats, BuildCause, Depth, SnapshotState
from warmboot.model.tenants.boot import BootAttempt, BootMethod, FallbackReason, StageTiming
from warmboot.model.tenants.container_options import Health
from warmboot.model.tenants.engine import EnginePort, EngineSpec, EngineState
from warmboot.model.vm import VmHandle, VmKind, VmSpec
from warmboot.model.worker import ListenAddress, WorkerSpec, WorkerState
from warmboot.store.storable import FreeForm
from warmboot.store.types import Choice, Encoded, PathText, SafeText, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is exactly INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("digest", SafeText, nullable=False),
    Column("path", PathText, nullable=False),
    Column("manifest", Encoded(RuntimeImageManifest), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Set when the image was deleted while deleted snapshots of it still waited to be purged.
    Column("deleted_at", UtcDateTime),
    # The last version number of each shape of its snapshots, e.g. {"2x768": 3}.
    Column("versions", Encoded(Mapping[str, int]), nullable=False, server_default="{}"),
    Column("damage", Encoded(FreeForm)),
)
for _column in (images.c.name, images.c.digest):
    Index(
        f"uq_images_{_column.name}",
        _column,
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    )

runtime_snapshots = Table(
    "runtime_snapshots",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("runtime_image_id", ForeignKey("images.id"), nullable=False),
    Column("snapshot_path", PathText, nullable=False),
    Column("state", Choice(SnapshotState), nullable=False),
    Column("hypervisor", SafeText, nullable=False),
    Column("fc_version", SafeText, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("success_count", Integer, nullable=False, server_default="0"),
    Column("failure_count", Integer, nullable=False, server_default="0"),
    Column("consecutive_failures", Integer, nullable=False, server_default="0"),
    Column("last_used_at", UtcDateTime),
    Column("replaces", ForeignKey("runtime_snapshots.id", ondelete="SET NULL")),
    Column("error", Encoded(FreeForm)),
    Column("metadata", Encoded(FreeForm), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("weight", Float, nullable=False, server_default="100"),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("cause", Choice(BuildCause), nullable=False, server_default="requested"),
    Column("boots", Encoded(BootStats), nullable=False, server_default="{}"),
    Column("rebuild_failures", Integer, nullable=False, server_default="0"),
    Column("rebuild_not_before", UtcDateTime),
    Column("rebuild_put_off_by", SafeText),
    Column("depth", Choice(Depth), nullable=False, server_default="runtime"),
    Column("name", SafeText),
    # No foreign key: what keeps its files is the lease.
    Column("parent_id", Uuid),
    Index(None, "runtime_image_id", "state"),
    Index(None, "replaces"),
    Index(None, "parent_id"),
    Index(
        "uq_runtime_snapshots_name",
        "name",
        unique=True,
        sqlite_where=text("state <> 'deleted'"),
        postgresql_where=text("state <> 'deleted'"),
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("snapshot_id", ForeignKey("runtime_snapshots.id"), nullable=False),
    Column("holder_id", SafeText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("snapshot_id", "holder_id"),
    Index(None, "holder_id"),
)


def _tenants(name: str, states: type[StrEnum], spec: type[object], *more: SchemaItem) -> Table:
    """A table of what has a VM of its own."""
    return Table(
        name,
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("name", SafeText, nullable=False),
        Column("state", Choice(states), nullable=False),
        Column("spec", Encoded(spec), nullable=False),
        Column("vcpus", Integer, nullable=False),
        Column("memory_mib", Integer, nullable=False),
        Column("runtime_image_id", ForeignKey("images.id")),
        Column("runtime_snapshot_id", ForeignKey("runtime_snapshots.id", ondelete="SET NULL")),
        Column("vm_id", SafeText),
        Column("boot_method", Choice(BootMethod)),
        Column("fallback_reason", Choice(FallbackReason)),
        Column("fallback_details", SafeText, nullable=False),
        Column("stages", Encoded(tuple[StageTiming, ...]), nullable=False),
        Column("boot_s", Float),
        Column("error", Encoded(FreeForm)),
        Column("created_at", UtcDateTime, nullable=False),
        Column("started_at", UtcDateTime),
        Column("finished_at", UtcDateTime),
        Column("updated_at", UtcDateTime, nullable=False),
        Column("snapshot_version", Integer),
        *more,
        Index(f"uq_{name}_name", "name", unique=True),
        Index(None, "created_at", "id"),
        Index(None, "runtime_image_id"),
        Index(None, "runtime_snapshot_id"),
    )


containers = _tenants(
    "containers",
    ContainerState,
    ContainerSpec,
    Column("docker_id", SafeText),
    Column("ports", Encoded(tuple[PortMapping, ...]), nullable=False),
    Column("exit_code", Integer),
    Column("oom_killed", Boolean, nullable=False),
    Column("boot_attempts", Encoded(tuple[BootAttempt, ...]), nullable=False, server_default="[]"),
    Column("health", Choice(Health)),
    Index(None, "state", "created_at", "id"),
)

engines = _tenants(
    "engines",
    EngineState,
    EngineSpec,
    Column("socket", SafeText, nullable=False),
    Column("boot_attempts", Encoded(tuple[BootAttempt, ...]), nullable=False),
    Column("handed_over", Boolean, nullable=False),
    Column("address", SafeText, nullable=False, server_default=text("''")),
    Column("ports", Encoded(tuple[EnginePort, ...]), nullable=False),
    Column("restarts", Encoded(tuple[str, ...]), nullable=False, server_default="[]"),
)

vms = Table(
    "vms",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("kind", Choice(VmKind), nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("spec", Encoded(VmSpec), nullable=False),
    Column("token", SafeText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("handle", Encoded(VmHandle)),
    Column("slot", Encoded(FreeForm)),
    Column("snapshot_id", ForeignKey("runtime_snapshots.id", ondelete="SET NULL")),
    Index(None, "snapshot_id"),
    Index(None, "owner_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("state", Choice(WorkerState), nullable=False),
    Column("spec", Encoded(WorkerSpec), nullable=False),
    Column("docker_id", SafeText),
    Column("image_digest", SafeText, nullable=False),
    # No foreign key: checkpoints refer to their worker already.
    Column("paused_into", Uuid),
    Column("exit_code", Integer),
    Column("error", Encoded(FreeForm)),
    Column("heard_at", UtcDateTime),
    Column("paused_at", UtcDateTime),
    Column("resumed_at", UtcDateTime),
    Column("listens", Encoded(tuple[ListenAddress, ...]), nullable=False),
    Column("resume_at_start", Boolean, nullable=False),
    Column("runtime", SafeText, nullable=False, server_default=text("''")),
    Column("restart_policy", Encoded(FreeForm)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("uq_workers_name", "name", unique=True),
    Index(None, "created_at", "id"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("worker_id", ForeignKey("workers.id", ondelete="CASCADE"), nullable=False),
    Column("name", SafeText, nullable=False),
    Column("state", Choice(CheckpointState), nullable=False),
    Column("versions", Encoded(Versions), nullable=False),
    Column("image_digest", SafeText, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("processes", Integer, nullable=False),
    Column("tcp_connections", Integer, nullable=False),
    Column("left_running", Boolean, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("folder", PathText),
    Column("stored_bytes", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("uq_checkpoints_worker_id_name", "worker_id", "name", unique=True),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", SafeText, nullable=False),
    Column("subject_id", SafeText, nullable=False),
    Column("state", Choice(OperationState), nullable=False),
    Column("data", Encoded(FreeForm), nullable=False),
    Column("error", Encoded(FreeForm)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "state", "updated_at"),
)

operation_steps = Table(
    "operation_steps",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("operation_id", ForeignKey("operations.id", ondelete="CASCADE"), nullable=False),
    Column("step", SafeText, nullable=False),
    Column("data", Encoded(FreeForm), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "operation_id", "id"),
)

events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", SafeText, nullable=False),
    Column("subject_id", SafeText, nullable=False),
    Column("data", Encoded(FreeForm), nullable=False),
    # Ids are what listeners remember: one that was trimmed must never be given out again.
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", SafeText, nullable=False),
    Column("key", SafeText, nullable=False),
    Column("request_hash", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("status", Integer),
    Column("headers", Encoded(FreeForm)),
    Column("body", LargeBinary),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("scope", "key"),
    Index(None, "created_at"),
)

meta = Table(
    "meta",
    metadata,
    Column("key", SafeText, primary_key=True),
    Column("value", SafeText, nullable=False),
)
