"""The configuration of the host agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from warmboot.model.tenants.registry_mirror import RegistryMirror


@dataclass(frozen=True, slots=True)
class HostConfig:
    """``disk_floor_bytes``: with less room than this below ``root``, nothing new is begun.

    ``pull_silence_s``: how long a registry may say nothing before a pull is given up.
    ``silent_after_s``: how long a VM may give no answer before it counts as unresponsive.
    ``run_folder``: where sockets and what else does not outlive a boot of the host are.
    ``socket_gid``: the group of the engines' sockets beside their owners; ``None``: our own.
    ``registry_mirror``: from which Docker in VMs pulls what it would pull from Docker Hub.
    ``memory_cache_bytes``: the budget for unpacked memory of compressed snapshots; ``None``: none.
    """

    root: Path
    run_folder: Path
    socket_gid: int | None = None
    disk_floor_bytes: int = 1 << 30
    memory_cache_bytes: int | None = None
    pull_silence_s: float = 60.0
    silent_after_s: float = 120.0
    registry_mirror: RegistryMirror | None = None
