"""A base and a difference are the memory, in either form, and whatever is not whole is found."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.differences import write_difference
from tests.support.snapshots import flip

from warmboot.host.snapshots.memory_differences import StoredFile, lay_over, merge_differences
from warmboot.host.snapshots.memory_frames import pack
from warmboot.hypervisors.memory.difference import Difference, pieces, write
from warmboot.hypervisors.memory.own_pages import PAGE, Ranges
from warmboot.model.errors import SnapshotDamaged
from warmboot.model.runtime_image import FileSum
from warmboot.system.concurrency import Stopped

NEVER = threading.Event()

few = settings(max_examples=60, deadline=None)

contents = st.integers(0, 3)
"""What a page is filled with: 0 is the page of zeros, which may be a page of its own, too."""
memories = st.lists(contents, min_size=1, max_size=24)


def memory_of(pages: list[int]) -> bytes:
    return b"".join(bytes([page]) * PAGE for page in pages)


def own_of(base: bytes, memory: bytes, touched: frozenset[int] = frozenset()) -> Ranges:
    """The pages that differ, and those that were written to with what they had."""
    ranges: Ranges = []
    base = base[: len(memory)].ljust(len(memory), b"\0")
    for at in range(0, len(memory), PAGE):
        if memory[at : at + PAGE] != base[at : at + PAGE] or at // PAGE in touched:
            start = ranges.pop()[0] if ranges and ranges[-1][1] == at else at
            ranges.append((start, at + PAGE))
    return ranges


def sum_of(path: Path) -> FileSum:
    content = path.read_bytes()
    return FileSum(len(content), hashlib.sha256(content).hexdigest())


class Files:
    """Makes files with new names below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def new(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}-{os.urandom(4).hex()}"

    def difference(self, memory: bytes, ranges: Ranges) -> Path:
        return write_difference(self.new(), memory, ranges)

    def packed(self, path: Path) -> Path:
        target = self.new()
        pack(path, target, sum_of(path), NEVER)
        return target

    def stored(self, path: Path, compressed: bool) -> StoredFile:
        path = self.packed(path) if compressed else path
        return StoredFile(path, compressed, sum_of(path))

    def laid(self, base: StoredFile | None, upper: StoredFile) -> bytes:
        target = self.new()
        lay_over(base, upper, target, NEVER)
        return target.read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@few
@given(
    base=memories | st.none(),
    memory=memories,
    touched=st.frozensets(st.integers(0, 23)),
    base_packed=st.booleans(),
    packed=st.booleans(),
)
def test_a_base_and_a_difference_are_the_memory(
    files: Files,
    base: list[int] | None,
    memory: list[int],
    touched: frozenset[int],
    base_packed: bool,
    packed: bool,
) -> None:
    below, wanted = memory_of(base or []), memory_of(memory)
    lower = None
    if base is not None:
        path = files.new()
        path.write_bytes(below)
        lower = files.stored(path, base_packed)
    ranges = own_of(below, wanted, touched)
    difference = files.difference(wanted, ranges)
    with Difference(difference) as read:
        assert read.index.ranges == ranges
        assert read.index.own_bytes == sum(end - start for start, end in ranges)
    assert files.laid(lower, files.stored(difference, packed)) == wanted


@few
@given(states=st.lists(memories, min_size=3, max_size=5), packed=st.booleans())
def test_differences_merge_into_one(files: Files, states: list[list[int]], packed: bool) -> None:
    base, *later = map(memory_of, states)
    path = files.new()
    path.write_bytes(base)
    below = base
    whole: Path | None = None
    for memory in later:
        upper = files.difference(memory, own_of(below, memory))
        if whole is None:
            whole = upper
        else:
            target = files.new()
            merge_differences(files.stored(whole, packed), files.stored(upper, packed), target)
            whole = target
        below = memory
        assert files.laid(StoredFile(path), StoredFile(whole)) == memory


def test_long_ranges_are_read_and_written_in_pieces(files: Files) -> None:
    memory = os.urandom(5 << 20)
    ranges = [(PAGE, 3 * PAGE), (6 * PAGE, (4 << 20) + PAGE), ((5 << 20) - PAGE, 5 << 20)]
    wanted = bytearray(len(memory))
    for start, end in ranges:
        wanted[start:end] = memory[start:end]
    assert max(end - start for start, end in pieces(ranges)) == 1 << 20
    difference = files.difference(memory, ranges)
    for packed in (False, True):
        assert files.laid(None, files.stored(difference, packed)) == wanted


def test_a_difference_of_nothing_is_the_base(files: Files) -> None:
    base = files.new()
    base.write_bytes(memory_of([1, 2]))
    difference = files.difference(memory_of([1, 2]), [])
    assert files.laid(StoredFile(base), StoredFile(difference)) == base.read_bytes()


@few
@given(data=st.data(), packed=st.booleans())
def test_a_flipped_byte_is_found_wherever_it_is(
    files: Files, data: st.DataObject, packed: bool
) -> None:
    memory = memory_of([1, 2, 0, 3])
    upper = files.stored(files.difference(memory, own_of(b"", memory)), packed)
    flip(upper.path, data.draw(st.integers(0, upper.path.stat().st_size - 1)))
    target = files.new()
    with pytest.raises(SnapshotDamaged) as told:
        lay_over(None, upper, target, NEVER)
    assert told.value.resolution
    assert not target.exists()


@few
@given(at=st.integers(0, 4095), length=st.integers(0, 3 * PAGE))
def test_a_damaged_index_is_found_without_the_files_sum(files: Files, at: int, length: int) -> None:
    memory = memory_of([1, 2])
    used = 32 + 8 + 32  # what follows is the padding
    flipped = files.difference(memory, [(0, 2 * PAGE)])
    flip(flipped, at % used)
    short = files.difference(memory, [(0, 2 * PAGE)])
    os.truncate(short, min(length, short.stat().st_size - 1))
    for path in (flipped, short):
        with pytest.raises(SnapshotDamaged):
            Difference(path)


def test_what_is_stopped_leaves_no_file(files: Files) -> None:
    difference = files.difference(memory_of([1]), [(0, PAGE)])
    stop = threading.Event()
    stop.set()
    target = files.new()
    with pytest.raises(Stopped):
        lay_over(None, StoredFile(difference), target, stop)
    assert not target.exists()


def test_a_difference_that_could_not_be_read_leaves_no_file(files: Files) -> None:
    def fill(buffer: memoryview, some: Ranges) -> None:
        raise OSError("the process is no more")

    path = files.new()
    with pytest.raises(OSError, match="no more"):
        write(path, PAGE, [(0, PAGE)], fill)
    assert not path.exists()
