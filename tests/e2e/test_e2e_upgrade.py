"""What the first release has left behind, running VMs and all, is taken over by this version."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import PAGE, Archive
from tests.e2e.test_e2e_boot import fetch
from tests.support.earlier import first_release
from tests.support.vms import TINY, Site, state_root


async def test_vms_and_a_snapshot_of_the_first_release_are_adopted(
    image_folder: Path, archive: Archive, tmp_path: Path
) -> None:
    async with Site.at(
        state_root() / "e2e-upgrade", prefix="wbo", subnet="198.19.252.0/22"
    ) as site:
        no_pool = {"MANAGER_STANDBY_VMS": "0"}  # as that release called it
        await site.start(no_pool, source=first_release(tmp_path))
        register = ("runtime", "register", "--no-snapshot", "--name", "default")
        await site.cli(*register, str(image_folder))
        await site.cli("snapshot", "create", "default")
        tools = ("--archive", str(archive.path), archive.name)
        web = await site.run("web", "-p", "8080", *tools)
        cold = await site.run("cold", "--cold", *tools)
        await site.run("ended", TINY, "true")
        assert (web["boot_method"], cold["boot_method"]) == ("warm", "cold")
        await site.cli("wait", "ended")
        before = set(site.vmms())
        await site.kill()

        await site.start()
        assert set(site.vmms()) == before
        assert await fetch(web["ports"][0]["host_port"]) == PAGE
        assert await site.exec("web", "cat /www/index.html") == PAGE.decode()
        assert await site.exec("cold", "echo alive") == "alive\n"
        assert (await site.inspect("ended"))["state"] == "exited"
        after = await site.inspect("web")
        for key in ("vm_id", "boot_method", "runtime_snapshot_id", "started_at", "ports"):
            assert after[key] == web[key]
        new = await site.run("new", "--cold", *tools)
        # Its agent, and that of its snapshot, are of an earlier protocol: both are made anew.
        assert new["state"] == "running"
        assert new["runtime_snapshot_id"] != web["runtime_snapshot_id"]
        await site.cli("rm", "-f", "web", "cold", "ended", "new")
        assert not before & set(site.vmms())  # one that makes the new snapshot may be there
    assert await site.on_the_machine() == []
