"""A QEMU that waits for the state it will load (``-incoming defer``).

Starting the process, building the machine and reading the kernel take most of what a restore
takes; none of it depends on who will use the VM.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from warmboot.hypervisors.qemu.vm import QemuVm
from warmboot.model.errors import HypervisorError, RestoreFailed
from warmboot.model.vm import VmSpec


class QemuStandby:
    """Implements ``hypervisors.base.Standby``."""

    def __init__(self, vm: QemuVm, state: Path) -> None:
        self._vm = vm
        self._state = state

    @property
    def alive(self) -> bool:
        return self._vm.alive

    async def restore(self) -> QemuVm:
        try:
            with restoring(self._vm.spec):
                await self._vm.load(self._state)
        except BaseException:
            await self.discard()
            raise
        return self._vm

    async def discard(self) -> None:
        await self._vm.kill()


@contextlib.contextmanager
def restoring(spec: VmSpec) -> Iterator[None]:
    """Whatever goes wrong is a ``RestoreFailed``."""
    try:
        yield
    except RestoreFailed:
        raise
    except HypervisorError as error:
        raise RestoreFailed(
            f"QEMU could not restore {spec.id}",
            details=error.details or error.brief,
            resolution="the snapshot may be damaged or from another QEMU: rebuild it",
        ) from error
