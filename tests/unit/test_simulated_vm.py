"""A simulated VM: a process in which the guest agent runs, on a machine that is in memory."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiodocker
import pytest
from tests.support.simulated import IDENTITY, TOKEN, booted, docker, linked, run, shown
from typing_extensions import override

from warmboot.guest.claim import TOKEN_FILE
from warmboot.guest.sandbox import NAME
from warmboot.host.guest.guest_link import AGENT_PORT
from warmboot.host.guest.guest_socket import open_guest_socket
from warmboot.hypervisors.base import MachineSnapshot
from warmboot.hypervisors.simulated.vm import SimulatedVm
from warmboot.hypervisors.simulated.vmm.machine import GuestClock
from warmboot.hypervisors.simulated.vmm.vsock import GuestSocket

REFUSED = b"GET /warmboot/v1/nothing HTTP/1.1\r\nHost: guest\r\n\r\n"


async def saved_memory(vm: SimulatedVm) -> tuple[MachineSnapshot, dict[str, Any]]:
    await vm.pause()
    saved = await vm.save()
    return saved, json.loads(saved.memory.read_bytes().split(b"\n")[2])


# The process


async def test_a_vm_answers_when_it_has_been_started(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        health = await link.health()
        assert health["docker"] is True and health["claimed"] is False


async def test_a_restored_vm_has_the_memory_of_the_saved_one(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["sh", "-c", "echo before; sleep 0.4; echo after"])
        saved, memory = await saved_memory(vm)
    async with booted(tmp_path, saved=saved) as clone, docker(clone) as client:
        same = client.containers.container(container.id)
        assert await same.wait() == {"StatusCode": 0}
        assert await same.log(stdout=True) == ["before\n", "after\n"]
        _, restored = await saved_memory(clone)
        assert restored["boot_value"] == memory["boot_value"]


async def test_two_boots_have_different_memory(tmp_path: Path) -> None:
    async with booted(tmp_path) as one, booted(tmp_path) as other:
        values = [(await saved_memory(vm))[1]["boot_value"] for vm in (one, other)]
    assert len(set(values)) == 2


# The guest's agent


async def test_the_agent_makes_the_machine_in_memory_its_own_self(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        _, memory = await saved_memory(vm)
    assert memory["hostname"] == IDENTITY.hostname
    assert len(bytes.fromhex(memory["entropy"])) == 64
    assert abs(memory["clock_ns"] - time.time_ns()) < 600 * 10**9
    assert memory["files"] == {
        "/etc/machine-id": f"{IDENTITY.machine_id}\n",
        "/etc/hostname": f"{IDENTITY.hostname}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {IDENTITY.hostname}\n",
        TOKEN_FILE: TOKEN,
    }


async def test_whose_a_guest_is_survives_a_restore(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        saved, _ = await saved_memory(vm)
    async with booted(tmp_path, saved=saved) as clone, linked(clone) as link:
        assert (await link.health())["claimed"] is True
        await link.sync()


async def test_a_guest_that_was_prepared_for_a_snapshot_can_be_claimed_anew(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        await link.warm_up()
        await link.prepare_snapshot()
        saved, memory = await saved_memory(vm)
    assert TOKEN_FILE not in memory["files"]
    async with booted(tmp_path, saved=saved) as clone, docker(clone) as client:
        names = [c["Names"] for c in await client.containers.list(all=True)]
        assert names == [[f"/{NAME}"]]


async def test_the_agents_firewall_rules_are_kept_in_memory(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        await link.ensure_sandbox()
        saved, memory = await saved_memory(vm)
    chains = [["nat", "PREROUTING"], ["filter", "DOCKER-USER"]]
    assert [rule[:2] for rule in memory["firewall"]] == chains
    async with booted(tmp_path, saved=saved) as clone, linked(clone) as link:
        await link.ensure_sandbox()  # the agent in it was started again
        _, restored = await saved_memory(clone)
    assert restored["firewall"] == memory["firewall"]


async def test_the_guests_localhost_is_not_the_hosts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as registry:
        port = registry.getsockname()[1]
        async with booted(tmp_path) as vm, linked(vm) as link:
            await link.claim(IDENTITY, timeout_s=60)
            await link.host_forward(port, True)
            await link.host_forward(port, False)


async def test_nobody_reaches_docker_but_with_the_token(tmp_path: Path) -> None:
    async with (
        booted(tmp_path) as vm,
        docker(vm) as client,
        shown(vm, "another-token-altogether") as stranger,
    ):
        assert (await client.version())["ApiVersion"]
        with pytest.raises(aiodocker.DockerError) as refusal:
            await stranger.version()
        assert refusal.value.status == 401


# A pause


@pytest.fixture
async def vm(tmp_path: Path) -> AsyncIterator[SimulatedVm]:
    async with booted(tmp_path) as vm:
        yield vm


async def test_a_paused_vm_takes_no_connection_until_it_is_resumed(vm: SimulatedVm) -> None:
    await vm.pause()
    with pytest.raises(TimeoutError):
        await open_guest_socket(vm.guest_address(AGENT_PORT), timeout_s=0.2)
    await vm.resume()
    (await open_guest_socket(vm.guest_address(AGENT_PORT), timeout_s=60)).close()


async def test_a_paused_vm_answers_on_an_open_connection_when_it_is_resumed(
    vm: SimulatedVm,
) -> None:
    reader, writer = await asyncio.open_connection(
        sock=await open_guest_socket(vm.guest_address(AGENT_PORT), timeout_s=60)
    )
    await vm.pause()
    writer.write(REFUSED)
    answer = asyncio.create_task(reader.readline())
    done, _ = await asyncio.wait({answer}, timeout=0.2)
    assert not done
    await vm.resume()
    assert (await asyncio.wait_for(answer, 60)).startswith(b"HTTP/1.1 401 ")
    writer.close()


class ResumedClock(GuestClock):
    """Of a machine that is paused until a thread of its guest waits for it."""

    def __init__(self, on_resume: Callable[[], object] = lambda: None) -> None:
        super().__init__(uptime_s=0)
        self._on_resume = on_resume
        self.pause()

    @override
    def wait(self) -> None:
        if self.paused:
            self.resume()
            self._on_resume()


def test_a_paused_guest_neither_sends_nor_goes_on_with_what_it_got() -> None:
    ours, client = socket.socketpair()
    with client, GuestSocket(ours, clock := ResumedClock()) as guests:
        guests.sendall(b"answer")
        assert not clock.paused
        clock.pause()
        guests.send(b"answer")
        assert not clock.paused
        clock.pause()
        client.sendall(b"request")
        assert guests.recv(64) == b"request"
        assert not clock.paused


def test_in_a_paused_guest_no_connection_gets_too_old() -> None:
    ours, client = socket.socketpair()
    clock = ResumedClock(on_resume=lambda: client.sendall(b"late"))
    with client, GuestSocket(ours, clock) as guests:
        guests.settimeout(0.01)
        assert guests.recv(4) == b"late"
        with pytest.raises(TimeoutError):
            guests.recv(4)
