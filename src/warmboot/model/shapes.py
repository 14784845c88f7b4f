"""The shape of a VM (vCPUs and memory), and the largest shape of a machine."""

from __future__ import annotations

from dataclasses import dataclass

from warmboot.model.errors import InvalidRequest

MIN_MEMORY_MIB, MAX_MEMORY_MIB = 256, 65_536
MAX_VCPUS = 32
MAX_DISK_MIB = 64 << 20


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """``vcpus`` whole CPUs, ``memory_mib`` MiB of RAM (a multiple of 2)."""

    vcpus: int
    memory_mib: int

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise InvalidRequest(
                f"{self.vcpus} vCPUs are not possible", resolution=f"ask for 1 to {MAX_VCPUS}"
            )
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB or self.memory_mib % 2:
            raise InvalidRequest(
                f"{self.memory_mib} MiB of memory are not possible",
                resolution=f"ask for an even number from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB",
            )

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU, {self.memory_mib} MiB"


@dataclass(frozen=True, slots=True)
class Capacity:
    """The processors and the memory of a machine: no single VM gets more."""

    cpus: int
    memory_mib: int

    def largest(self, default: Shape) -> Shape:
        """What may be asked for at most. What ``default`` has may always be asked for."""
        memory_mib = max(min(self.memory_mib, MAX_MEMORY_MIB) // 2 * 2, default.memory_mib)
        return Shape(max(min(self.cpus, MAX_VCPUS), default.vcpus), memory_mib)

    def check(self, shape: Shape, default: Shape) -> None:
        """``InvalidRequest`` for a larger shape than the ``largest``."""
        largest = self.largest(default)
        if shape.vcpus > largest.vcpus:
            raise InvalidRequest(
                f"{shape.vcpus} vCPUs are not available on this host",
                details=f"it has {self.cpus} CPUs",
                resolution=f"ask for 1 to {largest.vcpus}",
            )
        if shape.memory_mib > largest.memory_mib:
            raise InvalidRequest(
                f"{shape.memory_mib} MiB of memory are not available on this host",
                details=f"it has {self.memory_mib} MiB",
                resolution="ask for less than that, and leave some to the host",
            )
