"""A VM's limits, seen from the whole service; and those of version 2, in a guest of ours."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.e2e.guests import inside
from tests.support.vms import TINY, Site

from warmboot.host.network import uids
from warmboot.hypervisors import cgroups
from warmboot.system import procfs


async def test_a_vm_lives_in_its_group_until_it_is_removed(site: Site) -> None:
    await site.run("limited", TINY, "sleep", "1000")
    record = await site.vm("limited")
    assert record.handle is not None
    groups = site.groups()
    assert record.handle.pid in groups.members(record.id)
    async with site.client() as client:
        [told] = [check for check in await client.system.doctor() if check.name == "limits"]
    assert cgroups.described(cgroups.usable(groups.hierarchies)) in told.summary
    await site.kill()
    await site.start()  # and is still in it when another manager has adopted it
    assert record.handle.pid in groups.members(record.id)
    await site.cli("rm", "-f", "limited")
    assert record.id not in groups.names()


async def test_a_vmm_runs_as_a_user_of_its_managers_own_range(site: Site) -> None:
    await site.run("somebody", TINY, "sleep", "1000")
    handle = (await site.vm("somebody")).handle
    assert handle is not None
    user = Path(f"/proc/{handle.pid}").stat().st_uid
    ranges = [int(p.name) for p in uids.RESERVATIONS.iterdir() if p.read_text() == site.prefix]
    assert [first < user < first + uids.SIZE for first in ranges] == [True]


async def test_a_group_that_is_nobodys_is_swept_and_another_managers_is_not(site: Site) -> None:
    hierarchy = cgroups.here()[0]
    ours = hierarchy.path / cgroups.SLICE / site.prefix / "vm-nobodys"
    others = hierarchy.path / cgroups.SLICE / "wbother" / "vm-others"
    await site.kill()
    try:
        for group in (ours, others):
            group.mkdir(parents=True, exist_ok=True)
        await site.start()
        assert not ours.exists()
        assert others.exists()
    finally:
        others.rmdir()
        others.parent.rmdir()


_IN_GUEST = """\
import base64, json, os, signal, subprocess, sys, time, types
# As modules, with names that dataclasses and imports find.
def module(name, source):
    sys.modules[name] = made = types.ModuleType(name)
    exec(base64.b64decode(source).decode(), made.__dict__)
    return made
sys.modules["warmboot.system"] = types.ModuleType("warmboot.system")
sys.modules["warmboot.system"].procfs = module("warmboot.system.procfs", "{procfs}")
cgroups = module("cgroups", "{cgroups}")
found = {{}}
there = cgroups.here()
found["versions"] = sorted({{h.version for h in there}})
groups = cgroups.Cgroups("wb", there)
groups.prepare()
found["missing"] = cgroups.missing(groups.hierarchies)
groups.create("vm", cgroups.Limits(memory_bytes=48 << 20, cpus=0.5, pids=4))
def within(code):
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read(1); " + code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    groups.join("vm", child.pid)
    out, _ = child.communicate(b"x")
    return child.returncode, out.decode().strip()
found["memory"] = within("b = bytearray(200 << 20); print(len(b))")
found["little"] = within("b = bytearray(8 << 20); print(len(b))")
found["pids"] = within(
    "import os, time\\nn = 0\\ntry:\\n while n < 20:\\n"
    "  if not os.fork(): time.sleep(1); os._exit(0)\\n  n += 1\\n"
    "except OSError: pass\\nprint(n)")
found["cpu"] = within(
    "import time; a = time.monotonic(); c = time.process_time()\\n"
    "while time.monotonic() - a < 2: pass\\n"
    "print((time.process_time() - c) / (time.monotonic() - a))")
with open("/var/lib/docker/big", "wb") as file:
    for _ in range(96): file.write(os.urandom(1 << 20))
found["page_cache"] = within("n = len(open('/var/lib/docker/big','rb').read(1))\\n"
    "f = open('/var/lib/docker/big','rb')\\nwhile b := f.read(1 << 20): n += len(b)\\nprint(n)")
os.unlink("/var/lib/docker/big")
sleeper = subprocess.Popen(["sleep", "1000"])
groups.join("vm", sleeper.pid)
found["member"] = sleeper.pid in groups.members("vm")
groups.come_first("vm", sleeper.pid)
groups.remove("vm")
found["ended"] = sleeper.wait() == -9
found["names"] = sorted(groups.names())
groups.tear_down()
found["left"] = os.path.exists("/sys/fs/cgroup/" + cgroups.SLICE)
print(json.dumps(found))
"""


async def test_version_2_holds_a_process_to_its_limits(site: Site) -> None:
    await site.run("second", TINY, "sleep", "1000")
    sources = {
        name: base64.b64encode(Path(str(module.__file__)).read_bytes()).decode()
        for name, module in (("cgroups", cgroups), ("procfs", procfs))
    }
    program = base64.b64encode(_IN_GUEST.format(**sources).encode()).decode()
    async with site.link(await site.vm("second")) as link:
        output = await inside(
            link,
            f"echo {program} | busybox base64 -d > /guest/tmp/limits.py; "
            "busybox chroot /guest /usr/bin/python3 -S /tmp/limits.py 2>&1",
        )
    found = json.loads(output)
    assert found["versions"] == [2]
    assert found["missing"] == []
    assert found["memory"][0] == -9  # killed by its own limit, not the guest's end
    assert found["little"] == [0, str(8 << 20)]
    assert found["pids"][1] == "3"  # and itself
    assert 0.2 < float(found["cpu"][1]) < 0.8, "half of one, as near as a busy host lets it be"
    assert found["page_cache"] == [0, str((96 << 20) + 1)]  # its cache never kills it
    assert found["member"]
    assert found["ended"]
    assert found["names"] == []
    assert not found["left"]
