"""Docker's options of a container, down to the Docker in its VM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support.managers import Lab, Manager

from warmboot.manager.protocols import Until
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.container_options import (
    ContainerOptions,
    Health,
    HealthCheck,
    Mount,
    MountType,
    PullPolicy,
    RestartMode,
    RestartPolicy,
)
from warmboot.model.tenants.host_folder import HostFolder


async def described(manager: Manager, container: Container) -> dict[str, Any]:
    """As Docker in its VM does it."""
    assert container.vm_id is not None
    return await manager.host.vms.link(container.vm_id).docker.description("warmboot")


async def test_its_docker_is_told_of_them(manager: Manager) -> None:
    options = ContainerOptions(init=True, read_only=True, tmpfs={"/tmp": ""}, cpus=0.5)
    container = await manager.run(options=options)
    host = (await described(manager, container))["HostConfig"]
    assert (host["Init"], host["ReadonlyRootfs"], host["Tmpfs"]) == (True, True, {"/tmp": ""})
    assert host["NanoCpus"] == 500_000_000
    assert host["NetworkMode"] == "container:warmboot-sandbox"
    assert (await manager.containers.get("web")).spec.options == options


async def test_what_it_binds_is_in_a_folder_that_it_was_given(
    manager: Manager, tmp_path: Path
) -> None:
    place = str(tmp_path.resolve())
    options = ContainerOptions(mounts=(Mount("/src", MountType.BIND, place),))
    with pytest.raises(InvalidRequest, match="cannot be mounted"):
        await manager.run(options=options)
    with pytest.raises(InvalidRequest, match="no network"):  # simulated VMs have none
        await manager.run(options=options, folders=(HostFolder(place),))
    assert not await manager.containers.list(all_states=True)


async def test_names_of_its_own_need_a_network_of_its_own_and_the_stages_show_it(
    manager: Manager,
) -> None:
    options = ContainerOptions(add_hosts=("db:192.0.2.7",), dns=("192.0.2.53",))
    container = await manager.run(options=options, hostname="box")
    assert "start-own-network" in [stage.name for stage in container.stages]
    found = await described(manager, container)
    host = found["HostConfig"]
    assert host["NetworkMode"] == "bridge"
    assert (host["ExtraHosts"], host["Dns"]) == (["db:192.0.2.7"], ["192.0.2.53"])
    assert found["Config"]["Hostname"] == "box"


async def test_docker_in_its_vm_starts_it_again_and_it_runs_all_the_while(
    manager: Manager,
) -> None:
    options = ContainerOptions(restart=RestartPolicy(RestartMode.ON_FAILURE, 2))
    await manager.run("web", "sh", "-c", "echo up; exit 3", options=options)
    ended = await manager.wait("web", Until.EXITED)
    assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 3)
    assert (await described(manager, ended))["RestartCount"] == 2
    assert await manager.output("web") == b"up\n" * 3


async def test_one_that_is_always_started_again_can_be_stopped(manager: Manager) -> None:
    options = ContainerOptions(restart=RestartPolicy(RestartMode.ALWAYS))
    await manager.run("web", "sh", "-c", "sleep 0.05", options=options)
    while (await described(manager, await manager.containers.get("web")))["RestartCount"] < 1:
        pass
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING
    await manager.containers.stop("web", 0)
    assert (await manager.containers.get("web")).state is ContainerState.EXITED


async def test_an_image_that_may_not_be_pulled_must_be_there(manager: Manager) -> None:
    options = ContainerOptions(pull=PullPolicy.NEVER)
    container = await manager.run(image="elsewhere:1", options=options)
    assert container.state is ContainerState.FAILED
    assert container.error is not None
    assert container.error["brief"] == "No such image: elsewhere:1"


async def test_another_platform_is_refused_before_anything_is_booted(manager: Manager) -> None:
    with pytest.raises(InvalidRequest, match="does not match the detected host platform"):
        await manager.create(options=ContainerOptions(platform="linux/s390x"))
    assert not await manager.containers.list(all_states=True)


def checked(*test: str, retries: int = 3) -> ContainerOptions:
    return ContainerOptions(health=HealthCheck(test, interval_s=0.05, retries=retries))


async def test_what_its_health_check_finds_is_stored_and_told(manager: Manager) -> None:
    container = await manager.run(options=checked("CMD", "true"))
    assert container.health in (Health.STARTING, Health.HEALTHY)
    healthy = await manager.wait("web", Until.HEALTHY)
    assert (healthy.state, healthy.health) == (ContainerState.RUNNING, Health.HEALTHY)
    events = await manager.events_of(container.id)
    assert [e.data for e in events if e.kind == "container.health"] == [{"health": "healthy"}]
    await manager.containers.stop("web")
    await manager.containers.start("web")
    assert (await manager.wait("web", Until.HEALTHY)).health is Health.HEALTHY


async def test_one_that_fails_its_checks_is_unhealthy(manager: Manager) -> None:
    await manager.run(options=checked("CMD-SHELL", "exit 7", retries=2))

    async def unhealthy() -> bool:
        return (await manager.containers.get("web")).health is Health.UNHEALTHY

    await manager.until(unhealthy)
    report = await manager.services.files.health("web")
    assert (report.status, report.probes[-1].exit_code) == (Health.UNHEALTHY, 7)
    assert report.failing_streak >= 2
    ends = asyncio.create_task(manager.wait("web", Until.HEALTHY))
    await manager.containers.stop("web")
    assert (await ends).state is ContainerState.EXITED, "then it will not be healthy any more"


async def test_without_a_check_nobody_waits_for_its_health(manager: Manager) -> None:
    assert (await manager.run()).health is Health.NONE
    assert (await manager.wait("web", Until.HEALTHY)).health is Health.NONE
    await manager.run("off", options=checked("NONE"))
    assert (await manager.containers.get("off")).health is Health.NONE


async def test_its_health_is_watched_by_the_next_manager_too(place: Lab) -> None:
    async with place.manager() as first:
        container = await first.run(options=checked("CMD", "true"))
        await first.wait("web", Until.HEALTHY)
        await first.store.containers.update(container.id, health=Health.STARTING)
    async with place.manager() as second:
        assert (await second.wait("web", Until.HEALTHY)).health is Health.HEALTHY
        await second.containers.delete("web", force=True)
