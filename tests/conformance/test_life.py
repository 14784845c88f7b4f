"""What holds for every VM of every hypervisor while it lives, and when it dies."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.conformance.keeper import STILL_S, Keeper
from tests.conformance.rigs import Rig
from tests.support import tiny_guest

from warmboot.hypervisors.firecracker import kvm
from warmboot.model.errors import HypervisorError, VmGone
from warmboot.model.vm import VmHandle, VmStatus

ROOT = Path(__file__).resolve().parents[2]


async def test_a_booted_vm_runs(vms: Keeper) -> None:
    spec, vm = await vms.boot()
    assert await vm.status() is VmStatus.RUNNING
    await vms.rig.counts_past(spec, vms.rig.count(spec))


async def test_pause_stops_the_guest_and_resume_continues_it(vms: Keeper, rig: Rig) -> None:
    spec, vm = await vms.boot()
    await vm.pause()
    assert await vm.status() is VmStatus.PAUSED
    await vms.stands_still(spec)
    await vm.resume()
    assert await vm.status() is VmStatus.RUNNING
    await rig.counts_past(spec, rig.count(spec) + 1)
    numbers = tiny_guest.numbers(rig.printed(spec))
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_vm_that_runs_or_is_paused_has_not_stalled(vms: Keeper) -> None:
    _, vm = await vms.boot()
    waiting = asyncio.create_task(vm.wait_stalled())
    await vm.pause()
    await vm.resume()
    await asyncio.sleep(STILL_S)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await vm.status() is VmStatus.RUNNING  # it listens to orders as before


async def test_kill_is_idempotent_and_reaps(vms: Keeper) -> None:
    _, vm = await vms.boot()
    await vm.kill()
    assert not Path(f"/proc/{vm.handle.pid}").exists()
    assert await vm.status() is VmStatus.GONE
    await vm.kill()
    await asyncio.wait_for(vm.wait_gone(), 60)


async def test_a_vmm_that_is_killed_is_seen_to_be_gone(vms: Keeper) -> None:
    _, vm = await vms.boot()
    waiting = asyncio.create_task(vm.wait_gone())
    await asyncio.sleep(0.05)  # it is not taken for gone before
    assert not waiting.done()
    os.kill(vm.handle.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, 60)
    assert await vm.status() is VmStatus.GONE
    for order in (vm.pause, vm.resume):
        with pytest.raises(VmGone):
            await order()


async def test_a_vmm_runs_in_a_session_of_its_own(vms: Keeper) -> None:
    _, vm = await vms.boot()
    assert os.getsid(vm.handle.pid) == vm.handle.pid


async def test_a_detached_vm_goes_on_and_is_found_again(vms: Keeper, rig: Rig) -> None:
    spec, vm = await vms.boot()
    handle = vm.handle
    await vms.detach(vm)
    before = rig.count(spec)
    again = vms.keep(await rig.driver().attach(spec, handle))
    assert await again.status() is VmStatus.RUNNING
    assert again.handle == handle
    await rig.counts_past(spec, before)
    await again.pause()
    assert await again.status() is VmStatus.PAUSED


async def test_a_vm_outlives_its_manager(vms: Keeper, rig: Rig) -> None:
    spec = rig.make_spec()
    arguments = f"{rig.name!r}, pathlib.Path({str(rig.home)!r}), {spec.id!r}"
    program = (
        "import asyncio, pathlib; from tests.conformance import rigs; "
        f"asyncio.run(rigs.boot_and_report({arguments}))"
    )
    manager = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert manager.stdout is not None
        found = json.loads(await asyncio.wait_for(manager.stdout.readline(), 60))
    finally:
        manager.kill()
        await manager.wait()
    handle = VmHandle(vm_id=spec.id, hypervisor=rig.name, run_dir=spec.run_dir, **found)
    vm = vms.keep(await vms.driver.attach(spec, handle))
    assert await vm.status() is VmStatus.RUNNING
    await rig.counts_past(spec, rig.count(spec))
    await vm.kill()
    assert await vm.status() is VmStatus.GONE


async def test_attach_tells_a_dead_vmm_from_another_process(vms: Keeper) -> None:
    spec, vm = await vms.boot()
    handle = vm.handle
    reused = dataclasses.replace(handle, pid=os.getpid())
    earlier = dataclasses.replace(handle, boot_id="another boot")
    for stale in (reused, earlier):
        with pytest.raises(VmGone):
            await vms.driver.attach(spec, stale)
    assert await vm.status() is VmStatus.RUNNING
    await vm.kill()
    with pytest.raises(VmGone):
        await vms.driver.attach(spec, handle)


async def test_a_machine_that_lacks_something_is_a_problem_and_an_error(
    vms: Keeper, rig: Rig
) -> None:
    driver = rig.unusable_driver()
    probe = await driver.probe()
    assert not probe.usable
    assert probe.problems[0].resolution
    spec = rig.make_spec()
    with pytest.raises(HypervisorError):
        await driver.boot(spec)
    await vms.nothing_is_left()


async def test_a_missing_kernel_or_disk_is_an_error_that_leaves_nothing(
    vms: Keeper, rig: Rig
) -> None:
    spec, disk = rig.make_spec(), rig.make_disk("disk")
    gone = dataclasses.replace(disk, path=rig.home / "nothing.img")
    kept = sorted(path for path in rig.home.rglob("*") if spec.run_dir not in path.parents)
    for broken in (
        dataclasses.replace(spec, kernel=rig.home / "nothing"),
        dataclasses.replace(spec, disks=(gone,)),
    ):
        with pytest.raises(HypervisorError):
            await vms.driver.boot(broken)
        await vms.nothing_is_left()
    assert kept == sorted(path for path in rig.home.rglob("*") if spec.run_dir not in path.parents)


async def test_a_folder_with_too_long_a_path_is_refused_in_words(vms: Keeper, rig: Rig) -> None:
    deep = rig.home / ("d" * 100)
    deep.mkdir()
    spec = dataclasses.replace(rig.make_spec(), run_dir=deep)
    with pytest.raises(HypervisorError, match="long"):
        await vms.driver.boot(spec)
    await vms.nothing_is_left()


@pytest.mark.parametrize("after_s", [0, 0.001, 0.005, 0.02, 0.1])
async def test_a_cancelled_boot_leaves_no_process(vms: Keeper, rig: Rig, after_s: float) -> None:
    await vms.driver.probe()
    booting = asyncio.create_task(vms.driver.boot(rig.make_spec()))
    await asyncio.sleep(after_s)
    booting.cancel()
    try:
        vms.keep(await booting)
    except asyncio.CancelledError:
        await vms.nothing_is_left()


@pytest.mark.root
async def test_a_vmm_runs_as_the_vms_user_without_capabilities(vms: Keeper, rig: Rig) -> None:
    uid = 64_321
    spec = rig.make_spec(uid=uid)
    if rig.name == "firecracker" and isinstance(
        kvm.group_for(Path("/dev/kvm"), uid, uid), PermissionError
    ):
        with pytest.raises(HypervisorError, match="may not open /dev/kvm"):
            await vms.driver.boot(spec)
        return
    _, vm = await vms.boot(spec)
    status = Path(f"/proc/{vm.handle.pid}/status").read_text()
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    assert fields["Uid"].split() == [str(uid)] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
