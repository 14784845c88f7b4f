"""The configuration of the QEMU driver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Machine(StrEnum):
    Q35 = "q35"
    MICROVM = "microvm"


@dataclass(frozen=True, slots=True)
class QemuConfig:
    """``accelerator`` ``auto`` takes KVM where it is truly usable, else TCG.

    ``start_timeout_s`` bounds the time until the monitor answers, ``answer_timeout_s`` each command
    to it, ``migrate_timeout_s`` a save or the loading of a state. ``translation_cache_mib`` bounds
    TCG's cache of translated code.
    """

    binary: str = "qemu-system-x86_64"
    machine: Machine = Machine.Q35
    accelerator: str = "auto"
    start_timeout_s: float = 30.0
    answer_timeout_s: float = 60.0
    migrate_timeout_s: float = 60.0
    translation_cache_mib: int = 256
