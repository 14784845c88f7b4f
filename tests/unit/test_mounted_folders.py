"""Bind mounts through an engine's socket: what is below a folder that the engine was given leads
there, whatever it is called; nothing else does."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine_sockets import serving
from tests.support.eventually import until

from warmboot.engine_socket import conversation, host_folders
from warmboot.engine_socket.limits import MOST_LOOKS
from warmboot.model.conventions.engine_front import ServedEngine, as_message, from_message
from warmboot.model.tenants.host_folder import HostFolder


@pytest.fixture
def given(tmp_path: Path) -> HostFolder:
    """With a folder in it, a link that leads out, and a link from outside into it."""
    folder = tmp_path / "code"
    (folder / "src").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    (tmp_path / "into").symlink_to(folder / "src")
    return HostFolder(str(folder))


async def asked(given: HostFolder, **host: Any) -> tuple[int, str, dict[str, Any]]:
    """The answer's status and words, and what dockerd was asked for."""
    body = json.dumps({"Image": "web", "HostConfig": host}).encode()
    head = (
        b"POST /v1.44/containers/create?name=web HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
    )
    async with serving(folders=(given,)) as it:
        client = await it.connect()
        await client.send(head % len(body) + body)
        status, said = await client.answer()
        sent = [json.loads(one.body)["HostConfig"] for one in it.guest.asked if one.body]
        client.close()
    return status, said.decode(), sent[0] if sent else {}


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("code", ""),
        ("code/src", "/src"),
        ("code/./src/../src/", "/src"),
        ("code/not there yet", "/not there yet"),
        ("into", "/src"),
        ("code/out/code/src", "/src"),
    ],
)
async def test_what_is_below_a_given_folder_is_mounted_from_there(
    given: HostFolder, source: str, inside: str
) -> None:
    named = f"{Path(given.path).parent}/{source}"
    there = f"/run/warmboot/folders/{given.id}{inside}"
    binds = [f"{named}:/src:ro", "volume:/data"]
    mounts = [{"Type": "bind", "Source": named, "Target": "/m", "ReadOnly": True}]
    status, _, sent = await asked(given, Binds=binds, Mounts=mounts)
    assert status == 200
    assert sent["Binds"] == [f"{there}:/src:ro", "volume:/data"]
    assert sent["Mounts"] == [{**mounts[0], "Source": there}]


def test_nobody_waits_for_a_file_system_of_anothers_that_does_not_answer(
    given: HostFolder,
) -> None:
    """Which takes every thread that there is for such work. In a loop whose threads are its own."""
    answers = threading.Event()

    async def ask(threads: ThreadPoolExecutor) -> int:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(answers.wait)
        try:
            async with asyncio.timeout(60):
                return (await asked(given, Binds=[f"{given.path}:/src"]))[0]
        finally:
            answers.set()

    with ThreadPoolExecutor(1) as threads:
        assert asyncio.run(ask(threads)) == 200


async def test_an_engine_has_few_threads_that_wait_for_a_file_system(
    given: HostFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, begun = threading.Event(), 0
    look = host_folders.checked

    def hanging(*about: Any) -> Any:
        nonlocal begun
        begun += 1
        assert answers.wait(60)
        return look(*about)

    body = json.dumps({"HostConfig": {"Binds": [f"{given.path}:/src"]}}).encode()
    head = b"POST /v1.44/containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
    monkeypatch.setattr(conversation, "checked", hanging)
    monkeypatch.setattr(conversation, "LOOK_TIMEOUT_S", 0.05)
    async with serving(folders=(given,)) as it:
        try:
            for _ in range(MOST_LOOKS + 2):
                client = await it.connect()
                await client.send(head % len(body) + body)
                status, said = await client.answer()
                assert status == 503
                assert b"does not answer" in said
            await until(lambda: begun == MOST_LOOKS)
        finally:
            answers.set()
        monkeypatch.setattr(conversation, "LOOK_TIMEOUT_S", 60.0)
        client = await it.connect()
        await client.send(head % len(body) + body)
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "source", ["", "code/out", "code/../other", "code2", "code/out/other", "code/loop", "code/\0"]
)
async def test_what_is_not_is_refused_and_it_says_how(given: HostFolder, source: str) -> None:
    named = f"{Path(given.path).parent}/{source}"
    for host in (
        {"Binds": [f"{named}:/src"]},
        {"Mounts": [{"Type": "bind", "Source": named, "Target": "/src"}]},
    ):
        status, said, sent = await asked(given, **host)
        assert (status, sent) == (400, {})
        assert "cannot be mounted" in said
        assert f"sees only what is in {given.path}" in said
        assert "--folder" in said


async def test_what_would_take_long_to_look_at_is_refused(given: HostFolder) -> None:
    """The front is one for all engines, and others would wait for it."""
    many, long = [f"/proc/{n}:/a" for n in range(1025)], "/proc" + "/a" * 2045
    bound = {"DriverConfig": {"Options": {"o": "bind", "device": f"{long}/a"}}}
    for host, words in (
        ({"Binds": many}, "1024 paths at most"),
        ({"Binds": [f"{long}/a:/a"]}, "4096 characters at most"),
        ({"Mounts": [{"Type": "volume", "VolumeOptions": bound}]}, "4096 characters at most"),
    ):
        status, said, sent = await asked(given, **host)
        assert (status, sent) == (400, {})
        assert words in said
    status, _, sent = await asked(given, Binds=[*many[:1023], f"{long}:/a"])
    assert (status, len(sent["Binds"])) == (200, 1024)


async def test_the_vms_own_and_its_dockers_socket_are_never_the_hosts(given: HostFolder) -> None:
    everything = HostFolder("/", read_only=True)
    for source in ("/var/run/docker.sock", "/proc", "/sys/fs/cgroup"):
        status, _, sent = await asked(everything, Binds=[f"{source}:{source}"])
        assert (status, sent["Binds"]) == (200, [f"{source}:{source}"])


def test_what_the_front_is_told_of_folders_arrives(given: HostFolder) -> None:
    engine = ServedEngine("1", "ci", "/s", 0, 0, folders=(given, HostFolder("/srv", True)))
    assert from_message(json.loads(json.dumps(as_message(engine)))) == engine
