"""A QEMU that stands still is kept, by its manager and the next; a second manager is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tests.e2e.conftest import PAGE, Archive
from tests.e2e.test_e2e_boot import fetch
from tests.support.vms import TINY, Site, eventually


async def refused(site: Site) -> str:
    """What a second manager with the same settings says before it ends."""
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.cli", "serve"),
        env={
            **site.environment,
            "MANAGER_STORAGE_ROOT": str(site.storage),
            "MANAGER_PORT": str(site.port),
            "MANAGER_NETWORK_PREFIX": site.prefix,
            "MANAGER_NETWORK_SUBNET": site.subnet,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(second.communicate(), 60)
    assert second.returncode == 1
    return " ".join(said.decode().split())


async def test_a_stopped_vm_is_kept_and_goes_on_and_its_user_may_end_it(
    site: Site, archive: Archive
) -> None:
    web = await site.run("web", "-p", "8080", "--archive", str(archive.path), archive.name)
    await site.run("doomed", TINY, "sleep", "1000")
    pids = {}
    for name in ("web", "doomed"):
        handle = (await site.vm(name)).handle
        assert handle is not None
        pids[name] = handle.pid
    second = await refused(site)
    assert "another manager runs on the storage root" in second
    assert f"pid {site.pid}" in second

    await site.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    await site.start()
    assert set(site.vmms()) == set(pids.values())
    for name in pids:
        found = await site.inspect(name)
        assert (found["state"], found["answering"]) == ("running", False)
    assert "(Not answering)" in (await site.cli("ps")).out

    os.kill(pids["web"], signal.SIGCONT)

    async def answers() -> bool:
        return bool((await site.inspect("web"))["answering"])

    await eventually(answers, "it is adopted when it answers")
    assert await fetch(web["ports"][0]["host_port"]) == PAGE
    assert await site.exec("web", "cat /www/index.html") == PAGE.decode()

    await site.cli("stop", "-t", "1", "doomed")
    assert (await site.inspect("doomed"))["state"] == "exited"
    assert site.vmms() == [pids["web"]]
    await site.cli("rm", "-f", "web", "doomed")
    assert site.vmms() == []


async def test_a_vm_that_is_stopped_under_its_manager_is_shown_and_goes_on(
    site: Site, archive: Archive
) -> None:
    await site.stop()
    await site.start({"MANAGER_UNRESPONSIVE_AFTER_S": "15"})
    await site.run("held", "-p", "8080", "--archive", str(archive.path), archive.name)
    handle = (await site.vm("held")).handle
    assert handle is not None

    async def answers() -> bool:
        return bool((await site.inspect("held"))["answering"])

    async def is_silent() -> bool:
        return not await answers()

    os.kill(handle.pid, signal.SIGSTOP)
    await eventually(is_silent, "its silence is told")
    assert (await site.inspect("held"))["state"] == "running"
    assert "(Not answering)" in (await site.cli("ps")).out
    os.kill(handle.pid, signal.SIGCONT)
    await eventually(answers, "it goes on when it answers")
    assert await site.exec("held", "cat /www/index.html") == PAGE.decode()

    os.kill(handle.pid, signal.SIGSTOP)
    await eventually(is_silent, "it is told again")
    await site.cli("stop", "-t", "1", "held")
    assert (await site.inspect("held"))["exit_code"] == 137
    assert site.vmms() == []
    await site.stop()
    await site.start()
