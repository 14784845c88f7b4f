"""The error tree. Every error says what went wrong, the details, and what to do.

    WarmbootError
    ├── InvalidRequest            the request can never succeed as it stands
    │   └── InvalidName
    ├── Unauthorized              no token, or an unknown one
    ├── NotFound                  no such thing (any more)
    ├── Conflict                  legal in itself, but not now
    │   ├── NameTaken
    │   ├── InUse                 leased, referenced, or mapped by a running VM
    │   ├── TooManySessions       a container has as many sessions as it may
    │   └── IllegalTransition     not from this state
    ├── NotSupported              this machine, engine or hypervisor cannot do it
    ├── Unavailable               something we depend on does not answer
    │   ├── RegistryUnavailable
    │   └── EngineUnavailable
    ├── DiskFull
    ├── MemoryFull
    ├── RowUnreadable             the database holds it, and it cannot be read
    └── HostError                 something on the machine failed
        ├── ImageDamaged          a runtime image's file is missing or is not what it was
        ├── SnapshotDamaged       a snapshot's file is missing or is not what it was
        ├── CanaryFailed          a new snapshot was built, but what is restored from it fails
        ├── NetworkError
        ├── HypervisorError
        │   ├── VmGone            the VMM process no longer exists
        │   ├── VmUnresponsive    it is there, and does not answer
        │   └── RestoreFailed
        ├── GuestError            the guest agent refused
        │   ├── GuestUnreachable  it, or Docker in the guest, does not answer (any more)
        │   └── DockerNotReady
        ├── ContainerError        Docker in the guest refused
        │   ├── ImageNotFound     the registry does not have it
        │   ├── CommandNotFound   the image has no such program
        │   └── CommandNotExecutable  it has, but it cannot be executed
        └── CheckpointError       CRIU or the engine failed
            ├── CheckpointRefused CRIU cannot do it as things stand
            └── CheckpointTimeout it took longer than the request allows

HTTP status codes live in the API's error handlers only.
"""

from __future__ import annotations

from typing import Any, ClassVar


class WarmbootError(Exception):
    """Base of all. ``brief`` is one line; ``details`` what was seen; ``resolution`` what to do."""

    code: ClassVar[str] = "internal"

    def __init__(self, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)

    def as_dict(self) -> dict[str, Any]:
        """``code``, ``brief``, ``details``, ``resolution``: as stored in journals and events."""
        return {
            "code": self.code,
            "brief": self.brief,
            "details": self.details,
            "resolution": self.resolution,
        }


class InvalidRequest(WarmbootError):
    """``fields`` of the request that are not valid, where that is known."""

    code = "invalid-request"
    fields: tuple[str, ...] = ()


class InvalidName(InvalidRequest):
    code = "invalid-name"


class Unauthorized(WarmbootError):
    code = "unauthorized"


class NotFound(WarmbootError):
    code = "not-found"


class Conflict(WarmbootError):
    code = "conflict"


class NameTaken(Conflict):
    code = "name-taken"


class InUse(Conflict):
    code = "in-use"


class TooManySessions(Conflict):
    code = "too-many-sessions"


class IllegalTransition(Conflict):
    code = "illegal-transition"


class NotSupported(WarmbootError):
    code = "not-supported"


class Unavailable(WarmbootError):
    code = "unavailable"


class RegistryUnavailable(Unavailable):
    code = "registry-unavailable"


class EngineUnavailable(Unavailable):
    code = "engine-unavailable"


class DiskFull(WarmbootError):
    code = "disk-full"


class MemoryFull(WarmbootError):
    code = "memory-full"


class RowUnreadable(WarmbootError):
    code = "row-unreadable"


class HostError(WarmbootError):
    code = "host-error"


class ImageDamaged(HostError):
    code = "image-damaged"


class SnapshotDamaged(HostError):
    code = "snapshot-damaged"


class CanaryFailed(HostError):
    code = "canary-failed"


class NetworkError(HostError):
    code = "network-error"


class HypervisorError(HostError):
    code = "hypervisor-error"


class VmGone(HypervisorError):
    code = "vm-gone"


class VmUnresponsive(HypervisorError):
    code = "vm-unresponsive"


class RestoreFailed(HypervisorError):
    code = "restore-failed"


class GuestError(HostError):
    code = "guest-error"


class GuestUnreachable(GuestError):
    """No connection, it broke off, or nothing came: the guest may be starting, busy, or gone."""

    code = "guest-unreachable"


class DockerNotReady(GuestError):
    code = "docker-not-ready"


class ContainerError(HostError):
    code = "container-error"


class ImageNotFound(ContainerError):
    code = "image-not-found"


class CommandNotFound(ContainerError):
    """``exit_code`` is what shells and docker give for it."""

    code = "command-not-found"
    exit_code = 127


class CommandNotExecutable(ContainerError):
    code = "command-not-executable"
    exit_code = 126


class CheckpointError(HostError):
    code = "checkpoint-error"


class CheckpointRefused(CheckpointError):
    code = "checkpoint-refused"


class CheckpointTimeout(CheckpointError):
    code = "checkpoint-timeout"
