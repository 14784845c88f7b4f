"""What must hold whenever a manager is at rest: nothing leaks, and nobody is wrong about anything.

``check`` looks at a manager that runs, through its store and its host, so it works with every
hypervisor; ``settled`` waits first until nothing is under way. Each broken promise is a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from tests.support.eventually import eventually

from warmboot.bootstrap.service import Running
from warmboot.host.network import Slot
from warmboot.host.vm.leftovers import users_of
from warmboot.images.files import check_sizes, load_manifest
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.runtime_snapshot import Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.engine import EngineState
from warmboot.model.vm import VmKind, VmRecord

FINAL = frozenset(ContainerState) - {
    *(ContainerState.CREATING, ContainerState.PAUSED, ContainerState.DELETING),
    *(ContainerState.PARKING, ContainerState.WAKING),
}
ENGINE_FINAL = frozenset(
    {EngineState.RUNNING, EngineState.PARKED, EngineState.STOPPED, EngineState.FAILED}
)
SETTLE_S = 60.0
AGREE_S = 240.0
"""How long database and host may differ after something has happened."""

MAX_POOL = 5
"""Slots that a manager keeps ready at most (``MANAGER_NETWORK_POOL_SIZE``), and one being made."""


async def settled(running: Running, timeout_s: float = SETTLE_S) -> None:
    """Return when nothing is under way any more: no operation, no passing state."""

    async def look() -> bool:
        containers = await running.store.containers.list()
        snapshots = await running.store.snapshots.list(include_deleted=True)
        busy = any(_is_passing(container) for container in containers)
        busy |= any(
            engine.state not in ENGINE_FINAL
            or (engine.state is EngineState.RUNNING and not engine.handed_over)
            for engine in await running.store.engines.list()
        )
        busy |= any([await _passing(running, snapshot) for snapshot in snapshots])
        return not busy and not await running.store.operations.list()

    with contextlib.suppress(AssertionError):  # what is under way is told by the promises
        await eventually(look, timeout_s=timeout_s)


def _is_passing(container: Container) -> bool:
    removed_soon = container.state is ContainerState.EXITED and container.spec.auto_remove
    return removed_soon or container.state not in FINAL


async def _passing(running: Running, snapshot: RuntimeSnapshot) -> bool:
    if snapshot.state is SnapshotState.DELETED:
        return not await running.store.snapshots.leases(snapshot.id)
    return snapshot.state is SnapshotState.CREATING


async def check(running: Running, *, ready: Collection[RuntimeSnapshot] = ()) -> None:
    """Raise ``AssertionError`` with every promise that is broken.

    ``ready`` are snapshots that were ready before: each must be still, or have a successor that is.
    """
    await settled(running)
    broken: list[str] = []

    async def kept() -> bool:
        broken[:] = await _broken(running, ready)
        return not broken

    try:  # what has just happened in a VM may not have been stored yet
        await eventually(kept, timeout_s=AGREE_S)
    except AssertionError:
        raise AssertionError("\n".join(["broken promises:", *broken])) from None


async def _broken(running: Running, ready: Collection[RuntimeSnapshot]) -> list[str]:
    return [
        *await _journal(running),
        *await _images(running),
        *await _containers(running),
        *await _engines(running),
        *await _vms(running),
        *await _snapshots(running),
        *await _lost(running, ready),
        *await _cache(running),
        *_files(running),
        *await _groups(running),
        *await _slots(running),
    ]


async def _journal(running: Running) -> list[str]:
    operations = await running.store.operations.list()
    return [f"the operation {o.kind} of {o.subject_id} is still {o.state}" for o in operations]


async def _containers(running: Running) -> list[str]:
    broken = []
    for container in await running.store.containers.list():
        records = await running.store.vms.of_owner(container.id)
        broken += _container_fields(container, records)
        if container.state is ContainerState.RUNNING and records:
            broken += await _runs(running, container, records[0])
        if container.state is ContainerState.EXITED and records:
            broken += await _runs_not(running, container, records[0])
    return broken


def _container_fields(container: Container, records: Collection[VmRecord]) -> list[str]:
    who = f"container {container.name} ({container.state})"
    broken = []
    if container.state not in FINAL:
        broken.append(f"{who} is not in a final state")
    if len(records) > 1:
        broken.append(f"{who} has {len(records)} VMs")
    alive = [record for record in records if record.handle is not None]
    if container.state is ContainerState.RUNNING:
        if not alive:
            broken.append(f"{who} has no VM")
        elif container.vm_id != alive[0].id:
            broken.append(f"{who} names the VM {container.vm_id} but has {alive[0].id}")
        if container.boot_method is None:
            broken.append(f"{who} has no boot method")
        if container.docker_id is None:
            broken.append(f"{who} has no Docker id")
    if container.state is ContainerState.CREATED and records:
        broken.append(f"{who} has a VM before its start")
    if container.state is ContainerState.FAILED:
        if alive:
            broken.append(f"{who} has a VM that runs")
        if not container.error:
            broken.append(f"{who} does not say why")
    if container.state is ContainerState.EXITED and container.exit_code is None:
        broken.append(f"{who} has no exit code")
    return broken


async def _engines(running: Running) -> list[str]:
    broken = []
    for engine in await running.store.engines.list():
        who = f"engine {engine.name} ({engine.state})"
        records = await running.store.vms.of_owner(engine.id)
        alive = [record for record in records if record.handle is not None]
        if len(records) > 1:
            broken.append(f"{who} has {len(records)} VMs")
        if engine.state is EngineState.RUNNING and [r.id for r in alive] != [engine.vm_id]:
            broken.append(f"{who} names the VM {engine.vm_id} but has {[r.id for r in alive]}")
        if engine.state is not EngineState.RUNNING and alive:
            broken.append(f"{who} has a VM that runs")
        if engine.state is EngineState.FAILED and not engine.error:
            broken.append(f"{who} does not say why")
        if not Path(engine.socket).is_socket():
            broken.append(f"{who} has no socket {engine.socket}")
    return broken


async def _images(running: Running) -> list[str]:
    """Each image has its files, and no VM has lost what lies under it."""
    broken = []
    for image in await running.store.images.list():
        try:
            manifest = load_manifest(image.path)
            check_sizes(image.path, manifest)
        except WarmbootError as error:
            broken.append(f"image {image.name}: {error.brief}")
            continue
        if manifest != image.manifest or manifest.digest != image.digest:
            broken.append(f"image {image.name} is not what its row says")
    for record in await running.store.vms.list():
        broken += [f"the VM {record.id} lacks {p}" for p in record.spec.files if not p.exists()]
    return broken


async def _runs(running: Running, container: Container, record: VmRecord) -> list[str]:
    """Ask Docker in its VM whether it is so."""
    try:
        link = running.host.vms.link(record.id)
        state = await link.docker.inspect(container.docker_id or "")
    except WarmbootError as error:
        return [f"container {container.name} is running, but its VM says: {error.brief}"]
    now = await running.store.containers.get(container.id)
    if not state.running and now.state is ContainerState.RUNNING:
        return [f"container {container.name} is running, but Docker says {state.status}"]
    return []


async def _runs_not(running: Running, container: Container, record: VmRecord) -> list[str]:
    """An exited one's VM may have died, and then there is nobody to ask."""
    try:
        link = running.host.vms.link(record.id)
        state = await link.docker.inspect(container.docker_id or "")
    except WarmbootError:
        return []
    return [f"container {container.name} has exited, but runs"] if state.running else []


async def _vms(running: Running) -> list[str]:
    """Processes, folders, records: each belongs to one of the others."""
    broken = []
    records = {record.id: record for record in await running.store.vms.list()}
    owners = {c.id for c in await running.store.containers.list()}
    owners |= {engine.id for engine in await running.store.engines.list()}
    for record in records.values():
        if record.kind is VmKind.BUILDER:
            broken.append(f"the builder VM {record.id} is still recorded")
        elif record.owner_id not in owners:
            broken.append(f"the VM {record.id} belongs to nobody")
    root = running.host.vms.root
    for folder in sorted(root.glob("*")) if root.exists() else ():
        users = users_of(folder)
        known = records.get(folder.name)
        if known is None:
            broken.append(f"the folder {folder} belongs to no VM")
        if users and (known is None or known.handle is None):
            broken.append(f"the processes {users} run in {folder.name}, which should not run")
        if known is not None and known.handle is not None and known.handle.pid not in users:
            container = await _owner(running, known)
            if container is None or container.state is ContainerState.RUNNING:
                broken.append(f"the VM {known.id} has no process {known.handle.pid}")
    for record in records.values():
        if not (root / record.id).is_dir():
            broken.append(f"the VM {record.id} has no folder")
    return broken


async def _owner(running: Running, record: VmRecord) -> Container | None:
    try:
        return await running.store.containers.get(record.owner_id)
    except NotFound:
        return None


async def _parked(running: Running) -> set[str]:
    """The ids of those that are."""
    around = [ContainerState.PARKED, ContainerState.EXITED]
    containers = [
        one
        for one in await running.store.containers.list(around)
        if one.state is ContainerState.PARKED or one.is_put_away
    ]
    engines = await running.store.engines.list([EngineState.PARKED])
    return {str(one.id) for one in containers} | {str(one.id) for one in engines}


async def _snapshots(running: Running) -> list[str]:
    """Rows, folders and leases agree."""
    broken = []
    records = await running.store.vms.list()
    snapshots = await running.store.snapshots.list(include_deleted=True)
    parked = await _parked(running)
    for tenant_id in sorted(parked):
        held = await running.store.snapshots.leased_by(tenant_id)
        depths = [one.depth for one in snapshots if one.id in held]
        if len(held) != 1 or Depth.RUNTIME in depths:
            broken.append(f"{tenant_id} is parked in {depths}")
    for snapshot in snapshots:
        who = f"snapshot {snapshot.id} ({snapshot.state})"
        leases = await running.store.snapshots.leases(snapshot.id)
        for holder in leases:
            users = [r for r in records if r.snapshot_id == snapshot.id]
            if holder in {str(upper.id) for upper in snapshots if not upper.is_version}:
                continue  # which lies on it
            if holder in parked:
                continue
            if holder not in {str(record.owner_id) for record in users}:
                broken.append(f"{who} is leased by {holder}, which has no VM of it")
        for record in records:
            if record.snapshot_id == snapshot.id and str(record.owner_id) not in leases:
                broken.append(f"{who} is used by the VM {record.id} without a lease")
        if snapshot.state is SnapshotState.READY:
            broken += await _whole(running, snapshot)
        if snapshot.state is SnapshotState.CREATING:
            broken.append(f"{who} is not decided")
        if snapshot.state is SnapshotState.DELETED and not leases:
            broken.append(f"{who} is not leased, and has not been forgotten")
    return broken


async def _whole(running: Running, snapshot: RuntimeSnapshot) -> list[str]:
    if not snapshot.metadata.get("requires"):
        return [f"snapshot {snapshot.id} is ready without metadata"]
    try:
        manifest = await running.host.snapshots.verify(snapshot.snapshot_path)
    except WarmbootError as error:
        return [f"snapshot {snapshot.id} is ready, but {error.details or error.brief}"]
    who, broken = f"snapshot {snapshot.id}", []
    if manifest.compressed != bool(snapshot.metadata.get("compressed")):
        broken.append(f"{who} is {manifest.compressed=}, and its row says otherwise")
    forms = [
        name
        for name in (manifest.plain_file, manifest.frames_file)
        if (snapshot.snapshot_path / name).exists()
    ]
    if forms != [manifest.memory_file]:
        broken.append(f"{who} has its memory as {forms}, and needs only {manifest.memory_file}")
    return broken


async def _cache(running: Running) -> list[str]:
    """What is unpacked belongs to a snapshot that is compressed, and not gone."""
    # A deleted one is there as long as somebody lies on it, or is parked in it.
    known = {s.id for s in await running.store.snapshots.list(include_deleted=True)}
    entries = await running.host.storage.cache.entries()
    return [f"{e.path} is cached of nobody" for e in entries if e.snapshot_id not in known]


async def _lost(running: Running, ready: Collection[RuntimeSnapshot]) -> list[str]:
    now = await running.store.snapshots.list()
    serving = {(s.runtime_image_id, s.shape) for s in now if s.state is SnapshotState.READY}
    return [
        f"the snapshot {old.id} was ready, and nothing serves in its place"
        for old in ready
        if (old.runtime_image_id, old.shape) not in serving
    ]


def _files(running: Running) -> list[str]:
    """No temporary file or folder anywhere in the storage."""
    root = running.host.storage.root
    names = (".building-*", ".gone-*", ".upload-*", "*.new", ".*.partial")
    return [f"{path} was left" for name in names for path in sorted(root.rglob(name))]


async def _groups(running: Running) -> list[str]:
    """A control group belongs to a VM, and a VM's VMM is in its group."""
    groups = running.host.confinement.cgroups
    if groups is None:
        return []
    records = {r.id: r for r in await running.store.vms.list()}
    broken = [f"the control group {name} is nobody's" for name in groups.names() - records.keys()]
    for record in records.values():
        pid = None if record.handle is None else record.handle.pid
        alive = pid is not None and Path(f"/proc/{pid}").exists()
        if alive and pid not in groups.members(record.id):
            broken.append(f"the VM {record.id} is not in its control group")
    return broken


async def _slots(running: Running) -> list[str]:
    """Every VM has its slot's namespace; besides them there are those that are kept ready."""
    network = running.host.network
    if network is None:
        return []
    there = {one.removeprefix("namespace ") for one in await network.audit() if "namespace" in one}
    slots = [r.slot for r in await running.store.vms.list() if r.slot is not None]
    used = {Slot.from_dict(slot).namespace.name for slot in slots}
    broken = [f"the namespace {name} of a VM is missing" for name in sorted(used - there)]
    if len(there - used) > MAX_POOL:
        broken.append(f"there are {len(there - used)} namespaces without a VM")
    return broken
