"""The pages of a process's memory that are its own: what it has written to a private mapping.

    page table entry      in a private mapping of a file           in an anonymous mapping
    none                  as in the file                           zeros
    present, of a file    as in the file                           (does not occur)
    present, anonymous    written to: its own                      its own
    swapped out           written to: its own                      its own

The kernel says which by the ioctl PAGEMAP_SCAN (Linux 6.7, its admin-guide/mm/pagemap.rst), and
before that by one entry a page in ``/proc/PID/pagemap``. The process has to stand still, or the
answer is about several moments. It may be another user's for root only. Errors are ``OSError``.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PAGE = 4096

Ranges = list[tuple[int, int]]
"""Where pages are, as offsets (start, end) in bytes, in order and apart from each other."""


class Mapping(NamedTuple):
    """Addresses ``start`` to ``end`` of a process, which show a file from ``offset`` on."""

    start: int
    end: int
    offset: int


_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARGUMENT = struct.Struct("<12Q")  # struct pm_scan_arg
_REGION_BYTES = 24  # struct page_region
_REGIONS = 8192
_FILE, _PRESENT, _SWAPPED, _ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5

_ENTRY_BYTES = 8
_READ_BYTES = 8 << 20
# Of an entry's highest byte: present, swapped out, and a page of a file.
_HIGH_PRESENT, _HIGH_SWAPPED, _HIGH_FILE = 0x80, 0x40, 0x20
_IS_OWN = bytes(
    bool(high & (_HIGH_PRESENT | _HIGH_SWAPPED) and not high & _HIGH_FILE) for high in range(256)
)
_RUN = re.compile(b"\x01+")


def own_ranges(pid: int, start: int, length: int) -> Ranges:
    """The pages of its own between two addresses of a process, as offsets from ``start``.

    Half of it in another thread: the kernel looks at every page that is there, some ten million a
    second.
    """
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        middle = start + length // PAGE // 2 * PAGE
        with ThreadPoolExecutor(1) as other:
            above = other.submit(_own_ranges, pagemap, start, middle, start + length)
            return _joined([*_own_ranges(pagemap, start, start, middle), *above.result()])
    finally:
        os.close(pagemap)


def _own_ranges(pagemap: int, base: int, start: int, end: int) -> Ranges:
    try:
        return _scanned(pagemap, base, start, end)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return list(_looked_up(pagemap, base, start, end))


def own_ranges_of_file(pid: int, mappings: Iterable[Mapping]) -> Ranges:
    """The same of all mappings of a file, as offsets in the file."""
    found: Ranges = []
    for mapping in mappings:
        own, at = own_ranges(pid, mapping.start, mapping.end - mapping.start), mapping.offset
        found += [(start + at, end + at) for start, end in own] if at else own
    return _joined(sorted(found))


def private_mappings(pid: int) -> dict[str, list[Mapping]]:
    """A process's private mappings of files, by path; that of a removed file ends with
    `` (deleted)``."""
    found: dict[str, list[Mapping]] = {}
    with Path(f"/proc/{pid}/maps").open("rb") as maps:
        for line in maps:
            addresses, access, offset, _, _, *path = line.rstrip(b"\n").split(None, 5)
            if path and path[0].startswith(b"/") and access.endswith(b"p"):
                start, _, end = addresses.partition(b"-")
                mapping = Mapping(int(start, 16), int(end, 16), int(offset, 16))
                found.setdefault(os.fsdecode(path[0]), []).append(mapping)
    return found


def _scanned(pagemap: int, base: int, start: int, end: int) -> Ranges:
    regions = array("Q", bytes(_REGIONS * _REGION_BYTES))
    address, _ = regions.buffer_info()
    found: Ranges = []
    while start < end:
        argument = bytearray(
            _SCAN_ARGUMENT.pack(
                *(_SCAN_ARGUMENT.size, 0, start, end, 0, address, _REGIONS, 0),
                # Not of a file, and not the page of zeros, but present or swapped out.
                *(_FILE | _ZERO, _FILE | _ZERO, _PRESENT | _SWAPPED, _FILE),
            )
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument, True)
        numbers = regions[: count * 3]  # struct page_region: start, end, categories
        found += [
            (first - base, last - base)
            for first, last in zip(numbers[::3], numbers[1::3], strict=True)
        ]
        start = _SCAN_ARGUMENT.unpack(argument)[4]  # how far it got
    return found


def _looked_up(pagemap: int, base: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        wanted = min(_READ_BYTES, (end - at) // PAGE * _ENTRY_BYTES)
        entries = os.pread(pagemap, wanted, at // PAGE * _ENTRY_BYTES)
        if not entries:
            raise OSError(errno.ESRCH, "the process has no such memory any more")
        for run in _RUN.finditer(entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_IS_OWN)):
            yield at - base + run.start() * PAGE, at - base + run.end() * PAGE
        at += len(entries) // _ENTRY_BYTES * PAGE


def _joined(ranges: Ranges) -> Ranges:
    if all(end < start for (_, end), (start, _) in itertools.pairwise(ranges)):
        return ranges
    joined: Ranges = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined
