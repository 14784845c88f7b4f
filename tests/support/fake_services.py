"""The manager's services, in memory: the same states, the same errors, no VM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.fake_archives import FakeArchives
from tests.support.fake_container_files import FakeContainerFiles
from tests.support.fake_containers import FakeContainers
from tests.support.fake_engines import FakeEngines
from tests.support.fake_events import DEFAULT_SHAPE, FakeEvents, now
from tests.support.fake_pages import FakePages
from tests.support.fake_snapshots import FakeForms, FakeImages, FakeSnapshots
from tests.support.fake_workers import FakeWorkers

from warmboot.manager.protocols import (
    Check,
    HostInfo,
    Services,
)
from warmboot.model.container import ContainerState as S
from warmboot.model.garbage import Collection, Garbage
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.usage import BootSummary, OwnedVm, StorageUsage, Usage, VmUsage
from warmboot.model.vm import VmKind


class FakeSystem:
    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.cpu_s = 0.0
        self.error: Exception | None = None
        self.checks: tuple[Check, ...] = (
            Check("kernel", True, "Linux 6.18"),
            Check("kvm", False, "this machine cannot run KVM guests",
                  why="the CPU flags show neither vmx nor svm",
                  remedy="nothing: QEMU emulates (TCG), which is slower", required=False),
            Check("qemu", True, "QEMU 10.0.2"),
        )  # fmt: skip

    async def info(self) -> HostInfo:
        if self.error is not None:
            raise self.error
        return HostInfo(
            "0.1.0", "simulated", "1.0", "none", Path("/srv/fc"), DEFAULT_SHAPE, checks=self.checks
        )

    async def usage(self, window_s: float) -> Usage:
        """A VM for every container that runs; each look finds 0.1 s of processor time more."""
        self.cpu_s += 0.1
        running = [c for c in self._containers.rows.values() if c.state is S.RUNNING]
        warm = [c for c in running if c.boot_method is BootMethod.WARM]
        return Usage(
            at=now(),
            window_s=window_s,
            boots={
                BootMethod.WARM: BootSummary(len(warm), 0.5, 0.5) if warm else BootSummary(),
                BootMethod.COLD: BootSummary(),
            },
            vms=tuple(
                OwnedVm(
                    VmUsage(c.vm_id or f"vm-{c.name}", self.cpu_s, 100 << 20, 40 << 20),
                    VmKind.CONTAINER,
                    c.id,
                )
                for c in running
            ),
            storage=StorageUsage(100 << 30, 60 << 30, 1 << 30),
        )

    async def doctor(self) -> Sequence[Check]:
        return self.checks


class FakeGarbage:
    """``waiting`` is what a collection removes, and ``kept`` what it cannot."""

    def __init__(self, events: FakeEvents) -> None:
        self.waiting: tuple[Garbage, ...] = ()
        self.kept: tuple[Garbage, ...] = ()
        self._events = events

    async def collect(self, *, dry_run: bool = False) -> Collection:
        done = Collection(dry_run, self.waiting, self.kept, 0.0 if dry_run else 0.1)
        if not dry_run:
            self.waiting = ()
            self._events.add("garbage.collected", "garbage", removed=len(done.removed))
        return done


class FakeServices:
    """All of them, wired; ``services`` is what ``create_app`` takes."""

    def __init__(self) -> None:
        self.events = FakeEvents()
        self.images = FakeImages(self.events)
        self.snapshots = FakeSnapshots(self.events, self.images)
        self.archives = FakeArchives()
        self.containers = FakeContainers(self.events, self.archives)
        self.engines = FakeEngines(self.events)
        self.forms = FakeForms(self.events, self.snapshots)
        self.garbage = FakeGarbage(self.events)
        self.system = FakeSystem(self.containers)
        self.workers = FakeWorkers(self.events.add)
        self.services = Services(
            images=self.images,
            snapshots=self.snapshots,
            containers=self.containers,
            files=FakeContainerFiles(self.containers),
            archives=self.archives,
            events=self.events,
            system=self.system,
            forms=self.forms,
            garbage=self.garbage,
            pages=FakePages(
                self.images, self.snapshots, self.containers, self.engines, self.workers
            ),
            engines=self.engines,
            workers=self.workers,
        )
