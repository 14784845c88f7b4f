"""A runtime snapshot: a VM of a runtime image, frozen with Docker ready, or an engine in use.

creating ──▶ ready ⇄ unhealthy ◀── creating (the build failed)
    │          │         │
    └──────────┴─────────┴──▶ deleted

Several of one image and shape may be ready side by side: its versions. They are numbered from 1 on
as they are begun, and a number is never given twice. Each has a weight: how often it is chosen,
in proportion to the others' (see ``manager.choose_snapshot``). A pinned one is never collected.

One of the depth ``engine`` is an engine as it was at a moment, with the containers that ran in it.
It is no version: engines are made from it by its name, and it is neither collected nor rebuilt.
One of the depth ``container`` is made by a fork, and goes with the last of those that it began.
One of the depth ``image`` lies on a version, and has an image of a registry unpacked: containers of
that image are started from it. It is rebuilt and collected as versions are; each runtime image and
shape has one for an image's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from warmboot.model.errors import InvalidRequest
from warmboot.model.runtime_image import FileSum
from warmboot.model.shapes import Shape
from warmboot.model.transitions import Transitions

MEMORY_FILE = "snapshot.mem"
FRAMES_FILE = "snapshot.mem.zst"
DIFFERENCE_FILE = "snapshot.diff"
DIFFERENCE_FRAMES_FILE = "snapshot.diff.zst"
STATE_FILE = "snapshot.state"
ROOTFS_FILE = "rootfs.ext4"
DISK_FILE = "disk.ext4"
TOKEN_FILE = "token"
METADATA_FILE = "metadata.json"

PORTS = "ports"
ANSWERED = "answered"
FOLDERS = "folders"
DISK_BASE = "disk_base"
"""Keys of the metadata of an engine's snapshot: what its containers had published, where it
answered of that, which folders of the host it had, and what its disk lies on."""

IMAGE = "image"
"""Key of the metadata of one of the depth ``image``: which image, by its name and tag."""

IMAGE_DIGEST = "image_digest"
"""That image's id, as Docker in the guest tells it; in one that was built."""

UNHEALTHY_AFTER = 3
"""Consecutive failures that make a snapshot unhealthy."""

DEFAULT_WEIGHT = 100.0
MAX_WEIGHT = 1_000_000.0

RECENT_BOOTS = 50
"""How many of a version's last boots are kept one by one, for the median."""


class SnapshotState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DELETED = "deleted"


class Depth(StrEnum):
    """How much of the work it has done already: Docker is ready, an image is in the guest, too, a
    container runs, or an engine's containers do."""

    RUNTIME = "runtime"
    IMAGE = "image"
    CONTAINER = "container"
    ENGINE = "engine"


SNAPSHOT_TRANSITIONS = Transitions(
    "runtime snapshot",
    {
        SnapshotState.CREATING: frozenset(
            {SnapshotState.READY, SnapshotState.UNHEALTHY, SnapshotState.DELETED}
        ),
        SnapshotState.READY: frozenset({SnapshotState.UNHEALTHY, SnapshotState.DELETED}),
        SnapshotState.UNHEALTHY: frozenset({SnapshotState.READY, SnapshotState.DELETED}),
        SnapshotState.DELETED: frozenset(),
    },
)


class BuildCause(StrEnum):
    """Why a snapshot was begun: asked for by a user, or by the manager itself.

    ``registered``: its image was. ``demand``: its shape, or its image, often was. ``unhealthy``:
    the one it replaces is. ``migration``: the one it replaces does not fit this host (any more).
    ``base``: the version that the one it replaces lies on was rebuilt, or is no longer used.
    """

    REQUESTED = "requested"
    REGISTERED = "registered"
    DEMAND = "demand"
    UNHEALTHY = "unhealthy"
    MIGRATION = "migration"
    BASE = "base"

    @property
    def automatic(self) -> bool:
        return self is not BuildCause.REQUESTED


@dataclass(frozen=True, slots=True)
class BootStats:
    """Good warm boots from one version: how many, their seconds in all, and the last ones'."""

    count: int = 0
    total_s: float = 0.0
    recent_s: tuple[float, ...] = ()

    def plus(self, boot_s: float) -> BootStats:
        recent = (*self.recent_s, round(boot_s, 4))[-RECENT_BOOTS:]
        return BootStats(self.count + 1, round(self.total_s + boot_s, 4), recent)

    @property
    def mean_s(self) -> float | None:
        """The mean of all boots; ``None`` before the first."""
        return self.total_s / self.count if self.count else None

    @property
    def median_s(self) -> float | None:
        """The median of the last ``RECENT_BOOTS``; ``None`` before the first."""
        return median(self.recent_s) if self.recent_s else None


@dataclass(frozen=True, slots=True)
class HostRequirements:
    """What a snapshot needs of the machine that restores it. All must be equal there.

    ``options`` are the machine's options as the driver gives them to the hypervisor; empty in
    snapshots from before they were noted, which then are not held to them.
    """

    hypervisor: str
    hypervisor_version: str
    accelerator: str
    machine: str
    cpu_model: str
    options: str = ""


@dataclass(frozen=True, slots=True)
class PackedMemory:
    """Guest memory that is stored compressed: what ``snapshot.mem`` is when it is unpacked.

    ``nonzero_bytes`` counts its bytes that are not zero.
    """

    plain: FileSum
    nonzero_bytes: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot of a VM in use lies on.

    ``base`` is the folder of the snapshot over whose memory its own is a difference; ``None``: it
    is over zeros. ``layers`` are the files of its disk, the topmost last, and ``disk_base`` what
    the lowest lies on; none where the disk is a file of its own. One that is ``claimed`` has its
    agent take orders with the token of the VM that it is of; else that of whoever claims it.
    """

    base: Path | None = None
    layers: tuple[str, ...] = ()
    disk_base: Path | None = None
    claimed: bool = True


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What stands in a snapshot folder's ``metadata.json``.

    ``packed`` is set when memory is stored compressed: then ``files`` has ``snapshot.mem.zst``
    in the place of ``snapshot.mem``. ``moment``: it is of a VM in use, whose memory is a
    difference, ``snapshot.diff``, and whose agent takes orders with the token in the file
    ``token``.
    """

    snapshot_id: UUID
    image_digest: str
    agent_version: str
    shape: Shape
    requires: HostRequirements
    files: Mapping[str, FileSum]
    created_at: datetime
    cmdline: str
    uid: int = 0
    packed: PackedMemory | None = None
    moment: Moment | None = None

    @property
    def compressed(self) -> bool:
        return self.packed is not None

    @property
    def plain_file(self) -> str:
        return MEMORY_FILE if self.moment is None else DIFFERENCE_FILE

    @property
    def frames_file(self) -> str:
        return FRAMES_FILE if self.moment is None else DIFFERENCE_FRAMES_FILE

    @property
    def memory_file(self) -> str:
        return self.plain_file if self.packed is None else self.frames_file

    @property
    def plain(self) -> FileSum:
        """Of the memory, or of the difference, when it is not compressed."""
        return self.files[self.plain_file] if self.packed is None else self.packed.plain


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """A row of ``runtime_snapshots``. ``fc_version`` is the hypervisor's version (spec's name).

    ``failure_count`` counts all failures, ``consecutive_failures`` those since the last success.
    ``replaces`` is the snapshot that this one, a rebuild, will take the place of.
    ``error`` says why the last build or boot failed.

    ``version`` counts per image and shape; 0 in one that is about to be added: the store numbers
    it. ``rebuild_failures`` counts rebuilds of this one that were begun by the manager itself and
    failed one after the other; before ``rebuild_not_before`` no other is begun. That it is ``None``
    after failures means that it was given up. A rebuild that was only put off is not counted;
    ``rebuild_put_off_by`` is the code of the error that did it.

    ``name`` is a user's, and no two that are not deleted have the same. ``parent_id`` is the
    runtime snapshot that it lies on, with its memory and its disk, and which is kept for it.
    """

    id: UUID
    runtime_image_id: UUID
    snapshot_path: Path
    state: SnapshotState
    hypervisor: str
    fc_version: str
    shape: Shape
    created_at: datetime
    success_count: int = 0
    failure_count: int = 0
    consecutive_failures: int = 0
    last_used_at: datetime | None = None
    replaces: UUID | None = None
    error: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    weight: float = DEFAULT_WEIGHT
    pinned: bool = False
    cause: BuildCause = BuildCause.REQUESTED
    boots: BootStats = field(default_factory=BootStats)
    rebuild_failures: int = 0
    rebuild_not_before: datetime | None = None
    rebuild_put_off_by: str | None = None
    depth: Depth = Depth.RUNTIME
    name: str | None = None
    parent_id: UUID | None = None

    @property
    def is_version(self) -> bool:
        """Whether it is one of its image's versions, from which any VM may be booted."""
        return self.depth is Depth.RUNTIME

    @property
    def is_reproducible(self) -> bool:
        """Whether a build makes another that is as good, and something else serves until then: so
        it is of a VM that nobody has used."""
        return self.depth in (Depth.RUNTIME, Depth.IMAGE)

    @property
    def image(self) -> str | None:
        """The image that is in its guest, by name and tag, where that is what it is for."""
        return str(self.metadata[IMAGE]) if self.depth is Depth.IMAGE else None

    @property
    def stored_bytes(self) -> int | None:
        """What its files take on the disk; ``None`` before it is done."""
        size_bytes = self.metadata.get("size_bytes")
        return None if size_bytes is None else int(size_bytes)

    @property
    def boot_count(self) -> int:
        return self.success_count + self.failure_count


def check_weight(weight: float) -> float:
    """Return ``weight`` as a float, or raise ``InvalidRequest``: finite, 0 to ``MAX_WEIGHT``."""
    if isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:  # NaN is not either
        raise InvalidRequest(
            f"{weight} is not a weight",
            resolution=f"give a number from 0 (not chosen) to {MAX_WEIGHT:g}; the default is "
            f"{DEFAULT_WEIGHT:g}",
        )
    return float(weight)


_REQUIREMENTS = {
    "hypervisor": "hypervisor",
    "hypervisor_version": "hypervisor version",
    "accelerator": "accelerator",
    "machine": "machine type",
    "cpu_model": "CPU model",
    "options": "machine options",
}


def unmet(needed: HostRequirements, here: HostRequirements) -> tuple[str, str] | None:
    """The first requirement that is not met here: its field's name, and why in words."""
    for name, label in _REQUIREMENTS.items():
        want, have = getattr(needed, name), getattr(here, name)
        if want != have and not (name == "options" and not want):
            return name, f"{label} mismatch: the snapshot needs {want}, this host has {have}"
    return None


def unmet_requirement(needed: HostRequirements, here: HostRequirements) -> str | None:
    """Why a snapshot cannot be restored here, in words; ``None`` when it can."""
    found = unmet(needed, here)
    return None if found is None else found[1]


def requirements_of(snapshot: RuntimeSnapshot) -> HostRequirements | None:
    """What a finished snapshot needs of a host, from its metadata; ``None`` before it is done."""
    needed = snapshot.metadata.get("requires")
    return HostRequirements(**needed) if needed else None
