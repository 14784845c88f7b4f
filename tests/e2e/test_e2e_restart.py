"""The manager is killed while VMs run, and VMs are killed while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from tests.e2e.conftest import PAGE, Archive
from tests.e2e.test_e2e_boot import fetch
from tests.support.vms import TINY, VM_TIMEOUT_S, Site, eventually

KEPT = "it was on the disk"
SAID = "it was in the logs"


async def test_vms_outlive_a_killed_manager_and_are_adopted(site: Site, archive: Archive) -> None:
    web = await site.run("web", "-p", "8080", "--archive", str(archive.path), archive.name)
    until_asked = "echo waiting; echo bye | busybox nc -l -p 7000; exit 5"
    brief = await site.run("brief", "-p", "7000", TINY, "sh", "-c", until_asked)
    doomed = await site.run("doomed", TINY, "sleep", "1000")
    doomed_vm = await site.vm("doomed")
    assert doomed_vm.handle is not None
    before = set(site.vmms())
    port = web["ports"][0]["host_port"]

    await site.kill()
    assert await fetch(port) == PAGE, "nobody looks after it, and it answers"
    await _ask_to_end(brief["ports"][0]["host_port"])
    os.kill(doomed_vm.handle.pid, signal.SIGKILL)
    await site.start()

    assert set(site.vmms()) == before - {doomed_vm.handle.pid}
    assert site.log_lines(web["id"], "adopted in", web["vm_id"])
    assert await fetch(port) == PAGE
    assert await site.exec("web", "cat /www/index.html") == PAGE.decode()
    assert (await site.cli("logs", "brief")).out.startswith("waiting\n")
    after = await site.inspect("web")
    for key in ("vm_id", "boot_method", "stages", "started_at", "ports"):
        assert after[key] == web[key]

    async def seen() -> bool:
        return bool((await site.inspect("brief"))["state"] == "exited")

    await eventually(seen, "the exit during the downtime is seen")
    assert (await site.inspect("brief"))["exit_code"] == 5
    lost = await site.inspect(doomed["id"])
    assert lost["state"] == "failed"
    assert "died while the manager was away" in lost["error"]["brief"]
    # And all of it can be used as before.
    await site.cli("restart", "web")
    again = await site.inspect("web")
    assert await fetch(again["ports"][0]["host_port"]) == PAGE, "any free port, as with docker"
    await site.cli("rm", "-f", "web", "brief", "doomed")
    assert site.vmms() == []


async def _ask_to_end(port: int) -> None:
    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        with contextlib.suppress(ConnectionRefusedError):  # nothing tells when it listens
            return await asyncio.open_connection("127.0.0.1", port)
        return None

    reader, writer = await eventually(connect, "it listens")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), VM_TIMEOUT_S) == b"bye\n"
    writer.close()


async def test_a_vm_that_dies_fails_its_container_which_starts_again_on_its_disk(
    site: Site, archive: Archive
) -> None:
    words = ("-p", "8080", "--archive", str(archive.path), archive.name)
    found = await site.run("phoenix", *words)
    await site.exec("phoenix", f"echo '{SAID}' >/proc/1/fd/1")

    async def logged() -> bool:
        return SAID in (await site.cli("logs", "phoenix")).out

    await eventually(logged, "what it says is in its logs")
    await site.exec("phoenix", f"echo '{KEPT}' >/kept; sync")
    record = await site.vm("phoenix")
    assert record.handle is not None
    os.kill(record.handle.pid, signal.SIGKILL)
    async with site.client() as client:
        dead = await client.containers.wait("phoenix", timeout_s=VM_TIMEOUT_S)
    assert dead.state == "failed"
    assert dead.error is not None
    assert dead.error["brief"] == "the VM of container phoenix died"
    assert "warmboot start phoenix" in dead.error["resolution"]
    assert site.vmms() == []
    refused = await site.cli("logs", "phoenix", code=1)
    assert "warmboot start phoenix" in refused.err

    await site.cli("start", "phoenix")
    again = await site.inspect("phoenix")
    assert (again["state"], again["boot_method"]) == ("running", "cold")
    assert again["fallback_reason"] == "keeps_disk"
    assert await site.exec("phoenix", "cat /kept") == f"{KEPT}\n"
    assert await logged(), "the old output is in the logs again"
    assert await fetch(again["ports"][0]["host_port"]) == PAGE
    assert again["id"] == found["id"]
