"""The simulated guest: its agent, its Docker as aiodocker sees it, its delays and faults."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiodocker
import aiohttp
import pytest

from warmboot.hypervisors.base import MachineSnapshot
from warmboot.hypervisors.simulated.driver import Simulated, SimulatedConfig, SimulatedVm, When
from warmboot.model.errors import HypervisorError, RestoreFailed
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmSpec, VmStatus

QUICK = SimulatedConfig(boot_s=0, docker_s=0, restore_s=0)
IDENTITY: dict[str, Any] = {
    "hostname": "calm-otter",
    "machine_id": "0" * 32,
    "token": "secret",
    "clock_ns": 1,
    "entropy": "ff" * 32,
}


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


async def dial(vm: SimulatedVm) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    socket = vm.guest_address(1024).vsock_socket
    assert socket is not None
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b"CONNECT 1024\n")
    if not (await reader.readline()).startswith(b"OK "):
        raise ConnectionRefusedError
    return reader, writer


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@contextlib.asynccontextmanager
async def relayed(vm: SimulatedVm) -> AsyncIterator[str]:
    """A plain Unix socket that leads to the guest's agent, for ordinary HTTP clients."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            guest_reader, guest_writer = await dial(vm)
            pumps = [
                asyncio.create_task(_pump(reader, guest_writer)),
                asyncio.create_task(_pump(guest_reader, writer)),
            ]
            await asyncio.wait({pumps[1]})
            pumps[0].cancel()
            guest_writer.close()
        writer.close()

    path = vm.handle.run_dir / f"{uuid4().hex[:8]}.sock"
    server = await asyncio.start_unix_server(relay, path)
    try:
        yield str(path)
    finally:
        server.close()
        path.unlink()


@contextlib.asynccontextmanager
async def docker(vm: SimulatedVm) -> AsyncIterator[aiodocker.Docker]:
    async with relayed(vm) as path, aiodocker.Docker(f"unix://{path}") as client:
        yield client


async def ask(vm: SimulatedVm, method: str, path: str, bearer: str = "", **body: Any) -> Any:
    """One request to the agent; returns (status, answer)."""
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    async with (
        relayed(vm) as socket,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session,
        session.request(
            method, f"http://guest/warmboot/v1/{path}", json=body or None, headers=headers
        ) as response,
    ):
        return response.status, await response.json()


async def run(client: aiodocker.Docker, command: list[str], **config: Any) -> Any:
    await client.images.pull("busybox")
    return await client.containers.run({"Image": "busybox", "Cmd": command, **config})


# The VM as a process


async def test_a_vm_answers_when_it_has_been_started(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        status, health = await ask(vm, "GET", "health")
        assert status == 200
        assert health["docker"] is True and health["claimed"] is False


async def test_a_restored_vm_has_the_memory_of_the_saved_one(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["sh", "-c", "echo before; sleep 0.4; echo after"])
        _, memory = await ask(vm, "GET", "simulated/memory")
        await vm.pause()
        saved = await vm.save()
    async with booted(tmp_path, saved=saved) as clone, docker(clone) as client:
        _, restored = await ask(clone, "GET", "simulated/memory")
        assert restored["boot_value"] == memory["boot_value"]
        same = client.containers.container(container.id)
        assert await same.wait() == {"StatusCode": 0}
        assert await same.log(stdout=True) == ["before\n", "after\n"]


async def test_two_boots_have_different_memory(tmp_path: Path) -> None:
    async with booted(tmp_path) as one, booted(tmp_path) as other:
        first, second = [await ask(vm, "GET", "simulated/memory") for vm in (one, other)]
        assert first[1]["boot_value"] != second[1]["boot_value"]


async def test_a_paused_vm_does_not_answer(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await vm.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(vm, "GET", "health"), 0.2)
        await vm.resume()
        assert (await ask(vm, "GET", "health"))[0] == 200


# The guest agent


async def test_after_identity_every_request_but_health_needs_the_token(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        status, answer = await ask(vm, "POST", "identity", **IDENTITY)
        assert status == 200
        assert {step["name"] for step in answer["steps"]} >= {"clock", "hostname", "token"}
        assert (await ask(vm, "POST", "identity", **IDENTITY))[0] == 401
        assert (await ask(vm, "POST", "sync", bearer="wrong"))[0] == 401
        assert (await ask(vm, "POST", "sync", bearer="secret"))[0] == 200
        assert (await ask(vm, "GET", "health"))[1]["claimed"] is True
        async with docker(vm) as client:
            with pytest.raises(aiodocker.DockerError) as refusal:
                await client.version()
            assert refusal.value.status == 401


async def test_prepare_snapshot_makes_the_guest_unclaimed_again(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await ask(vm, "POST", "identity", **IDENTITY)
        assert (await ask(vm, "POST", "prepare-snapshot", bearer="secret"))[0] == 200
        assert (await ask(vm, "GET", "health"))[1]["claimed"] is False
        assert (await ask(vm, "POST", "identity", **IDENTITY))[0] == 200


async def test_docker_wait_ends_when_docker_is_ready(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(boot_s=0, docker_s=0.3)) as vm:
        assert (await ask(vm, "GET", "health"))[1]["docker"] is False
        assert (await ask(vm, "POST", "docker-wait", timeout_s=5))[0] == 200
        assert (await ask(vm, "GET", "health"))[1]["docker"] is True


async def test_an_identity_waits_for_docker_if_that_is_wanted(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(boot_s=0, docker_s=0.3)) as vm:
        _, answer = await ask(vm, "POST", "identity", **IDENTITY, docker_wait_s=0.05)
        assert answer["docker"]["answers"] is False
        _, answer = await ask(vm, "POST", "identity", bearer="secret", **IDENTITY, docker_wait_s=5)
        assert answer["docker"]["answers"] is True


# Delays and faults


async def test_the_agent_is_refused_until_the_guest_has_booted(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(boot_s=0.3, docker_s=0)) as vm:
        with pytest.raises(ConnectionRefusedError):
            await dial(vm)
        await asyncio.sleep(0.35)
        assert (await ask(vm, "GET", "health"))[0] == 200


async def test_docker_can_be_broken_in_restored_vms_only(tmp_path: Path) -> None:
    faulty = SimulatedConfig(boot_s=0, docker_s=0, docker_never_ready=When.RESTORE)
    async with booted(tmp_path, faulty) as vm:
        assert (await ask(vm, "POST", "docker-wait", timeout_s=0.1))[0] == 200
        await vm.pause()
        saved = await vm.save()
        async with booted(tmp_path, faulty, saved) as clone:
            assert (await ask(clone, "POST", "docker-wait", timeout_s=0.1))[0] == 504


async def test_faults_change_under_a_running_vm(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    config = SimulatedConfig(boot_s=0, docker_s=0, overrides=overrides)
    async with booted(tmp_path, config) as vm:
        overrides.write_text(json.dumps({"docker_never_ready": True}))
        assert (await ask(vm, "GET", "health"))[1]["docker"] is False
        overrides.write_text(json.dumps({"agent_silent": "always"}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(vm, "GET", "health"), 0.2)
        overrides.unlink()
        assert (await ask(vm, "GET", "health"))[1]["docker"] is True


async def test_failing_boots_and_restores_are_errors_of_their_kind(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await vm.pause()
        saved = await vm.save()
    with pytest.raises(HypervisorError, match="fail_boot"):
        await Simulated(SimulatedConfig(fail_boot=True)).boot(make_spec(tmp_path))
    with pytest.raises(RestoreFailed, match="fail_restore"):
        await Simulated(SimulatedConfig(fail_restore=True)).restore(make_spec(tmp_path), saved)


async def test_a_failing_save_leaves_no_file(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(boot_s=0, fail_save=True)) as vm:
        await vm.pause()
        with pytest.raises(HypervisorError, match="fail_save"):
            await vm.save()
        assert not list(tmp_path.rglob("snapshot.*"))


async def test_a_vm_can_die_by_itself(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(die_after_s=0.2)) as vm:
        await asyncio.wait_for(vm.wait_gone(), 60)
        assert await vm.status() is VmStatus.GONE


async def test_the_version_can_be_changed_at_run_time(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    driver = Simulated(SimulatedConfig(overrides=overrides))
    assert (await driver.probe()).host.hypervisor_version == "1.0"
    overrides.write_text(json.dumps({"version": "2.0", "cpu_model": "other"}))
    host = (await driver.probe()).host
    assert (host.hypervisor_version, host.cpu_model) == ("2.0", "other")


@pytest.mark.parametrize("text", ["{", "[]", '{"boot": 1}', '{"boot_s": "x"}', '{"die": "x"}'])
async def test_bad_overrides_are_a_problem_and_an_error(tmp_path: Path, text: str) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(text)
    driver = Simulated(SimulatedConfig(overrides=overrides))
    assert not (await driver.probe()).usable
    with pytest.raises(HypervisorError):
        await driver.boot(make_spec(tmp_path))


# Docker


async def test_a_container_exits_with_its_code_and_logs(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        script = "echo hi; echo oops >&2; false || sleep 0.01; exit 3"
        container = await run(client, ["sh", "-c", script])
        assert await container.wait() == {"StatusCode": 3}
        assert await container.log(stdout=True) == ["hi\n"]
        assert await container.log(stderr=True) == ["oops\n"]
        state = (await container.show())["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 3)


async def test_logs_are_followed_until_the_container_exits(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["sh", "-c", "echo a; sleep 0.2; echo b"])
        seen = [line async for line in container.log(stdout=True, follow=True)]
        assert seen == ["a\n", "b\n"]


async def test_an_unknown_command_runs_until_it_is_stopped(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["redis-server"])
        assert (await container.show())["State"]["Running"] is True
        await container.stop()
        assert (await container.show())["State"]["ExitCode"] == 143
        await container.restart()
        await container.kill()
        assert (await container.show())["State"]["ExitCode"] == 137
        await container.delete()
        with pytest.raises(aiodocker.DockerError) as missing:
            await container.show()
        assert missing.value.status == 404


async def test_an_exec_has_output_input_and_an_exit_code(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["serve"])
        shell = await container.exec(["sh"], stdin=True)
        async with shell.start(detach=False) as stream:
            await stream.write_in(b"echo one; echo two >&2\nexit 7\n")
            first, second = await stream.read_out(), await stream.read_out()
            assert first is not None and (first.stream, first.data) == (1, b"one\n")
            assert second is not None and (second.stream, second.data) == (2, b"two\n")
            assert await stream.read_out() is None
        assert (await shell.inspect())["ExitCode"] == 7


async def test_attach_carries_input_and_output(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["cat"], OpenStdin=True, Tty=True)
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await stream.write_in(b"hello\n")
            message = await stream.read_out()
            assert message is not None and message.data == b"hello\r\n"


async def test_a_detached_exec_runs_and_a_stopped_container_ends_it(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        container = await run(client, ["serve"])
        command = await container.exec(["serve-too"])
        await command.start(detach=True)
        assert (await command.inspect())["Running"] is True
        await container.stop()
        for _ in range(6000):  # a stop is answered before the execs have been seen to
            if not (seen := await command.inspect())["Running"]:
                break
            await asyncio.sleep(0.01)
        assert seen["ExitCode"] == 137


async def test_events_tell_of_a_containers_life(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        events = client.events.subscribe(create_task=False)
        listening = asyncio.create_task(client.events.run(filters='{"type": ["container"]}'))
        await asyncio.sleep(0.1)
        container = await run(client, ["true"])
        await container.wait()
        await container.delete()
        seen = [await asyncio.wait_for(events.get(), 60) for _ in range(4)]
        assert [event["Action"] for event in seen] == ["create", "start", "die", "destroy"]
        assert seen[2]["Actor"]["Attributes"]["exitCode"] == "0"
        listening.cancel()


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        ("missing/app", 404, "pull access denied"),
        ("busybox:missing", 404, "manifest unknown"),
        ("unreachable.invalid/app", 500, "dial tcp"),
    ],
)
async def test_pulls_fail_as_dockers_do(
    tmp_path: Path, image: str, status: int, words: str
) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        with pytest.raises(aiodocker.DockerError, match=words) as failure:
            await client.images.pull(image)
        assert failure.value.status == status


async def test_bad_orders_to_docker_are_refused_as_docker_does(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        with pytest.raises(aiodocker.DockerError, match="No such image: nothing:latest"):
            await client.containers.create({"Image": "nothing"})
        await client.images.pull("busybox", tag="1.36")
        config = {"Image": "busybox:1.36", "Cmd": ["serve"]}
        container = await client.containers.create(config, name="one")
        with pytest.raises(aiodocker.DockerError, match="already in use") as taken:
            await client.containers.create(config, name="one")
        assert taken.value.status == 409
        await container.start()
        with pytest.raises(aiodocker.DockerError, match="container is running"):
            await container.delete()
        await container.delete(force=True)


async def test_an_archive_is_loaded_with_its_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        files = {
            "manifest.json": [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": []}],
            "c.json": {"config": {"Cmd": ["echo", "loaded"]}},
        }
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    async with booted(tmp_path) as vm, docker(vm) as client:
        loaded = await client.images.import_image(buffer.getvalue())
        assert "app:1" in json.dumps(loaded)
        container = await client.containers.run({"Image": "app:1"})
        await container.wait()
        assert await container.log(stdout=True) == ["loaded\n"]
        with pytest.raises(aiodocker.DockerError) as damaged:
            await client.images.import_image(b"no archive")
        assert damaged.value.status == 400
