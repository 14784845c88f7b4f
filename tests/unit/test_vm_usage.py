"""Reading what a process uses, on real ones."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from warmboot.hypervisors.process import boot_id, start_time_ticks
from warmboot.model.vm import VmHandle
from warmboot.system.usage import (
    allocated_below,
    capacity,
    free_memory_mib,
    of_storage,
    of_vm,
    of_vms,
)


def handle_of(pid: int) -> VmHandle:
    ticks = start_time_ticks(pid)
    assert ticks is not None
    return VmHandle("vm-1", "simulated", pid, ticks, boot_id(), Path("/nowhere"))


def test_processor_time_grows_with_work() -> None:
    handle = handle_of(os.getpid())
    before = of_vm(handle)
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    after = of_vm(handle)
    assert before is not None
    assert after is not None
    assert after.cpu_s >= before.cpu_s + 0.1


def test_the_capacity_is_the_machines() -> None:
    found = capacity()
    assert 1 <= found.cpus <= (os.cpu_count() or 1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.memory_mib == pages >> 20
    assert free_memory_mib() < found.memory_mib


def test_memory_that_is_written_is_private() -> None:
    handle = handle_of(os.getpid())
    before = of_vm(handle)
    taken = bytearray(os.urandom(32 << 20))
    after = of_vm(handle)
    assert before is not None
    assert after is not None
    assert len(taken) == 32 << 20
    assert after.private_bytes >= before.private_bytes + (30 << 20)
    assert after.memory_bytes >= after.private_bytes * 0.9


async def test_a_process_that_is_gone_uses_nothing() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
    handle = handle_of(process.pid)
    assert of_vm(handle) is not None
    process.kill()
    await process.wait()
    assert of_vm(handle) is None
    assert of_vms([handle]) == ()


def test_another_process_with_the_same_number_is_not_it() -> None:
    handle = handle_of(os.getpid())
    assert of_vm(replace(handle, start_time_ticks=handle.start_time_ticks - 1)) is None


def test_what_files_take_is_what_is_allocated(tmp_path: Path) -> None:
    assert allocated_below(tmp_path / "not-there") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "full").write_bytes(b"x" * 65_536)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert 65_536 <= allocated_below(tmp_path) < 1 << 20


def test_storage_is_the_file_system_below(tmp_path: Path) -> None:
    found = of_storage(tmp_path, 5)
    assert found.total_bytes > found.free_bytes > 0
    assert found.floor_bytes == 5
