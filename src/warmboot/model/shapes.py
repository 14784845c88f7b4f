"""The shape of a VM: vCPUs and memory."""

from __future__ import annotations

from dataclasses import dataclass

from warmboot.model.errors import InvalidRequest

MIN_MEMORY_MIB, MAX_MEMORY_MIB = 256, 65_536
MAX_VCPUS = 32


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """``vcpus`` whole CPUs, ``memory_mib`` MiB of RAM (a multiple of 2)."""

    vcpus: int
    memory_mib: int

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise InvalidRequest(
                f"{self.vcpus} vCPUs cannot be had", resolution=f"ask for 1 to {MAX_VCPUS}"
            )
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB or self.memory_mib % 2:
            raise InvalidRequest(
                f"{self.memory_mib} MiB of memory cannot be had",
                resolution=f"ask for an even number from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB",
            )

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU, {self.memory_mib} MiB"
