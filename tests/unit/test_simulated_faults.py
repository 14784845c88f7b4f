"""Delays and faults of simulated VMs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.simulated import IDENTITY, QUICK, booted, linked, make_spec

from warmboot.host.guest import guest_link
from warmboot.hypervisors.simulated.config import SimulatedConfig, When
from warmboot.hypervisors.simulated.driver import Simulated
from warmboot.model.errors import DockerNotReady, GuestUnreachable, HypervisorError, RestoreFailed
from warmboot.model.vm import VmStatus


async def test_the_agent_is_refused_until_the_guest_has_booted(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(json.dumps({"boot_s": 3600}))
    async with booted(tmp_path, replace(QUICK, overrides=overrides)) as vm, linked(vm) as link:
        with pytest.raises(GuestUnreachable):
            await link.health()
        overrides.unlink()
        assert (await link.health())["claimed"] is False


async def test_docker_can_be_broken_in_restored_vms_only(tmp_path: Path) -> None:
    faulty = replace(QUICK, docker_never_ready=When.RESTORE)
    async with booted(tmp_path, faulty) as vm:
        async with linked(vm) as link:
            await link.claim(IDENTITY, timeout_s=60)
            await link.wait_for_docker(timeout_s=60)
        await vm.pause()
        saved = await vm.save()
        async with booted(tmp_path, faulty, saved) as clone, linked(clone) as link:
            with pytest.raises(DockerNotReady):
                await link.wait_for_docker(timeout_s=0.1)


async def test_docker_waits_end_when_docker_is_ready(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(json.dumps({"docker_s": 3600}))
    async with booted(tmp_path, replace(QUICK, overrides=overrides)) as vm, linked(vm) as link:
        claimed = await link.claim(IDENTITY, timeout_s=60, docker_wait_s=0.05)
        assert not claimed.docker_answers
        waiting = asyncio.create_task(link.wait_for_docker(timeout_s=60))
        overrides.unlink()
        await waiting


async def test_docker_may_take_longer_than_one_call_to_the_agent_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(json.dumps({"docker_never_ready": True}))
    async with booted(tmp_path, replace(QUICK, overrides=overrides)) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        monkeypatch.setattr(guest_link, "LONGEST_CALL_S", 0.05)
        with pytest.raises(DockerNotReady):
            await link.wait_for_docker(timeout_s=0.2)
        waiting = asyncio.create_task(link.wait_for_docker(timeout_s=60))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        overrides.unlink()
        await waiting


async def test_docker_may_be_given_more_time_than_the_agent_takes_at_once(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm, linked(vm) as link:
        await link.claim(IDENTITY, timeout_s=60)
        await link.wait_for_docker(timeout_s=3600)


async def test_faults_change_under_a_running_vm(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    async with booted(tmp_path, replace(QUICK, overrides=overrides)) as vm:
        overrides.write_text(json.dumps({"docker_never_ready": True}))
        async with linked(vm) as link:
            assert (await link.health())["docker"] is False
        overrides.write_text(json.dumps({"agent_silent": "always"}))
        async with linked(vm) as link:
            with pytest.raises(GuestUnreachable, match="does not answer"):
                await link.health(timeout_s=0.2)
        overrides.unlink()
        async with linked(vm) as link:
            assert (await link.health())["docker"] is True


async def test_a_guest_that_writes_to_a_full_disk_stalls_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(json.dumps({"disk_full": "always"}))
    async with booted(tmp_path, replace(QUICK, overrides=overrides)) as vm, linked(vm) as link:
        claiming = asyncio.create_task(link.claim(IDENTITY, timeout_s=60))
        await asyncio.wait_for(vm.wait_stalled(), 60)
        assert await vm.status() is VmStatus.STALLED
        assert not claiming.done()
        overrides.unlink()
        await vm.resume()
        steps = (await claiming).steps
        assert [step.name for step in steps][-1] == "token"


async def test_failing_boots_and_restores_are_errors_of_their_kind(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await vm.pause()
        saved = await vm.save()
    with pytest.raises(HypervisorError, match="fail_boot"):
        await Simulated(SimulatedConfig(fail_boot=True)).boot(make_spec(tmp_path))
    with pytest.raises(RestoreFailed, match="fail_restore"):
        await Simulated(SimulatedConfig(fail_restore=True)).restore(make_spec(tmp_path), saved)


async def test_a_failing_save_leaves_no_file(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(boot_s=0, fail_save=True)) as vm:
        await vm.pause()
        with pytest.raises(HypervisorError, match="fail_save"):
            await vm.save()
        assert not list(tmp_path.rglob("snapshot.*"))


async def test_a_vm_can_die_by_itself(tmp_path: Path) -> None:
    async with booted(tmp_path, SimulatedConfig(die_after_s=0.2)) as vm:
        await asyncio.wait_for(vm.wait_gone(), 60)
        assert await vm.status() is VmStatus.GONE


async def test_the_version_can_be_changed_at_run_time(tmp_path: Path) -> None:
    overrides = tmp_path / "faults.json"
    driver = Simulated(SimulatedConfig(overrides=overrides))
    assert (await driver.probe()).host.hypervisor_version == "1.0"
    overrides.write_text(json.dumps({"version": "2.0", "cpu_model": "other"}))
    host = (await driver.probe()).host
    assert (host.hypervisor_version, host.cpu_model) == ("2.0", "other")


@pytest.mark.parametrize("text", ["{", "[]", '{"boot": 1}', '{"boot_s": "x"}', '{"die": "x"}'])
async def test_bad_overrides_are_a_problem_and_an_error(tmp_path: Path, text: str) -> None:
    overrides = tmp_path / "faults.json"
    overrides.write_text(text)
    driver = Simulated(SimulatedConfig(overrides=overrides))
    assert not (await driver.probe()).usable
    with pytest.raises(HypervisorError):
        await driver.boot(make_spec(tmp_path))
