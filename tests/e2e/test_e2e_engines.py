"""Engines on real VMs, used by an unmodified ``docker``."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import PAGE, TOOLS, Archive
from tests.e2e.copies import add_shared
from tests.e2e.docker_engines import Engine, engine_at, page_at, page_soon
from tests.e2e.engine_identities import KEEPER, identity_of, run_keeper
from tests.e2e.host_folders import (
    a_container_of_its_own_has_them,
    a_fork_writes_if_asked_to,
    folders_are_as_programs_want_them,
    folders_are_live,
    given_folders,
    one_from_a_snapshot_only_reads,
)
from tests.e2e.host_servers import GREETING, greeter, own_address
from tests.support.identities import faults
from tests.support.ports import free_port
from tests.support.registry import Image, push, registry
from tests.support.vms import VM_TIMEOUT_S, Site, eventually, state_root

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture(scope="module")
async def place(site: Site, image_folder: Path) -> AsyncIterator[Site]:
    """A manager of its own, whose sockets are in its folder."""
    folder = state_root() / "e2e-engines"
    settings = {
        "MANAGER_SOCKET": str(folder / "storage" / "m.sock"),
        "MANAGER_ENGINE_USERS": str(os.geteuid()),
    }
    async with Site.at(folder, prefix="wbi", subnet="198.19.228.0/22", settings=settings) as own:
        await own.start()
        await own.cli("runtime", "register", "--no-snapshot", str(image_folder))
        await add_shared(own, site)
        await own.stop()
        await own.start()
        yield own


async def test_a_users_first_request_makes_an_engine_and_the_next_one_starts_it(
    place: Site,
) -> None:
    user = pwd.getpwuid(os.geteuid())
    socket_path = place.storage / "m" / "users" / f"{user.pw_uid}.sock"
    engine = Engine(place, f"user-{user.pw_name}", f"unix://{socket_path}")
    try:
        await engine.docker("volume", "create", "kept")
        described = await engine.described()
        assert (described["owner_uid"], described["boot_method"]) == (user.pw_uid, "warm")
        await place.cli("engine", "stop", engine.name)
        assert (await engine.docker("volume", "ls", "-q")).out == "kept\n"
    finally:
        await place.cli("engine", "rm", "-f", engine.name)


async def test_docker_has_an_empty_engine_of_its_own_that_was_booted_warm(
    place: Site, archive: Archive, tmp_path: Path
) -> None:
    port = free_port()
    async with engine_at(place, "ci", None, "--tcp", str(port)) as engine:
        described = await engine.described()
        assert (described["state"], described["boot_method"]) == ("running", "warm")
        assert (await engine.docker("ps", "-aq")).out == ""
        assert (await engine.docker("images", "-q")).out == ""
        await engine.docker("system", "prune", "-af")
        info = json.loads((await engine.docker("info", "-f", "{{json .}}")).out)
        assert (info["Name"], info["Containers"]) == ("ci", 0)
        assert "warmboot.engine=ci" in info["Labels"]
        await engine.docker("load", "-i", str(archive.path))
        assert (await engine.docker("run", "--rm", TOOLS, "echo", "hello")).out == "hello\n"
        piped = await engine.docker("run", "--rm", "-i", TOOLS, "cat", stdin=b"piped")
        assert piped.out == "piped"
        assert (await engine.docker("run", "--rm", TOOLS, "sh", "-c", "exit 7", code=7)).out == ""
        await engine.docker("run", "-d", "--name", "web", TOOLS, "sleep", "1000")
        executed = await engine.docker("exec", "-i", "web", "cat", stdin=b"x" * 300_000)
        assert len(executed.out) == 300_000
        await place.cli("engine", "certs", "ci", str(tmp_path))
        tls = [f"--tlscacert={tmp_path}/ca.pem", f"--tlscert={tmp_path}/cert.pem"]
        tls.append(f"--tlskey={tmp_path}/key.pem")
        remotely = ["--tlsverify", *tls, "-H", f"tcp://127.0.0.1:{port}"]
        executed = await engine.docker(
            *(*remotely, "exec", "-i", "web", "cat"), stdin=b"x" * 300_000
        )
        assert len(executed.out) == 300_000
        saved = await (await engine.begin("save", TOOLS)).communicate()
        assert len(saved[0]) > 100_000
    assert place.vmms() == []


async def test_a_larger_disk_is_warm_and_what_is_freed_in_it_comes_back(
    place: Site, archive: Archive
) -> None:
    async with engine_at(place, "large", archive, "--disk", "40g") as engine:
        described = await engine.described()
        assert (described["boot_method"], described["disk_mib"]) == ("warm", 40 * 1024)
        before = described["disk"]
        assert 38 * GIB < before["size_bytes"] < 40 * GIB
        write = f"head -c {96 * MIB} /dev/urandom >/big; sync"
        await engine.docker("run", "--name", "writer", TOOLS, "sh", "-c", write)
        written = (await engine.described())["disk"]
        assert written["used_bytes"] - before["used_bytes"] > 90 * MIB
        assert written["stored_bytes"] - before["stored_bytes"] > 90 * MIB
        await engine.docker("rm", "writer")

        async def given_back() -> bool:
            now = (await engine.described())["disk"]
            return bool(now["stored_bytes"] < written["stored_bytes"] - 80 * MIB)

        await eventually(given_back, "the host has its room again")
    small = await place.cli("engine", "create", "--disk", "4g", "small", code=1)
    assert "a disk of 4096 MiB is too small" in small.err
    assert "8192 MiB" in small.err


async def test_a_published_port_is_there_when_docker_has_answered(
    place: Site, archive: Archive, tmp_path: Path
) -> None:
    async with (
        given_folders(tmp_path) as options,
        engine_at(place, "ports", archive, *options) as engine,
    ):
        await folders_are_live(engine, tmp_path)
        await folders_are_as_programs_want_them(engine, tmp_path)
        await a_container_of_its_own_has_them(place, archive, tmp_path)
        number = free_port()
        await engine.docker("run", "-d", "--name", "web", "-p", f"{number}:8080", TOOLS)
        assert await eventually(lambda: page_soon(number), "its web server listens") == PAGE
        own = str((await engine.described())["address"])
        assert await page_at(number, own) == PAGE, "at the engine's own address, too"
        left = await engine.docker("run", "-d", "-p", "127.0.0.1::8080", "--name", "any", TOOLS)
        assert left.out
        shown = (await engine.docker("port", "any", "8080")).out.split()[0]
        assert await eventually(lambda: page_soon(int(shown.rpartition(":")[2])), "and so") == PAGE
        taken = await engine.docker("run", "-d", "-p", f"{number}:8080", TOOLS, code=125)
        assert "port is already allocated" in taken.err
        await forks_go_on(place, engine, number, tmp_path)
        await engine.docker("rm", "-f", "web")

        async def closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", number)) != 0

        await eventually(closed, "the port goes with its container")
        again = await engine.docker("run", "-d", "-p", f"{number}:8080", TOOLS)
        assert again.out


async def forks_go_on(
    place: Site, source: Engine, number: int, folder: Path, count: int = 2
) -> None:
    """What runs in an engine runs on in those that are made from it, and each is its own self."""
    await run_keeper(source)

    async def spoken() -> str:
        return (await source.docker("logs", KEEPER)).out

    secret = (await eventually(spoken, "it has drawn its secret")).split()[0]
    await place.cli("engine", "snapshot", source.name, "--name", "seeded")
    await stands_still_while(place, source, only_its_disk_goes_on(place))
    await place.cli("engine", "create", "--from", "seeded", "copy")
    asked = ("fork", source.name, "-n", str(count), "--writable-folders")
    forked = (await place.cli(*asked)).out.split()
    assert forked == [f"{source.name}-{n}" for n in range(1, count + 1)]
    engines = [source, *(Engine(place, name) for name in ("copy", *forked))]
    assert faults({one.name: await identity_of(one) for one in engines}) == []
    for engine in engines:
        await runs_on(engine, number, secret)
    await one_from_a_snapshot_only_reads(engines[1], folder)
    await a_fork_writes_if_asked_to(engines[-1], folder)
    refused = await place.cli("snapshot", "rm", str(await base_of(place)), code=1)
    assert "these snapshots lie on it: seeded" in refused.err
    await place.cli("engine", "rm", "-f", "copy", *forked)
    await place.cli("snapshot", "rm", "seeded")
    await is_parked_and_wakes(place, source, number, secret)
    await source.docker("rm", "-f", KEEPER)


async def is_parked_and_wakes(place: Site, parked: Engine, number: int, secret: str) -> None:
    """An engine has no VM while it is parked, and goes on where it was, with the right time."""
    described = await parked.described()
    await place.cli("engine", "park", parked.name)
    assert place.vmms() == []
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind(("127.0.0.1", number))
    assert KEEPER in (await parked.docker("ps", "--format", "{{.Names}}")).out  # which wakes it
    began = time.time()
    there = float((await parked.docker("exec", KEEPER, "busybox", "date", "+%s")).out)
    assert began - 2 < there < time.time() + 2
    again = await parked.described()
    assert again["address"] == described["address"]
    assert await page_at(number) == await page_at(number, again["address"]) == PAGE
    assert set((await parked.docker("logs", KEEPER)).out.split()) == {secret}


async def stands_still_while(place: Site, paused: Engine, work: Coroutine[Any, Any, None]) -> None:
    """An engine takes no processor time while it is paused, and has the right time afterwards."""
    following = await paused.begin("logs", "-f", KEEPER)
    await place.cli("engine", "pause", paused.name)
    (pid,) = place.vmms()
    before = cpu_ticks(pid)
    await work
    assert cpu_ticks(pid) - before < 50, "of 100 a second"
    refused = await paused.docker("ps", code=1)
    assert f"the engine {paused.name} is paused" in refused.err
    assert following.returncode is None
    await place.cli("engine", "unpause", paused.name)
    began = time.time()
    there = float((await paused.docker("exec", KEEPER, "busybox", "date", "+%s")).out)
    assert began - 2 < there < time.time() + 2
    following.kill()
    await following.wait()


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def only_its_disk_goes_on(place: Site) -> None:
    await place.cli("engine", "create", "--from", "seeded", "--cold", "cold")
    engine = Engine(place, "cold")
    described = await engine.described()
    assert (described["boot_method"], described["fallback_reason"]) == ("cold", "requested")
    listed = await engine.docker("ps", "-a", "--format", "{{.Names}} {{.State}}")
    assert set(listed.out.splitlines()) >= {"web exited", f"{KEEPER} exited"}
    assert TOOLS.partition(":")[0] in (await engine.docker("images")).out
    assert (await engine.docker("start", KEEPER)).out == f"{KEEPER}\n"
    await place.cli("engine", "rm", "-f", engine.name)


async def runs_on(engine: Engine, number: int, secret: str) -> None:
    """With the memory that it had."""
    assert await page_at(number, str((await engine.described())["address"])) == PAGE

    async def said() -> list[str]:
        return (await engine.docker("logs", KEEPER)).out.split()

    before = await said()
    assert set(before) == {secret}, "its memory is what it was"

    async def says_more() -> bool:
        return len(await said()) > len(before)

    await eventually(says_more, "its program runs on")


async def base_of(place: Site) -> str:
    (seeded,) = [
        one
        for one in json.loads((await place.cli("snapshot", "ls", "--json")).out)
        if one["name"] == "seeded"
    ]
    return str(seeded["parent_id"])


async def test_a_folder_of_the_host_is_refused_and_dockers_socket_is_dockers(
    place: Site, archive: Archive
) -> None:
    async with engine_at(place, "mounts", archive) as engine:
        refused = await engine.docker("run", "--rm", "-v", "/home:/home", TOOLS, "true", code=125)
        assert "cannot be mounted" in refused.err
        own = (await engine.described())["socket"]
        for path in ("/var/run/docker.sock", own):
            script = ("run", "--rm", "-v", f"{path}:/docker.sock", TOOLS)
            assert (await engine.docker(*script, "test", "-S", "/docker.sock")).code == 0


async def test_a_container_reaches_the_port_of_this_host_that_was_opened_and_no_other(
    place: Site, archive: Archive
) -> None:
    home, gateway = "127.0.0.1", "198.18.0.1"
    async with (
        greeter(address=home) as opened,
        greeter(address=home) as closed,
        greeter() as everywhere,
        engine_at(place, "opened", archive, "--host-port", str(opened)) as engine,
    ):
        reached = f"{gateway}:{opened}"
        others = [f"{gateway}:{closed}", f"{gateway}:{everywhere}", f"{gateway}:{place.port}"]
        others += [f"{own_address()}:{everywhere}", f"{own_address()}:{opened}"]
        look = 'for at; do timeout 20 wget -q -O - http://$at/ 2>&1 && echo "from $at"; done; true'
        for network in ("bridge", "host"):
            ran = await engine.docker(
                *("run", "--rm", "--network", network, TOOLS, "sh", "-c", look, "sh"),
                *(reached, *others, f"{home}:{opened}"),
            )
            first, second, *closed_ones = ran.out.splitlines()
            assert f"{first}\n{second}" == f"{GREETING}from {reached}", network
            assert len(closed_ones) == len(others) + 1, network
            assert all("Connection refused" in line for line in closed_ones), closed_ones


async def test_streams_go_on_while_the_manager_is_killed_and_started(
    place: Site, archive: Archive
) -> None:
    async with engine_at(place, "long", archive, "--disk", "40g") as engine:
        ticking = "while true; do echo tick; sleep 1; done"
        await engine.docker("run", "-d", "--name", "clock", TOOLS, "sh", "-c", ticking)
        logs = await engine.begin("logs", "-f", "--tail", "0", "clock")
        assert logs.stdout is not None
        assert await logs.stdout.readline() == b"tick\n"
        await place.kill()
        for _ in range(3):
            assert await logs.stdout.readline() == b"tick\n"
        assert (await engine_ps(place, engine)) == "clock\n"
        await place.start()
        assert await logs.stdout.readline() == b"tick\n"
        (process,) = place.vmms()
        os.kill(process, signal.SIGKILL)
        async with asyncio.timeout(VM_TIMEOUT_S):
            await logs.wait()

        async def failed() -> bool:
            return bool((await engine.described())["state"] == "failed")

        await eventually(failed, "the end of its VM is seen")
        dead = await engine.docker("ps", code=1)
        assert "warmboot engine start long" in dead.err
        await place.cli("engine", "start", "long")
        assert TOOLS.partition(":")[0] in (await engine.docker("images")).out, "its disk is kept"
        assert (await engine.described())["disk"]["size_bytes"] > 38 * GIB, "and its size"


async def engine_ps(site: Site, engine: Engine) -> str:
    """While there is no manager to ask where the engine is."""
    path = site.storage / "m" / "engines" / f"{engine.name}.sock"
    process = await asyncio.create_subprocess_exec(
        *("docker", "-H", f"unix://{path}", "ps", "--format", "{{.Names}}"),
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0].decode()


async def test_an_engine_for_one_command_goes_with_it_even_if_it_is_killed(place: Site) -> None:
    words = ("engine", "run", "--", "sh", "-c", "docker info -f '{{.Containers}}'; exit 3")
    ran = await place.cli(*words, code=3)
    assert ran.out == "0\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.cli", "engine", "run", "--", "sleep", "1000"),
        env=place.environment,
    )
    await eventually(lambda: _one_vm(place), "its engine is there")
    process.kill()
    await process.wait()

    async def none_left() -> bool:
        return place.vmms() == []

    await eventually(none_left, "it went with the one who asked for it")


async def _one_vm(site: Site) -> bool:
    listed = json.loads((await site.cli("engine", "ls", "--json")).out)
    return [engine["state"] for engine in listed] == ["running"]


@pytest.mark.registry
async def test_an_engine_pulls_from_the_mirror_of_this_host(
    place: Site, archive: Archive, tmp_path: Path
) -> None:
    async with registry(tmp_path) as port:
        await push(Image.of(archive.content), port, "library/mirrored", "1")
        await place.stop()
        await place.start({"MANAGER_REGISTRY_MIRROR": f"http://localhost:{port}"})
        async with engine_at(place, "mirror") as engine:
            info = json.loads((await engine.docker("info", "-f", "{{json .}}")).out)
            assert info["RegistryConfig"]["Mirrors"] == [f"http://127.0.0.1:{port}/"]
            await engine.docker("pull", "mirrored:1")
            assert (await engine.docker("run", "--rm", "mirrored:1", "echo", "there")).out
            ran = await place.cli("run", "--rm", "mirrored:1", "echo", "contained")
            assert ran.out == "contained\n", "containers pull from it, too"
            await place.stop()
            await place.start({"MANAGER_REGISTRY_MIRROR": f"http://localhost:{port}"})
            await engine.docker("rmi", "mirrored:1")
            await engine.docker("pull", "mirrored:1")
    await place.stop()
    await place.start()
