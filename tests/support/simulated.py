"""Simulated VMs, without a manager."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiodocker
import aiohttp

from warmboot.host.guest.guest_connections import DOCKER_API_VERSION, GuestConnector
from warmboot.host.guest.guest_link import AGENT_PORT, GuestLink, Identity
from warmboot.hypervisors.base import MachineSnapshot
from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.driver import Simulated
from warmboot.hypervisors.simulated.vm import SimulatedVm
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmSpec

QUICK = SimulatedConfig(boot_s=0, docker_s=0, restore_s=0)
TOKEN = "t0ken-t0ken-t0ken"
IDENTITY = Identity(hostname="calm-otter", machine_id="0" * 32, token=TOKEN)


def make_spec(tmp_path: Path) -> VmSpec:
    name = uuid4().hex[:8]
    run_dir, kernel = tmp_path / name, tmp_path / "kernel"
    run_dir.mkdir()
    kernel.touch()
    return VmSpec(
        id=name,
        run_dir=run_dir,
        shape=Shape(1, 256),
        kernel=kernel,
        initrd=None,
        cmdline="",
        template_dir=run_dir,
    )


@contextlib.asynccontextmanager
async def booted(
    tmp_path: Path, config: SimulatedConfig = QUICK, saved: MachineSnapshot | None = None
) -> AsyncIterator[SimulatedVm]:
    driver, spec = Simulated(config), make_spec(tmp_path)
    vm = await (driver.restore(spec, saved) if saved else driver.boot(spec))
    try:
        yield vm
    finally:
        await vm.kill()


@contextlib.asynccontextmanager
async def linked(vm: SimulatedVm) -> AsyncIterator[GuestLink]:
    """As the manager speaks with a guest."""
    link = GuestLink(vm.handle.vm_id, vm.guest_address(AGENT_PORT), TOKEN)
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def docker(vm: SimulatedVm) -> AsyncIterator[aiodocker.Docker]:
    """The Docker in a guest, which is claimed for it, as aiodocker sees it."""
    async with linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
    async with shown(vm, TOKEN) as client:
        yield client


@contextlib.asynccontextmanager
async def shown(vm: SimulatedVm, token: str) -> AsyncIterator[aiodocker.Docker]:
    """A client of the guest's Docker that shows ``token``."""
    connector = GuestConnector(vm.guest_address(AGENT_PORT), 60.0, 60.0, limit=0)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        aiodocker.Docker(
            "http://guest", connector=connector, session=session, api_version=DOCKER_API_VERSION
        ) as client,
    ):
        yield client


async def run(client: aiodocker.Docker, command: list[str], **config: Any) -> Any:
    await client.images.pull("busybox")
    return await client.containers.run({"Image": "busybox", "Cmd": command, **config})
