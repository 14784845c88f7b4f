"""The canary: before a new snapshot serves, a VM is restored from it, and a container runs there.

    canary-network ─▶ canary-machine ─▶ canary-restore ─▶ canary-run
    a slot             folder, disk,     own identity,     a container
                       row               Docker answers    ends with 0; the VM goes

Steps of the build's saga, so what a dead manager leaves of them is undone like the rest. The VM
comes up as any container's does: same restore, same disk, same claim.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.guest.guest_probe import run_probe
from warmboot.host.vm.vm_files import snapshot_disks
from warmboot.manager.core.saga import Context, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.vms.builder_vm import BuilderVm
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
from warmboot.store import Store

_RUN_TIMEOUT_S = 120.0
_ITS_FAULTS = (SnapshotDamaged, HypervisorError, GuestError, ContainerError)


class Canary:
    """``steps`` follow the one that publishes; ``live`` has ``snapshot`` and ``image`` by then."""

    def __init__(self, store: Store, host: HostAgent, timeout_s: float) -> None:
        self._store = store
        self._host = host
        self._vm = BuilderVm(store, host, "canary_")
        self._timeout_s = timeout_s
        self.steps = (
            Step("canary-network", self._vm.reserve, self._vm.unreserve),
            Step("canary-machine", self._make, self._vm.unmake),
            Step("canary-restore", self._restore),
            Step("canary-run", self._run),
        )

    def data(self) -> dict[str, Any]:
        """What the journal has of it from the beginning."""
        return self._vm.data()

    async def _make(self, context: Context) -> None:
        snapshot: RuntimeSnapshot = context.live["snapshot"]
        await self._vm.make(context, snapshot_disks(snapshot.snapshot_path))

    async def _restore(self, context: Context) -> None:
        snapshot: RuntimeSnapshot = context.live["snapshot"]
        record = self._vm.record(context)
        identity = Identity("warmboot-canary", secrets.token_hex(16), record.token)
        watch = Stopwatch()
        with _judged("a VM could not be restored from it"):
            await self._host.files.check(snapshot.snapshot_path)
            handle = await self._host.restore(record.spec, snapshot.snapshot_path, record.token)
            await self._store.vms.update(record.id, handle=handle)
            await self._host.claim(record.id, identity, self._timeout_s)
            await self._host.wait_for_docker(record.id, self._timeout_s)
        context.live["canary_boot_s"] = watch.elapsed_s

    async def _run(self, context: Context) -> None:
        watch = Stopwatch()
        with _judged(
            "no container runs in a VM that is restored from it",
            (*_ITS_FAULTS, DiskFull),  # the disk that is full here is the guest's own
        ):
            await run_probe(self._host.link(self._vm.id(context)), _RUN_TIMEOUT_S)
        context.live["canary_run_s"] = watch.elapsed_s
        # Not kept until the end of the saga: nothing maps the files when they begin to serve.
        await self._vm.unmake(context)


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
