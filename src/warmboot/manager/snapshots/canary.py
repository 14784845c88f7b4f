"""The canary: before a new snapshot serves, a VM is restored from it, and a container runs there.

The VM comes up as any container's does: same restore, same disk, same claim. It is made and taken
away by the build's saga.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.guest.guest_smoke_test import run_smoke_test
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.model.errors import (
    CanaryFailed,
    ContainerError,
    DiskFull,
    GuestError,
    HypervisorError,
    SnapshotDamaged,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.vm import VmRecord
from warmboot.store import Store

_RUN_TIMEOUT_S = 120.0
_ITS_FAULTS = (SnapshotDamaged, HypervisorError, GuestError, ContainerError)


class Canary:
    """Each of its methods returns how many seconds it took, or raises ``CanaryFailed``."""

    def __init__(self, store: Store, host: HostAgent, timeout_s: float) -> None:
        self._store = store
        self._host = host
        self._timeout_s = timeout_s

    async def restore(self, snapshot: RuntimeSnapshot, record: VmRecord) -> float:
        """Restore a VM, until Docker answers in it and it has an identity of its own."""
        identity = Identity("warmboot-canary", secrets.token_hex(16), record.token)
        watch = Stopwatch()
        with _judged("a VM could not be restored from it"):
            await self._host.snapshots.check(snapshot.snapshot_path)
            handle = await self._host.vms.restore(record.spec, snapshot.snapshot_path, record.token)
            await self._store.vms.update(record.id, handle=handle)
            await self._host.vms.claim(record.id, identity, self._timeout_s)
            await self._host.vms.wait_for_docker(record.id, self._timeout_s)
        return watch.elapsed_s

    async def run(self, vm_id: str) -> float:
        """Run a container in the VM, until it has ended with 0."""
        watch = Stopwatch()
        with _judged(
            "no container runs in a VM that is restored from it",
            (*_ITS_FAULTS, DiskFull),  # the disk that is full here is the guest's own
        ):
            await run_smoke_test(self._host.vms.link(vm_id), _RUN_TIMEOUT_S)
        return watch.elapsed_s


@contextlib.contextmanager
def _judged(verdict: str, faults: tuple[type[WarmbootError], ...] = _ITS_FAULTS) -> Iterator[None]:
    """What goes wrong inside speaks against the new snapshot; a full disk of the host does not."""
    try:
        yield
    except faults as error:
        raise CanaryFailed(
            f"the new runtime snapshot failed its test: {verdict}",
            details=": ".join(part for part in (error.brief, error.details) if part),
            resolution="see `warmboot doctor` and the manager's log; "
            "`warmboot snapshot rebuild` tries again",
        ) from error
