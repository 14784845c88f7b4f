"""Docker's options of a container in a real VM: what its programs see of them."""

from __future__ import annotations

from tests.e2e.conftest import Archive
from tests.support.vms import Site

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
    found = await site.run(
        "box", "--archive", str(archive.path), "-p", "8080", "--init", "--read-only", "--tmpfs",
        "/tmp", "-v", "data:/data", "--ulimit", "nofile=100:200", "--pids-limit", "50", "--cpus",
        "1.5", "--cap-drop", "ALL", "--shm-size", "16m", "--sysctl", "net.core.somaxconn=77",
        "--add-host", "db:192.0.2.7", "--dns", "192.0.2.53", "-h", "crate", "--restart", "always",
        "--health-cmd", "test -e /tmp/file", "--health-interval", "1s", archive.name,
    )  # fmt: skip
    assert "start-own-network" in [stage["name"] for stage in found["stages"]]
    said = await site.exec("box", SEEN)
    seen = dict(line.split(" ", 1) for line in said.splitlines())
    assert "init" in seen["comm"], "an init is the first process"
    assert (seen["files"], seen["somaxconn"], seen["pids"]) == ("100", "77", "50")
    assert seen["cpu"] == "150000 100000"
    assert seen["caps"].endswith("0000000000000000")
    assert seen["host"] == "192.0.2.7 db"
    assert seen["dns"].split()[:2] == ["nameserver", "192.0.2.53"]
