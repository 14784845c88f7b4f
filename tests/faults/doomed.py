"""Managers that end themselves with SIGKILL at a given point: ``python -m tests.faults.doomed``.

What one is to do and where it dies comes as JSON on a line of standard input (``Doom``). It dies
when a saga's step was journaled, before or after a method of one of its parts, or in the middle of
what its helper process writes. With ``vmms_too`` the VMMs die in the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.dying_helper import dying
from tests.support import engines
from tests.support.invariants import settled
from tests.support.managers import Lab, Manager, exited_vms, vmm_pids

from warmboot.docker.client import DockerClient
from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.memory_forms import MemoryForms
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.storage.disk_scan import DiskScan
from warmboot.host.storage.stored_images import StoredImages
from warmboot.host.vms import Vms
from warmboot.hypervisors import process
from warmboot.hypervisors.simulated.vm import SimulatedVm
from warmboot.manager.containers.bring_up import BringUp
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.engines.engine_sockets import EngineSockets
from warmboot.manager.engines.engines import Engines
from warmboot.manager.protocols import EngineUntil, Until
from warmboot.manager.tenants.pause_tenant import PauseTenant
from warmboot.model.runtime_snapshot import BuildCause, SnapshotState
from warmboot.model.tenants.boot import BootPolicy
from warmboot.store.repositories.events import EventRepository
from warmboot.store.repositories.images import RuntimeImageRepository
from warmboot.store.repositories.named.containers import ContainerRepository
from warmboot.store.repositories.named.engines import EngineRepository
from warmboot.store.repositories.operations import OperationRepository
from warmboot.store.repositories.snapshots import RuntimeSnapshotRepository
from warmboot.store.repositories.vms import VmRepository

WORK_S = 300.0
"""What works in the background has only what other tests leave to it."""

DIES_S = 60.0
SURVIVED = 3
"""The exit code of one that came to the end of its work alive."""

MIDWAY = ("helper", "midway")
"""While memory is packed or unpacked: its new file is begun."""


@dataclass(frozen=True)
class Doom:
    """``at``: ``(saga, step)``, ``(part, method, "before" | "after"[, an argument])``, or
    ``MIDWAY``. ``options`` are the simulation's, ``settings`` the manager's."""

    root: str
    work: str
    at: tuple[str, ...] = ()
    vmms_too: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _die(doom: Doom) -> None:
    if doom.vmms_too:
        for pid in vmm_pids(Path(doom.root) / "s"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


async def cold(manager: Manager) -> None:
    await manager.run("victim", boot=BootPolicy.COLD)


async def warm(manager: Manager) -> None:
    await manager.run("victim")


async def short(manager: Manager) -> None:
    """A command that is over at once."""
    await manager.run("victim", "echo", "once")


async def engine(manager: Manager) -> None:
    """It is created, used, stopped, started and removed."""
    found = await engines.create(manager, "victim")
    async with engines.docker(found) as client:
        await client.get("/containers/json")
    await engines.engines_of(manager).stop("victim")
    await engines.engines_of(manager).start("victim")
    await engines.engines_of(manager).wait("victim", EngineUntil.RUNNING, WORK_S)
    await engines.engines_of(manager).delete("victim", force=True)


async def freeze(manager: Manager) -> None:
    """An engine is made a snapshot of."""
    await engines.create(manager, "victim")
    await engines.engines_of(manager).snapshot("victim", "seeded")


async def fork(manager: Manager) -> None:
    await engines.create(manager, "victim")
    await engines.engines_of(manager).fork("victim", 2)


async def fork_container(manager: Manager) -> None:
    await manager.run("victim")
    await manager.containers.fork("victim", 2)


async def pause(manager: Manager) -> None:
    """A container and an engine are paused, and go on."""
    await manager.run("victim")
    await engines.create(manager, "victim")
    for noun in (manager.containers, engines.engines_of(manager)):
        await noun.pause("victim")
        await noun.unpause("victim")


async def park(manager: Manager) -> None:
    """A container and an engine are parked."""
    await manager.run("victim")
    await engines.create(manager, "victim")
    for noun in (manager.containers, engines.engines_of(manager)):
        await noun.park("victim")


async def wake(manager: Manager) -> None:
    """They wake. What it dies at is done for their first boots, too: it does not count there."""
    _counts.clear()
    await park(manager)
    _counts.set()
    for noun in (manager.containers, engines.engines_of(manager)):
        await noun.wake("victim")


async def go_on(manager: Manager) -> None:
    """Only what an earlier manager had begun."""
    await settled(manager.running)


async def build(manager: Manager) -> None:
    await manager.snapshot()


async def prepare_image(manager: Manager) -> None:
    snapshot_id = await manager.snapshots.prepare_image("busybox", None, None)

    async def over() -> bool:
        return (await manager.snapshots.get(snapshot_id)).state is not SnapshotState.CREATING

    await manager.until(over)


async def rebuild(manager: Manager) -> None:
    (old,) = await manager.snapshots.list()
    new_id = await manager.snapshots.rebuild(old.id)
    await manager.snapshot_until(new_id, SnapshotState.READY)
    await settled(manager.running)


async def migrate(manager: Manager) -> None:
    """What the manager does by itself for a snapshot whose guest agent is not understood."""

    async def migrated() -> bool:
        snapshots = await manager.snapshots.list()
        return any(s.cause is BuildCause.MIGRATION and s.state == "ready" for s in snapshots)

    await manager.until(migrated)
    await settled(manager.running)


async def delete(manager: Manager) -> None:
    await manager.containers.delete("victim", force=True)


async def delete_snapshot(manager: Manager) -> None:
    for snapshot in await manager.snapshots.list():
        await manager.snapshots.delete(snapshot.id)


async def compress(manager: Manager) -> None:
    await _change(manager, compressed=True)


async def unpack(manager: Manager) -> None:
    await _change(manager, compressed=False)


async def _change(manager: Manager, *, compressed: bool) -> None:
    (snapshot,) = await manager.snapshots.list()
    forms = manager.services.forms
    await (forms.compress if compressed else forms.unpack)(snapshot.id)

    async def changed() -> bool:
        return (await manager.snapshots.get(snapshot.id)).metadata["compressed"] is compressed

    await manager.until(changed)
    await settled(manager.running)


async def collect(manager: Manager) -> None:
    await manager.services.garbage.collect()


async def start(manager: Manager) -> None:
    """One that does not run: a failed container on its own disk, an exited one in its VM."""
    await manager.containers.start("victim")
    await manager.run("other")


async def put_away(manager: Manager) -> None:
    """The VM of a container that has exited is parked."""
    ended = await manager.run("victim", "sh", "-c", "echo said; exit 3")
    await manager.wait("victim", Until.EXITED)
    await exited_vms(manager).put_away(ended.id)


async def fetch_back(manager: Manager) -> None:
    """It wakes; as with ``wake``."""
    _counts.clear()
    await put_away(manager)
    _counts.set()
    await exited_vms(manager).wake((await manager.containers.get("victim")).id)


async def first_start(manager: Manager) -> None:
    """One that was only created."""
    await manager.create("victim", start=False)
    await manager.containers.start("victim")
    await manager.wait("victim", Until.RUNNING)


WORK: dict[str, Callable[[Manager], Awaitable[None]]] = {
    work.__name__: work
    for work in (
        *(cold, warm, short, engine, go_on, build, rebuild, delete, delete_snapshot, start),
        *(compress, unpack, collect, migrate, freeze, fork, fork_container, pause, first_start),
        *(park, wake, put_away, fetch_back, prepare_image),
    )
}


PARTS: dict[str, Any] = {
    "guest": DockerClient,
    "vm": SimulatedVm,
    "host-vms": Vms,
    "host-images": StoredImages,
    "files": SnapshotFiles,
    "forms": MemoryForms,
    "cache": MemoryCache,
    "disk-scan": DiskScan,
    "containers": ContainerRepository,
    "engines": EngineRepository,
    "engine-sockets": EngineSockets,
    "engine-use-cases": Engines,
    "images": RuntimeImageRepository,
    "snapshots": RuntimeSnapshotRepository,
    "vms": VmRepository,
    "events": EventRepository,
    "bring-up": BringUp,
    "watch": WatchContainer,
    "pauses": PauseTenant,
    "operations": OperationRepository,
}


_counts = asyncio.Event()
"""Set while it is to die at what it was told."""


def _arm(doom: Doom) -> None:
    """Make a method deadly: always, or where one of its arguments is the fourth word."""
    if not doom.at or doom.at[0] not in PARTS:
        return
    part, method, when = PARTS[doom.at[0]], doom.at[1], doom.at[2]
    real = getattr(part, method)

    async def deadly(*args: Any, **kwargs: Any) -> Any:
        wanted = _counts.is_set() and (len(doom.at) == 3 or doom.at[3] in map(str, args))
        if wanted and when == "before":
            _die(doom)
        result = await real(*args, **kwargs)
        if wanted:
            _die(doom)
        return result

    setattr(part, method, deadly)


async def main(doom: Doom) -> None:
    async def hook(saga: str, step: str) -> None:
        if doom.at == (saga, step) and _counts.is_set():
            _die(doom)

    process._give_way = lambda pid: None  # as in conftest.py
    lab = Lab(Path(doom.root))
    lab.set(**doom.options)
    _arm(doom)
    _counts.set()
    async with lab.manager(hook, **doom.settings) as manager:
        if doom.at == MIDWAY:
            manager.host.snapshots._forms._at_low_priority = dying("manager")
        async with asyncio.timeout(WORK_S):
            await WORK[doom.work](manager)
        if doom.at:  # what it is to die at may come a moment after what it was to do
            await asyncio.sleep(DIES_S)
    sys.exit(SURVIVED)


def serve() -> None:
    """One ``Doom`` a line on standard input; each is done by a fork, its end told on a line.

    Forks, because what takes longest of all is that Python reads the modules of a manager.
    """
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # the answers are not to be mixed with the log
            values = json.loads(line)
            asyncio.run(main(Doom(**values | {"at": tuple(values["at"])})))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
