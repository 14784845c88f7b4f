"""A checkpoint: the saved state of a worker, and on which engines it can be restored.

    creating ──▶ ready ──▶ damaged
        │          │          │
        └──────────┴──────────┴──▶ deleted

The rules below say *why not* as a tuple of ``Obstacle``, each with its remedy; an empty one means
that nothing is known to be in the way. They know versions only from public reports and from what
was tried (``docs/``); what they do not know they do not allow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from warmboot.model.conventions.names import check_name
from warmboot.model.errors import InvalidName
from warmboot.model.runtime_image import FileSum
from warmboot.model.transitions import Transitions
from warmboot.model.worker import HOST_NETWORK, RUNTIME

ARCHIVE_FORMAT = 3
READ_FORMATS = (1, 2, 3)
"""In the first, what had been deleted came back, and links and FIFOs were lost at the export. In
the first two the manifest has the sums of the files; they stand at the end since."""

SUMS_AT_THE_END = 3

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResumeOptions:
    """``keep_files``: the worker finds its files as they are, not as they were at the checkpoint.

    ``close_connections``: it finds its TCP connections closed.
    """

    keep_files: bool = False
    close_connections: bool = False


AS_IT_WAS = ResumeOptions()


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file in a mount that a worker held open, and that is not as it was at the checkpoint.

    Its ``path`` as the worker sees it, its size then and now; ``None`` if it is gone.
    """

    path: str
    size_then_bytes: int
    size_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class CheckpointState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    DAMAGED = "damaged"
    DELETED = "deleted"


_C = CheckpointState

CHECKPOINT_TRANSITIONS = Transitions(
    "checkpoint",
    {
        _C.CREATING: frozenset({_C.READY, _C.DELETED}),
        _C.READY: frozenset({_C.DAMAGED, _C.DELETED}),
        _C.DAMAGED: frozenset({_C.DELETED}),
        _C.DELETED: frozenset(),
    },
)


@dataclass(frozen=True, slots=True)
class Versions:
    """What a checkpoint was made with, or what a host has. ``architecture`` as in ``uname -m``."""

    engine: str
    criu: str
    kernel: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A row of ``checkpoints``.

    ``duration_s`` is how long the dump took, ``processes`` how many are in it, ``tcp_connections``
    how many of their TCP connections were not merely listening. ``automatic``: made by the
    worker's policy, so its retention applies. ``folder`` is where it is; ``None``: the engine's.
    ``stored_bytes`` is what it takes on the disk, files included, once that was measured.
    """

    id: UUID
    worker_id: UUID
    name: str
    state: CheckpointState
    created_at: datetime
    versions: Versions
    image_digest: str
    size_bytes: int = 0
    duration_s: float = 0.0
    processes: int = 0
    tcp_connections: int = 0
    left_running: bool = False
    automatic: bool = False
    folder: Path | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ArchiveManifest:
    """What stands in an archive's ``warmboot.json``; ``files`` by path within the archive.

    ``mounts`` are the places in the worker where something was mounted.
    """

    name: str
    created_at: datetime
    image: str
    image_digest: str
    versions: Versions
    network: str
    processes: int
    tcp_connections: int
    mounts: tuple[str, ...] = ()
    files: Mapping[str, FileSum] = field(default_factory=dict)
    format: int = ARCHIVE_FORMAT


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that is in the way, and what to do about it."""

    reason: str
    remedy: str


def check_checkpoint_name(name: str) -> str:
    """Docker's rule for checkpoints: as for all names, but two characters at least."""
    if len(check_name(name, "checkpoint's name")) < 2:
        raise InvalidName(
            f"{name!r} is too short for a checkpoint's name",
            resolution="use two characters or more: Docker asks for that",
        )
    return name


def parse_version(text: str) -> Version:
    """The leading numbers of a version: ``20.10.24+dfsg1`` is (20, 10, 24), ``6.18.44-fc`` too.

    Always three numbers, so that 26.0 and 26.0.0 are one; ``()`` for what is no version.
    """
    match = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", text.strip())
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def engine_obstacles(engine: str) -> tuple[Obstacle, ...]:
    """Why an engine of this version cannot restore at all, on whatever network."""
    if (25, 0, 0) <= parse_version(engine) <= (25, 0, 3):
        return (
            Obstacle(
                f"Docker {engine} cannot restore a checkpoint at all (moby 47456)",
                "upgrade Docker to 25.0.4 or later",
            ),
        )
    return ()


def network_obstacles(engine: str, network: str) -> tuple[Obstacle, ...]:
    """Why an engine of this version cannot restore on ``network``; ``host`` is always well."""
    if network == HOST_NETWORK:
        return ()
    remedy = "run the worker with network 'host'"
    version = parse_version(engine)
    if version == (26, 0, 0) or version >= (28, 0, 0):
        return (
            Obstacle(
                f"Docker {engine} cannot restore on the network {network!r}: it has removed the "
                "network namespace by then (bind-mount /proc/0/ns/net)",
                remedy + ", or use Docker 26.0.1 to 27.5",
            ),
        )
    if (26, 0, 1) <= version < (27, 6, 0):
        return ()
    return (
        Obstacle(
            f"it is not known that Docker {engine or 'of unknown version'} restores on the "
            f"network {network!r}",
            remedy,
        ),
    )


def obstacles(
    engine: str, network: str, *, tty: bool = False, auto_remove: bool = False
) -> tuple[Obstacle, ...]:
    """Why a container cannot be paused so that it is sure to resume. Empty: it can."""
    found = [*engine_obstacles(engine), *network_obstacles(engine, network)]
    return (*found, *_other_obstacles(tty=tty, auto_remove=auto_remove))


DOCKERS_NETWORKS = (HOST_NETWORK, "none", "bridge")
BRIDGE_DRIVER = "bridge"


def runtime_obstacles(
    network: str, *, auto_remove: bool = False, wake_on: Collection[int] = ()
) -> tuple[Obstacle, ...]:
    """The same for a container that runs on the runtime of ours, whatever its engine.

    Its start is a plain one, for which the engine makes a network or a terminal as ever.
    """
    found: list[Obstacle] = []
    if not network or network.startswith("container:"):
        found.append(
            Obstacle(
                f"the network {network!r} is another container's, and gone when that one is",
                "run the worker on a network that you create (`docker network create NAME`), where "
                "containers find each other by their names, or on 'host', 'bridge' or 'none'",
            )
        )
    if wake_on and network != HOST_NETWORK:
        found.append(
            Obstacle(
                f"nobody can listen at its ports to wake it on the network {network!r}, as its "
                "address there is gone while it is paused",
                "run the worker with network 'host', or wake it by a request",
            )
        )
    return (*found, *_auto_remove_obstacles(auto_remove=auto_remove))


def driver_obstacles(network: str, driver: str) -> tuple[Obstacle, ...]:
    """The same for ``driver``, what a network is that somebody has created."""
    if driver == BRIDGE_DRIVER:
        return ()
    return (
        Obstacle(
            f"it is not known that a worker could be resumed on {network}, a network of the driver "
            f"{driver!r}",
            "run the worker on a bridge (`docker network create NAME`), or on network 'host'",
        ),
    )


def _other_obstacles(*, tty: bool, auto_remove: bool) -> tuple[Obstacle, ...]:
    found: list[Obstacle] = []
    if tty:
        found.append(
            Obstacle(
                "a container with a TTY is not restored reliably: the terminal's other end is gone",
                "run the worker without a TTY",
            )
        )
    return (*found, *_auto_remove_obstacles(auto_remove=auto_remove))


def _auto_remove_obstacles(*, auto_remove: bool) -> tuple[Obstacle, ...]:
    if not auto_remove:
        return ()
    return (
        Obstacle(
            "Docker deletes an auto-remove container, with its checkpoints, when it stops or "
            "when a restore fails",
            "run the worker without auto-remove and delete it when it is done",
        ),
    )


def criu_needed(kernel: str) -> tuple[Version, str]:
    """The oldest CRIU that fits a kernel, and why.

    6.13 split the vDSO's data into two areas, which older versions take for damage; since 6.16 the
    socket option that older ones ask of every TCP socket is refused.
    """
    version = parse_version(kernel)
    if version >= (6, 16, 0):
        return (4, 2, 0), "older ones cannot dump a TCP socket on Linux 6.16 and later"
    if version >= (6, 13, 0):
        return (4, 1, 0), "older ones do not know the vDSO of Linux 6.13 and later"
    return (3, 17, 0), "older ones were not tried"


def criu_obstacles(criu: str, kernel: str) -> tuple[Obstacle, ...]:
    """Why this CRIU does not do on this kernel."""
    needed, why = criu_needed(kernel)
    if parse_version(criu) >= needed:
        return ()
    wanted = ".".join(map(str, needed))
    return (
        Obstacle(
            f"CRIU {criu or 'of unknown version'} is too old for Linux {kernel}: {why}",
            f"install CRIU {wanted} or later (`warmboot doctor --fix` does)",
        ),
    )


def archive_obstacles(
    manifest: ArchiveManifest,
    here: Versions,
    image_digest: str,
    *,
    network: str = HOST_NETWORK,
    mounts: Collection[str] = (),
    runtime: str = "",
) -> tuple[Obstacle, ...]:
    """Why an archive cannot become a checkpoint of a worker of ``image_digest`` on this host.

    ``network``, ``mounts`` (places in the worker) and ``runtime`` are the new worker's.
    """
    found: list[Obstacle] = []
    there = manifest.versions
    if manifest.format not in READ_FORMATS:
        found.append(
            Obstacle(
                f"the archive has format {manifest.format}, "
                f"this warmboot reads up to {ARCHIVE_FORMAT}",
                "use the warmboot version that wrote it",
            )
        )
    if manifest.image_digest != image_digest:
        found.append(
            Obstacle(
                f"the archive is of image {manifest.image_digest}, the worker of {image_digest}",
                f"create the worker from {manifest.image} as it was then",
            )
        )
    if there.architecture != here.architecture:
        found.append(
            Obstacle(
                f"the archive is of a {there.architecture} machine, this is {here.architecture}",
                "import it on a machine of its own kind",
            )
        )
    for what, then, now in (("CRIU", there.criu, here.criu), ("Linux", there.kernel, here.kernel)):
        if parse_version(now) < parse_version(then):
            found.append(
                Obstacle(
                    f"the archive was made with {what} {then}, here it is {now or 'unknown'}",
                    f"bring {what} here to {then} or later",
                )
            )
    found += _other_mounts(set(manifest.mounts), set(mounts))
    if manifest.network != network:
        found.append(
            Obstacle(
                f"the archive is of a worker on the network {manifest.network!r}, this one is on "
                f"{network!r}",
                f"create the worker with network {manifest.network!r}",
            )
        )
        return tuple(found)
    if runtime == RUNTIME:
        return (*found, *runtime_obstacles(network))
    return (*found, *obstacles(here.engine, network))


def _other_mounts(there: set[str], here: set[str]) -> tuple[Obstacle, ...]:
    """CRIU restores a mount only where there is one, and knows no other ones."""
    if there == here:
        return ()
    wanted = ", ".join(sorted(there - here))
    unknown = ", ".join(sorted(here - there))
    reasons = [f"the archive needs a mount at {wanted}"] if wanted else []
    reasons += [f"it knows no mount at {unknown}"] if unknown else []
    return (Obstacle(" and ".join(reasons), "create the worker with the same mounts as then"),)


def outdated(checkpoints: Sequence[Checkpoint], keep: int) -> tuple[Checkpoint, ...]:
    """The automatic checkpoints that a retention of ``keep`` gives up, oldest first.

    Only ``ready`` ones count and go: one that is being made is not yet worth anything, and those
    made by hand stay until somebody deletes them.
    """
    automatic = [c for c in checkpoints if c.automatic and c.state is CheckpointState.READY]
    automatic.sort(key=lambda c: (c.created_at, c.id))
    return tuple(automatic[: max(0, len(automatic) - keep)])
