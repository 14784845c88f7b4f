"""The page server against the real kernel: another process's memory, served from frames."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.eventually import until
from tests.support.fake_vmm import FakeVmm
from tests.support.snapshots import flip

from warmboot.host.snapshots.memory_frames import pack
from warmboot.hypervisors.firecracker import pager as pager_module
from warmboot.hypervisors.firecracker.pager import RECORDED_FILE, SOCKET, Pager
from warmboot.hypervisors.memory.frames import FRAME_BYTES, PAGE, Frames
from warmboot.model.errors import NotSupported, RestoreFailed, SnapshotDamaged, VmGone
from warmboot.model.runtime_image import FileSum
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmSpec

pytestmark = pytest.mark.root

SIZE = 24 * FRAME_BYTES
REGIONS = [(16 * FRAME_BYTES, 0), (8 * FRAME_BYTES, 16 * FRAME_BYTES)]
ENDS_S = 50.0


def make_memory() -> bytes:
    """Frames of data, frames of zeros, and frames with both."""
    generator = random.Random(7)
    memory = bytearray(SIZE)
    for frame in range(0, 24, 3):
        for page in range(256) if frame % 2 else generator.sample(range(256), 40):
            at = frame * FRAME_BYTES + page * PAGE
            memory[at : at + PAGE] = generator.randbytes(64) * 64
    return bytes(memory)


MEMORY = make_memory()


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        yield Path(folder)


@pytest.fixture
def frames(home: Path) -> Path:
    folder = home / "snapshot"
    folder.mkdir()
    (folder / "snapshot.mem").write_bytes(MEMORY)
    expected = FileSum(SIZE, hashlib.sha256(MEMORY).hexdigest())
    pack(folder / "snapshot.mem", folder / "snapshot.mem.zst", expected, threading.Event())
    return folder / "snapshot.mem.zst"


def make_spec(home: Path) -> VmSpec:
    vm_id = f"pages-{secrets.token_hex(6)}"
    (home / vm_id).mkdir()
    return VmSpec(vm_id, home / vm_id, Shape(1, 256), Path("/nothing"), None, "")


@contextlib.asynccontextmanager
async def served(
    home: Path, frames: Path, record_s: float = 60.0
) -> AsyncIterator[tuple[FakeVmm, Pager]]:
    spec = make_spec(home)
    pager = await Pager.start(spec, frames, record_s)
    try:
        vmm = await FakeVmm.start(spec.run_dir / SOCKET, REGIONS)
        try:
            yield vmm, pager
        finally:
            await vmm.end()
    finally:
        await pager.kill()


def sum_of(start: int, length: int) -> str:
    return hashlib.sha256(MEMORY[start : start + length]).hexdigest()


ZEROS = hashlib.sha256(bytes(PAGE)).hexdigest()


async def test_all_memory_is_what_it_was(home: Path, frames: Path) -> None:
    async with served(home, frames) as (vmm, _):
        for size, offset in REGIONS:
            assert await vmm.sum(offset, size) == sum_of(offset, size)


async def test_single_pages_in_any_order_are_what_they_were(home: Path, frames: Path) -> None:
    generator = random.Random(1)
    async with served(home, frames) as (vmm, _):
        for _ in range(200):
            at = generator.randrange(SIZE // PAGE) * PAGE
            assert await vmm.sum(at, PAGE) == sum_of(at, PAGE)


async def test_many_who_touch_at_once_all_go_on(home: Path, frames: Path) -> None:
    generator = random.Random(2)
    parts = [[generator.randrange(SIZE) for _ in range(500)] for _ in range(8)]
    async with served(home, frames) as (vmm, _):
        await vmm.ask(do="touch", parts=parts)
        assert await vmm.sum(0, REGIONS[0][0]) == sum_of(0, REGIONS[0][0])


async def test_zero_pages_take_no_memory(home: Path, frames: Path) -> None:
    async with served(home, frames) as (vmm, _):
        await vmm.ask(do="touch", parts=[[0]])
        before = vmm.own_bytes()
        zeros = [f * FRAME_BYTES for f in range(24) if not any(MEMORY[f << 20 : (f + 1) << 20])]
        assert len(zeros) == 16
        await vmm.ask(do="touch", parts=[zeros])
        assert vmm.own_bytes() - before < FRAME_BYTES


async def test_what_is_not_touched_is_not_brought_in(home: Path, frames: Path) -> None:
    async with served(home, frames) as (vmm, _):
        await vmm.ask(do="touch", parts=[[]])
        before = vmm.own_bytes()
        await vmm.ask(do="touch", parts=[[3 * FRAME_BYTES]])
        assert vmm.own_bytes() - before <= 2 * FRAME_BYTES


@pytest.mark.parametrize("touched_before", [False, True])
async def test_what_was_given_back_is_zero(home: Path, frames: Path, touched_before: bool) -> None:
    frame = 3 * FRAME_BYTES
    async with served(home, frames) as (vmm, _):
        if touched_before:
            assert await vmm.sum(frame, FRAME_BYTES) == sum_of(frame, FRAME_BYTES)
        await vmm.ask(do="remove", start=frame + PAGE, length=2 * PAGE)
        for page in (1, 2):
            assert await vmm.sum(frame + page * PAGE, PAGE) == ZEROS
        for page in (0, 3):
            assert await vmm.sum(frame + page * PAGE, PAGE) == sum_of(frame + page * PAGE, PAGE)
        await vmm.ask(do="write", start=frame + PAGE)
        await vmm.ask(do="remove", start=frame, length=FRAME_BYTES)
        assert await vmm.sum(frame + PAGE, PAGE) == ZEROS


async def test_giving_back_while_others_touch_hurts_nobody(home: Path, frames: Path) -> None:
    generator = random.Random(3)
    async with served(home, frames) as (vmm, pager):
        for round_ in range(10):
            frame = generator.randrange(16) * FRAME_BYTES
            await vmm.ask(do="touch", parts=[[frame], [frame + PAGE * round_]])
            await vmm.ask(do="remove", start=frame, length=64 * PAGE)
            assert await vmm.sum(frame, PAGE) == ZEROS
        assert pager.process.alive


# -- the end ---------------------------------------------------------------------------------------


async def test_it_ends_with_the_vmm(home: Path, frames: Path) -> None:
    async with served(home, frames) as (vmm, pager):
        await vmm.ask(do="touch", parts=[[0]])
        await vmm.end()
        await asyncio.wait_for(pager.process.wait(), ENDS_S)
        assert isinstance(await pager.cause(), RestoreFailed)
        assert pager.damage is None


async def test_a_flipped_bit_ends_the_vmm_and_is_told(home: Path, frames: Path) -> None:
    with Frames(frames) as opened:
        flip(frames, opened.entries[3].offset + 40)
    async with served(home, frames) as (vmm, pager):
        assert await vmm.sum(0, PAGE) == sum_of(0, PAGE)
        assert await vmm.ask(do="sum", start=3 * FRAME_BYTES, length=PAGE) is None
        assert await asyncio.wait_for(vmm.process.wait(), ENDS_S) == -signal.SIGKILL
        await asyncio.wait_for(pager.process.wait(), ENDS_S)
        cause = await pager.cause()
        assert isinstance(cause, SnapshotDamaged)
        assert "frame 3" in cause.details


async def test_frames_that_become_shorter_end_the_vmm(home: Path, frames: Path) -> None:
    async with served(home, frames) as (vmm, pager):
        await vmm.ask(do="touch", parts=[[0]])
        os.truncate(frames, 2000)
        assert await vmm.ask(do="sum", start=21 * FRAME_BYTES, length=PAGE) is None
        await asyncio.wait_for(pager.process.wait(), ENDS_S)
        assert isinstance(await pager.cause(), SnapshotDamaged)


async def test_a_damaged_index_is_told_at_once(home: Path, frames: Path) -> None:
    flip(frames, frames.stat().st_size - 100)
    pager = await Pager.start(make_spec(home), frames)
    try:
        with pytest.raises(SnapshotDamaged):
            await asyncio.wait_for(pager.guard(asyncio.Event().wait()), ENDS_S)
    finally:
        await pager.kill()


async def test_a_message_that_is_none_ends_it(home: Path, frames: Path) -> None:
    spec = make_spec(home)
    pager = await Pager.start(spec, frames)
    try:
        stranger = await asyncio.create_subprocess_exec(
            *("python3", "-c"),
            "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.send(b'hello'); time.sleep(60)",
            str(spec.run_dir / SOCKET),
        )
        with pytest.raises(RestoreFailed):
            await asyncio.wait_for(pager.guard(asyncio.Event().wait()), ENDS_S)
        await asyncio.wait_for(stranger.wait(), ENDS_S)
    finally:
        await pager.kill()


async def test_one_that_cannot_be_started_says_so(
    home: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pager_module, "_PROGRAM", home / "nothing.py")
    pager = await Pager.start(make_spec(home), frames)
    try:
        with pytest.raises(NotSupported) as told:
            await asyncio.wait_for(pager.guard(asyncio.Event().wait()), ENDS_S)
        assert "nothing.py" in told.value.details
    finally:
        await pager.kill()


async def test_killing_it_is_idempotent_and_reaps(home: Path, frames: Path) -> None:
    pager = await Pager.start(make_spec(home), frames)
    for _ in range(2):
        await pager.kill()
    assert not Path(f"/proc/{pager.process.handle.pid}").exists()


async def test_it_is_found_by_its_folder(home: Path, frames: Path) -> None:
    spec = make_spec(home)
    assert await Pager.find(spec) is None, "a VM without one"
    pager = await Pager.start(spec, frames)
    found = await Pager.find(spec)
    assert found is not None
    assert found.process.handle.pid == pager.process.handle.pid
    await found.close()
    await pager.kill()
    with pytest.raises(VmGone):
        await Pager.find(spec)


# -- the working set -------------------------------------------------------------------------------


async def test_what_was_touched_first_is_recorded_and_brought_in_ahead(
    home: Path, frames: Path
) -> None:
    recorded = frames.with_name(RECORDED_FILE)
    async with served(home, frames, record_s=1.5) as (vmm, _):
        await vmm.ask(do="touch", parts=[[]])
        own_bytes_without_memory = vmm.own_bytes()
        await vmm.ask(do="touch", parts=[[9 * FRAME_BYTES, 3 * FRAME_BYTES]])
        await until(recorded.exists)
    assert json.loads(recorded.read_text()) == [9, 3]
    async with served(home, frames) as (vmm, pager):
        await vmm.ask(do="touch", parts=[[]])
        base = own_bytes_without_memory
        await until(lambda: vmm.own_bytes() >= base + FRAME_BYTES)
        # It needs nobody for these pages any more: a fault would now hang.
        vmm_pid, pager_pid = vmm.process.pid, pager.process.handle.pid
        os.kill(pager_pid, signal.SIGSTOP)
        try:
            assert await vmm.sum(9 * FRAME_BYTES, FRAME_BYTES) == sum_of(
                9 * FRAME_BYTES, FRAME_BYTES
            )
        finally:
            os.kill(pager_pid, signal.SIGCONT)
        assert Path(f"/proc/{vmm_pid}").exists()


@pytest.mark.parametrize("record", ["", "{", "[1, null]", "[99, -1, 2]", '"x"'])
async def test_a_damaged_record_costs_time_only(home: Path, frames: Path, record: str) -> None:
    frames.with_name(RECORDED_FILE).write_text(record)
    async with served(home, frames) as (vmm, _):
        assert await vmm.sum(0, REGIONS[0][0]) == sum_of(0, REGIONS[0][0])
