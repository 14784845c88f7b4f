"""Docker's options of a container in a real VM, and files in and out of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.e2e.conftest import PAGE, Archive
from tests.support.vms import VM_TIMEOUT_S, Site

from warmboot.model.errors import InvalidRequest, NotFound

SEEN = """
echo comm $(cat /proc/1/comm)
echo files $(ulimit -n)
echo somaxconn $(cat /proc/sys/net/core/somaxconn)
echo pids $(cat /sys/fs/cgroup/pids.max)
echo cpu $(cat /sys/fs/cgroup/cpu.max)
echo caps $(busybox grep CapEff /proc/self/status)
echo host $(busybox grep db /etc/hosts)
echo dns $(busybox grep nameserver /etc/resolv.conf)
"""


async def test_what_docker_in_its_vm_is_told_holds(site: Site, archive: Archive) -> None:
    created = await site.cli(
        "create", "--name", "box", "--archive", str(archive.path), "-p", "8080", "--init",
        "--read-only", "--tmpfs",
        "/tmp", "-v", "data:/data", "--ulimit", "nofile=100:200", "--pids-limit", "50", "--cpus",
        "1.5", "--cap-drop", "ALL", "--shm-size", "16m", "--sysctl", "net.core.somaxconn=77",
        "--add-host", "db:192.0.2.7", "--dns", "192.0.2.53", "-h", "crate", "--restart", "always",
        "--health-cmd", "test -e /tmp/file", "--health-interval", "1s", archive.name,
    )  # fmt: skip
    assert (await site.inspect("box"))["state"] == "created"
    assert created.out.strip() == (await site.inspect("box"))["id"]
    assert (await site.cli("start", "box")).out == "box\n"
    found = await site.inspect("box")
    assert "start-own-network" in [stage["name"] for stage in found["stages"]]
    said = await site.exec("box", SEEN)
    seen = dict(line.split(" ", 1) for line in said.splitlines())
    assert "init" in seen["comm"], "an init is the first process"
    assert (seen["files"], seen["somaxconn"], seen["pids"]) == ("100", "77", "50")
    assert seen["cpu"] == "150000 100000"
    assert seen["caps"].endswith("0000000000000000")
    assert seen["host"] == "192.0.2.7 db"
    assert seen["dns"].split()[:2] == ["nameserver", "192.0.2.53"]

    async with site.client() as client:
        files = client.files
        await files.write("box", "/data", _chunks(_tar("given", b"content")))
        assert await site.exec("box", "cat /data/given") == "content\n"
        copied = b"".join([chunk async for chunk in files.read("box", "/data/given")])
        with tarfile.open(fileobj=io.BytesIO(copied)) as tar:
            assert tar.getnames() == ["given"]
        status = await files.status("box", "/data/given")
        assert (status.kind, status.size_bytes, status.mode) == ("file", 8, 0o644)
        with pytest.raises(NotFound, match="there is no /absent in the container"):
            await files.status("box", "/absent")
        with pytest.raises(InvalidRequest, match="it cannot be written to /"):
            await files.write("box", "/", _chunks(_tar("given", b"content")))
        shown = await files.processes("box")
        assert "PID" in shown.titles
        assert any("init" in row[-1] for row in shown.rows)
        with pytest.raises(InvalidRequest, match="`ps` does not take these options"):
            await files.processes("box", "--nonsense")
        assert {one.path for one in await files.changes("box")} >= {"/data"}
        assert (await client.containers.get("box")).health in ("starting", "unhealthy")
        await site.exec("box", "echo > /tmp/file")  # for which its health check looks
        assert (await client.containers.wait("box", "healthy", VM_TIMEOUT_S)).health == "healthy"
        stats = await client.containers.stats("box")
        assert 0 < stats.memory_bytes < stats.memory_limit_bytes
        assert (stats.cpu_s > 0, stats.processes >= 2) == (True, True)
        assert (await client.containers.rename("box", "crate")).name == "crate"
    assert await site.exec("crate", "cat /etc/hostname") == "crate\n"
    await a_fork_goes_on(site)


async def a_fork_goes_on(site: Site) -> None:
    """With the memory and the disk of that moment, at another port of the host."""
    begun = await site.exec("crate", "cat /proc/1/stat")
    assert (await site.cli("fork", "crate")).out == "crate-1\n"
    try:
        async with site.client() as client:
            fork = await client.containers.get("crate-1")
            source = await client.containers.get("crate")
        assert (fork.state, fork.boot_method, source.state) == ("running", "warm", "running")
        assert fork.ports[0].host_port != source.ports[0].host_port
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            for one in (source, fork):
                url = f"http://127.0.0.1:{one.ports[0].host_port}/"
                assert (await http.get(url)).content == PAGE
        assert await site.exec("crate-1", "cat /data/given") == "content\n"
        started = await site.exec("crate-1", "cat /proc/1/stat")
        assert started.split()[21] == begun.split()[21], "it is the process that was frozen"
    finally:
        await site.cli("rm", "-f", "crate-1")


def _tar(name: str, content: bytes) -> bytes:
    file, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size = len(content) + 1
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content + b"\n"))
    return file.getvalue()


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data
