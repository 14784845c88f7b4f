"""Chooses QEMU's accelerator: KVM, if it can really run a guest, or TCG.

Inside some virtual machines ``/dev/kvm`` opens and answers although the CPU shows neither ``vmx``
nor ``svm``: ring-0 code is then emulated, and an ordinary kernel does not get through its boot. So
both are asked: the CPU's flags, and QEMU itself, which must bring up a KVM machine.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from warmboot.hypervisors.files import cpu_flags
from warmboot.model.errors import HostError
from warmboot.system.programs import run_program

PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    usable: bool
    reason: str


async def kvm_verdict(binary: str, device: Path = Path("/dev/kvm")) -> KvmVerdict:
    """Decide, and say why in words that ``warmboot doctor`` can show."""
    if not device.exists():
        return KvmVerdict(False, f"{device} does not exist")
    if not await asyncio.to_thread(cpu_flags) & {"vmx", "svm"}:
        return KvmVerdict(False, f"{device} is there, but the CPU shows neither vmx nor svm")
    try:
        with device.open("rb+"):
            pass
    except OSError as error:
        return KvmVerdict(False, f"{device} cannot be opened: {error.strerror}")
    if await _qemu_brings_up_kvm(binary):
        return KvmVerdict(True, "the CPU has virtualization, and QEMU brought up a KVM machine")
    return KvmVerdict(False, "QEMU could not bring up a KVM machine")


async def _qemu_brings_up_kvm(binary: str) -> bool:
    commands = [{"execute": "qmp_capabilities"}, {"execute": "query-kvm"}, {"execute": "quit"}]
    try:
        said = await run_program(
            *(binary, "-nodefaults", "-display", "none", "-machine", "none", "-accel", "kvm"),
            *("-qmp", "stdio"),
            stdin="".join(json.dumps(command) + "\n" for command in commands).encode(),
            check=False,
            timeout_s=PROBE_TIMEOUT_S,
        )
    except HostError:
        return False
    return '"enabled": true' in said.output
