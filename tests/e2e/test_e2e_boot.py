"""Warm boots, as a user sees them; cold ones see ``test_e2e_boot_log``."""

from __future__ import annotations

import contextlib

import httpx
from tests.e2e.conftest import PAGE, Archive
from tests.support.vms import TINY, Site, eventually


async def fetch(port: int) -> bytes:
    """What is served there, once somebody listens: that the container runs does not tell."""

    async def look() -> bytes | None:
        with contextlib.suppress(httpx.TransportError):
            return (await http.get(f"http://127.0.0.1:{port}/")).raise_for_status().content
        return None

    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        return await eventually(look, "its web server listens")


async def test_a_container_starts_warm_and_its_port_answers(site: Site, archive: Archive) -> None:
    words = ("-p", "8080", "--archive", str(archive.path), archive.name)
    web = await site.run("web", *words)
    assert (web["state"], web["boot_method"]) == ("running", "warm")
    assert web["fallback_reason"] is None
    stages = [stage["name"] for stage in web["stages"]]
    wanted = ["snapshot", "network", "disk", "restore", "identity", "docker", "ports", "load"]
    assert stages == [*wanted, "create", "start"]
    assert all(stage["duration_s"] >= 0 for stage in web["stages"])
    (identity,) = [stage for stage in web["stages"] if stage["name"] == "identity"]
    steps = ["entropy", "clock", "machine-id", "hostname", "token"]
    assert [step["name"] for step in identity["steps"]] == steps
    assert sum(step["duration_s"] for step in identity["steps"]) <= identity["duration_s"]
    before_docker = sum(stage["duration_s"] for stage in web["stages"][:6])
    afterwards = sum(stage["duration_s"] for stage in web["stages"][6:])
    # Between them it is journaled, which takes longer where all else does.
    assert before_docker <= web["boot_s"] + 0.01 < before_docker + max(1, afterwards / 2)
    assert await fetch(web["ports"][0]["host_port"]) == PAGE

    async with site.link(await site.vm("web")) as link:
        assert (await link.docker.facts()).api_version
        assert (await link.health())["docker"] is True

    (created,) = site.log_lines(web["id"], "VM created")
    assert f"INFO Container {web['id']} VM created: {web['vm_id']} via warm boot in" in created
    (provisioned,) = site.log_lines(web["id"], "fully provisioned")
    assert "via warm boot (saved ~" in provisioned


async def test_a_success_is_counted(site: Site) -> None:
    async with site.client() as client:
        (before,) = await client.snapshots.list()
        await site.run("counted", TINY, "sleep", "1000")
        (after,) = await client.snapshots.list()
    assert after.success_count == before.success_count + 1
    assert (after.failure_count, after.state) == (before.failure_count, "ready")
    assert after.last_used_at is not None
