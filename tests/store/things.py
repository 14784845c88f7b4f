"""Things to put into a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from warmboot.model.container import Container, ContainerSpec, ContainerState, PortMapping
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState
from warmboot.model.vm import Disk, Nic, VmHandle, VmKind, VmRecord, VmSpec
from warmboot.store import Store

SHAPE = Shape(2, 1024)
NOON = datetime(2026, 1, 24, 12, 0, 0, 123456, tzinfo=UTC)


def an_image(**changes: Any) -> RuntimeImage:
    unique = uuid4()
    digest = f"sha256:{unique.hex}"
    manifest = RuntimeImageManifest(
        digest=digest,
        files={"kernel": FileSum(8_000_000, "ab" * 32), "rootfs": FileSum(2**40, "cd" * 32)},
        cmdline="console=hvc0 quiet",
        agent_version="1",
        labels={"suite": "trixie"},
    )
    image = RuntimeImage(
        id=unique,
        name=f"image-{unique.hex[:8]}",
        digest=digest,
        path=Path("/srv/fc/images") / unique.hex,
        manifest=manifest,
        created_at=NOON,
    )
    return replace(image, **changes)


def a_snapshot(image_id: UUID, **changes: Any) -> RuntimeSnapshot:
    unique = uuid4()
    snapshot = RuntimeSnapshot(
        id=unique,
        runtime_image_id=image_id,
        snapshot_path=Path("/srv/fc/runtime-snapshots") / unique.hex,
        state=SnapshotState.READY,
        hypervisor="qemu",
        fc_version="10.0.2",
        shape=SHAPE,
        created_at=NOON,
        metadata={"size_bytes": 900_000_000, "compressed": False},
    )
    return replace(snapshot, **changes)


def an_engine(name: str = "", **changes: Any) -> Engine:
    unique = uuid4()
    engine = Engine(
        id=unique,
        spec=EngineSpec(name=name or f"e-{unique.hex}", owner_uid=1000, labels={"for": "grüß 👋"}),
        state=EngineState.CREATING,
        created_at=NOON,
        shape=SHAPE,
        socket=f"/run/warmboot/18080/engines/{unique.hex}.sock",
    )
    return replace(engine, **changes)


def a_container(name: str = "", **changes: Any) -> Container:
    unique = uuid4()
    container = Container(
        id=unique,
        spec=ContainerSpec(
            name=name or f"c-{unique.hex}",
            image="redis:7",
            environment={"GREETING": "grüß dich 👋"},
            ports=(PortMapping(80),),
        ),
        state=ContainerState.CREATING,
        created_at=NOON,
        shape=SHAPE,
    )
    return replace(container, **changes)


def a_vm(**changes: Any) -> VmRecord:
    vm_id = f"vm-{uuid4().hex[:8]}"
    run_dir = Path("/run/warmboot/vms") / vm_id
    vm = VmRecord(
        id=vm_id,
        kind=VmKind.CONTAINER,
        owner_id=uuid4(),
        spec=VmSpec(
            id=vm_id,
            run_dir=run_dir,
            shape=SHAPE,
            kernel=Path("/srv/fc/images/x/kernel"),
            initrd=None,
            cmdline="quiet",
            disks=(Disk(Path("/srv/fc/rootfs.ext4"), read_only=True), Disk(run_dir / "disk")),
            nic=Nic(Path("/run/netns/wb1"), "tap0", "06:00:ac:10:00:02", "172.16.0.2"),
        ),
        token="s3cret",
        created_at=NOON,
        handle=VmHandle(vm_id, "qemu", 4711, 123_456_789, str(uuid4()), run_dir),
        slot={"index": 3, "ports": [[8080, 80]]},
    )
    return replace(vm, **changes)


async def stored_image(store: Store, **changes: Any) -> RuntimeImage:
    image = an_image(**changes)
    await store.images.add(image)
    return image


async def stored_snapshot(store: Store, **changes: Any) -> RuntimeSnapshot:
    image_id = changes.pop("runtime_image_id", None) or (await stored_image(store)).id
    return await store.snapshots.add(a_snapshot(image_id, **changes))


async def stored_container(store: Store, name: str = "", **changes: Any) -> Container:
    container = a_container(name, **changes)
    await store.containers.add(container)
    return container
