"""Snapshot memory as frames: what goes in comes out, and whatever is not whole is found."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmboot.host.snapshots.memory_frames import pack, unpack
from warmboot.hypervisors.memory.frames import (
    FRAME_BYTES,
    PAGE,
    Frames,
    frame_count,
    mask_of,
    runs_of,
)
from warmboot.model.errors import DiskFull, HostError, SnapshotDamaged
from warmboot.model.runtime_image import FileSum
from warmboot.system.concurrency import Stopped

NEVER = threading.Event()

few = settings(max_examples=40, deadline=None)

# A piece of memory: where it begins, in bytes, and what stands there. All else is a hole.
places = st.integers(0, 3 * FRAME_BYTES + 5000) | st.sampled_from(
    [0, PAGE - 1, PAGE, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES - PAGE]
)
contents = st.binary(min_size=1, max_size=40) | st.tuples(
    st.binary(min_size=1, max_size=3), st.integers(1, 3 * PAGE)
).map(lambda pair: pair[0] * pair[1])
memories = st.tuples(
    st.lists(st.tuples(places, contents), max_size=8),
    st.integers(0, 4 * FRAME_BYTES),
)


def write_memory(path: Path, memory: tuple[list[tuple[int, bytes]], int]) -> bytes:
    """A sparse file with those pieces; its content."""
    pieces, size = memory
    size = max([size, *(start + len(content) for start, content in pieces)])
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
        for start, content in pieces:
            file.seek(start)
            file.write(content)
    return path.read_bytes()


def sum_of(content: bytes) -> FileSum:
    return FileSum(len(content), hashlib.sha256(content).hexdigest())


def packed(folder: Path, content: bytes) -> Path:
    plain, target = folder / "snapshot.mem", folder / "snapshot.mem.zst"
    plain.write_bytes(content)
    target.unlink(missing_ok=True)
    pack(plain, target, sum_of(content), NEVER)
    return target


SAMPLE = b"".join(
    (
        b"kernel" * 20_000,
        bytes(3 * FRAME_BYTES),
        os.urandom(3 * PAGE),
        bytes(PAGE),
        b"z" * 5000,
    )
)


@few
@given(memories)
def test_any_memory_comes_back(tmp_path: Path, memory: tuple[list[tuple[int, bytes]], int]) -> None:
    plain, frames, again = (tmp_path / name for name in ("plain", "frames", "again"))
    content = write_memory(plain, memory)
    for path in (frames, again):
        path.unlink(missing_ok=True)
    result = pack(plain, frames, sum_of(content), NEVER)
    assert result.nonzero_bytes == len(content) - content.count(0)
    unpack(frames, again, NEVER, sync=True)
    assert again.read_bytes() == content


@few
@given(memories)
def test_each_frame_is_read_as_from_the_plain_file(
    tmp_path: Path, memory: tuple[list[tuple[int, bytes]], int]
) -> None:
    content = write_memory(tmp_path / "plain", memory)
    with Frames(packed(tmp_path, content)) as frames:
        assert frames.plain_bytes == len(content)
        for number in range(frame_count(len(content))):
            start = number * FRAME_BYTES
            assert frames.read(number) == content[start : start + FRAME_BYTES]


@few
@given(st.data())
def test_any_flipped_bit_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = packed(tmp_path, SAMPLE)
    stored = bytearray(path.read_bytes())
    at = data.draw(
        st.integers(0, len(stored) - 1) | st.integers(len(stored) - 600, len(stored) - 1)
    )
    stored[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(stored)
    with pytest.raises(SnapshotDamaged) as found:
        unpack(path, tmp_path / "again", NEVER, sync=False)
    assert "rebuild" in found.value.resolution
    assert not (tmp_path / "again").exists()


@few
@given(st.data())
def test_a_truncated_or_longer_file_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = packed(tmp_path, SAMPLE)
    stored = path.read_bytes()
    cut = stored[: data.draw(st.integers(0, len(stored) - 1))]
    path.write_bytes(data.draw(st.sampled_from([cut, stored + b"\0", stored + stored[-40:]])))
    with pytest.raises(SnapshotDamaged):
        Frames(path)


@few
@given(st.binary(max_size=300))
def test_any_other_file_is_not_taken_for_frames(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(SnapshotDamaged):
        Frames(tmp_path / "other")


@given(st.integers(0, 2**300))
def test_runs_are_the_set_bits(mask: int) -> None:
    pages = [page for start, end in runs_of(mask) for page in range(start // PAGE, end // PAGE)]
    assert pages == [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


@given(st.lists(st.sampled_from([bytes(PAGE), b"x" * PAGE, b"\0y" + bytes(PAGE - 2)]), max_size=9))
def test_a_mask_has_a_bit_for_every_page_that_is_not_zero(pages: list[bytes]) -> None:
    assert mask_of(b"".join(pages)) == sum(any(page) << at for at, page in enumerate(pages))


def test_the_stock_tool_gives_the_plain_file_back(tmp_path: Path) -> None:
    path = packed(tmp_path, SAMPLE)
    given_back = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True)
    assert given_back.stdout == SAMPLE


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = packed(tmp_path, bytes(64 * FRAME_BYTES) + b"end")
    assert path.stat().st_size < 32_768
    unpack(path, tmp_path / "again", NEVER, sync=True)
    assert (tmp_path / "again").stat().st_blocks * 512 < 65_536
    assert frame_count(64 * FRAME_BYTES + 3) == 65


def test_memory_that_is_not_what_it_was_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(SAMPLE)
    for expected in (sum_of(SAMPLE + b"x"), FileSum(len(SAMPLE), "00")):
        with pytest.raises(SnapshotDamaged):
            pack(tmp_path / "plain", tmp_path / "frames", expected, NEVER)
        assert not (tmp_path / "frames").exists()
    with pytest.raises(SnapshotDamaged):
        pack(tmp_path / "nothing", tmp_path / "frames", sum_of(b""), NEVER)


@contextmanager
def failing_write(number: int, code: int) -> Iterator[None]:
    calls, real, patch = 0, os.pwrite, pytest.MonkeyPatch()

    def pwrite(file: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return real(file, data, offset)

    patch.setattr(os, "pwrite", pwrite)
    try:
        yield
    finally:
        patch.undo()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, HostError)]
)
def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, number: int, code: int, error: type[HostError]
) -> None:
    plain, frames = tmp_path / "snapshot.mem", packed(tmp_path, SAMPLE)
    with failing_write(number, code), pytest.raises(error):
        unpack(frames, tmp_path / "again", NEVER, sync=True)
    with failing_write(number, code), pytest.raises(error):
        pack(plain, tmp_path / "more", sum_of(SAMPLE), NEVER)
    assert {path.name for path in tmp_path.iterdir()} == {plain.name, frames.name}


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    frames = packed(tmp_path, SAMPLE)
    with pytest.raises(Stopped):
        unpack(frames, tmp_path / "again", stopped, sync=True)
    with pytest.raises(Stopped):
        pack(tmp_path / "snapshot.mem", tmp_path / "more", sum_of(SAMPLE), stopped)
    assert len(list(tmp_path.iterdir())) == 2
