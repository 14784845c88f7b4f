"""The simulated Docker, as aiodocker sees it through the guest's agent."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import time
from pathlib import Path

import aiodocker
import pytest
from tests.support.eventually import eventually
from tests.support.image_names import check_names
from tests.support.simulated import IDENTITY, booted, docker, linked, run


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

        async def ended() -> bool:  # a stop is answered before the execs have been seen to
            return not (await command.inspect())["Running"]

        await eventually(ended, "it has ended with its container")
        assert (await command.inspect())["ExitCode"] == 137


async def test_events_tell_of_a_containers_life(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, docker(vm) as client:
        events = client.events.subscribe(create_task=False)
        # Those before it listens are told, too: nothing says when it does.
        asked = {"since": str(int(time.time())), "filters": '{"type": ["container"]}'}
        listening = asyncio.create_task(client.events.run(**asked))
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


async def test_an_image_has_as_many_names_as_it_is_given(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        await check_names(link.docker)
