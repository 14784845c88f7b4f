"""Which pages of a mapping a process has written to, asked of this machine's kernel."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.eventually import until
from tests.support.own_pages import PAGES, Child, page_out, pages_of, swap_file, swapped_bytes

from warmboot.hypervisors.memory import own_pages
from warmboot.hypervisors.memory.own_pages import (
    PAGE,
    own_ranges,
    own_ranges_of_file,
    private_mappings,
)

few = settings(max_examples=40, deadline=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(b"".join(bytes([page % 251]) * PAGE for page in range(PAGES)))
    return path


@pytest.fixture(params=["the ioctl", "the table"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the ioctl, and as a kernel without it answers."""
    real = fcntl.ioctl
    pagemap = Path("/proc/self/pagemap").open("rb")  # noqa: SIM115 - closed below
    with pagemap:
        try:
            real(pagemap, 0xC0606610, bytearray(96))
        except OSError as error:
            if request.param == "the ioctl" and error.errno == errno.ENOTTY:
                pytest.skip("Linux before 6.7")

    def refuse(fd: int, request: int, *rest: Any) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    if request.param == "the table":
        monkeypatch.setattr(fcntl, "ioctl", refuse)
    name: str = request.param
    return name


@pytest.fixture
def child(file: Path) -> Iterator[Child]:
    child = Child(file)
    yield child
    child.end()


some_pages = st.sets(st.integers(0, PAGES - 1), max_size=60)


@few
@given(rounds=st.lists(st.tuples(some_pages, some_pages), min_size=1, max_size=3))
def test_pages_that_were_written_are_own_and_pages_that_were_read_are_not(
    child: Child, file: Path, kernel: str, rounds: list[tuple[set[int], set[int]]]
) -> None:
    child.map(file)
    written: set[int] = set()
    for read, write in rounds:
        child.tell("read", read)
        child.tell("w", write)
        written |= write
        assert child.own() == written


def test_what_the_file_had_counts_as_own_once_it_is_written(child: Child, kernel: str) -> None:
    child.tell(chr(5), {5})  # page 5 has nothing but fives
    assert child.own() == {5}


def test_memory_of_no_file_is_own_where_it_was_written(child: Child, kernel: str) -> None:
    child.map(None)
    child.tell("w", {3, 4, 299})
    assert child.own() == {3, 4, 299}


def test_more_ranges_than_one_answer_holds(
    child: Child, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_pages, "_REGIONS", 7)
    monkeypatch.setattr(own_pages, "_READ_BYTES", 8 * 11)
    written = set(range(0, PAGES, 3)) | {1, 2, 3, 298}
    child.tell("w", written)
    assert child.own() == written


def test_a_file_is_found_by_its_path_even_when_it_was_removed(
    child: Child, file: Path, kernel: str
) -> None:
    child.tell("w", {1, 2, 200})
    (mapping,) = private_mappings(child.pid)[str(file)]
    assert mapping == (child.start, child.start + PAGES * PAGE, 0)
    file.unlink()
    found = private_mappings(child.pid)[f"{file} (deleted)"]
    assert pages_of(own_ranges_of_file(child.pid, found)) == {1, 2, 200}


def test_offsets_are_those_in_the_file(file: Path, kernel: str) -> None:
    with file.open("rb") as opened:
        half = PAGES // 2 * PAGE
        parts = [
            mmap.mmap(opened.fileno(), half, mmap.MAP_PRIVATE, offset=offset)
            for offset in (half, 0)
        ]
        parts[0][0] = parts[1][half - 1] = 255
        for part in parts:
            address = ctypes.addressof(ctypes.c_char.from_buffer(part))
            assert address % PAGE == 0
        found = private_mappings(os.getpid())[str(file)]
        assert own_ranges_of_file(os.getpid(), found) == [(half - PAGE, half + PAGE)]


def test_a_process_that_is_gone_is_an_error(child: Child, kernel: str) -> None:
    child.end()
    with pytest.raises(OSError, match="No such"):
        own_ranges(child.pid, child.start, PAGES * PAGE)


@pytest.mark.root
async def test_pages_that_were_swapped_out_are_own(
    child: Child, kernel: str, tmp_path: Path
) -> None:
    written = set(range(40, 140)) | {7, 299}
    child.tell("read", set(range(PAGES)))
    child.tell("w", written)

    def swapped() -> bool:  # the kernel passes over a page that has only just come into use
        page_out(child.pid, child.start, PAGES * PAGE)
        return swapped_bytes(child.pid) >= 90 * PAGE

    with swap_file(tmp_path):
        await until(swapped, "pages are swapped out")
        child.tell("w", {200})
        assert child.own() == written | {200}
