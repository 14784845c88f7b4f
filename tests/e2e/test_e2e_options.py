"""Docker's options of a container in a real VM: what its programs see of them, in one boot each."""

from __future__ import annotations

import contextlib
import json

import httpx
from tests.e2e.conftest import PAGE, Archive
from tests.support.vms import Site, eventually

SEEN = """
echo comm $(cat /proc/1/comm)
echo files $(ulimit -n)
echo somaxconn $(cat /proc/sys/net/core/somaxconn)
echo pids $(cat /sys/fs/cgroup/pids.max)
echo cpu $(cat /sys/fs/cgroup/cpu.max)
echo caps $(busybox grep CapEff /proc/self/status)
echo host $(busybox grep db /etc/hosts)
echo dns $(busybox grep nameserver /etc/resolv.conf)
echo name $(busybox hostname)
echo shm $(busybox df -k /dev/shm | busybox tail -1)
(echo x > /file) 2>/dev/null && echo root written || echo root refused
echo x > /tmp/file && echo tmp written
echo kept > /data/file && echo data written
"""


async def test_what_docker_in_its_vm_is_told_holds_and_its_ports_lead_to_it(
    site: Site, archive: Archive
) -> None:
    found = await site.run(
        "box", "--archive", str(archive.path), "-p", "8080", "--init", "--read-only", "--tmpfs",
        "/tmp", "-v", "data:/data", "--ulimit", "nofile=100:200", "--pids-limit", "50", "--cpus",
        "0.5", "--cap-drop", "ALL", "--shm-size", "16m", "--sysctl", "net.core.somaxconn=77",
        "--add-host", "db:192.0.2.7", "--dns", "192.0.2.53", "-h", "crate", "--restart", "always",
        "--health-cmd", "test -e /tmp/file", "--health-interval", "1s", archive.name,
    )  # fmt: skip
    assert "start-own-network" in [stage["name"] for stage in found["stages"]]
    said = await site.exec("box", SEEN)
    seen = dict(line.split(" ", 1) for line in said.splitlines())
    assert "init" in seen["comm"], "an init is the first process"
    assert (seen["files"], seen["somaxconn"], seen["pids"]) == ("100", "77", "50")
    assert seen["cpu"] == "50000 100000"
    assert seen["caps"].endswith("0000000000000000")
    assert (seen["host"], seen["dns"]) == ("192.0.2.7 db", "nameserver 192.0.2.53")
    assert seen["name"] == "crate"
    assert "16384" in seen["shm"]
    assert (seen["root"], seen["tmp"], seen["data"]) == ("refused", "written", "written")

    (port,) = found["ports"]
    url = f"http://127.0.0.1:{port['host_port']}/"

    async def page() -> bool:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(url, timeout=30)).content == PAGE
        return False

    assert await eventually(page, "the page, through a network of the container's own")

    vm = await site.vm("box")
    async with site.link(vm) as link:

        async def healthy() -> bool:
            state = (await link.docker.description("warmboot"))["State"]
            return bool(state["Health"]["Status"] == "healthy")

        await eventually(healthy, "its health check")
        await site.exec("box", "busybox kill -9 $(busybox pidof httpd)")

        async def again() -> bool:
            return int((await link.docker.description("warmboot"))["RestartCount"]) > 0

        await eventually(again, "Docker in the VM starts it again")
    assert await eventually(page, "the page, after Docker has started it again")
    assert (await site.exec("box", "cat /data/file")).strip() == "kept"
    assert json.loads((await site.cli("inspect", "--json", "box")).out)[0]["state"] == "running"
