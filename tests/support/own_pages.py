"""A process whose memory a test has written to, and paged out, as it likes."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from warmboot.hypervisors.memory.own_pages import PAGE, Ranges, own_ranges
from warmboot.system.programs import find_program

PAGES = 300

_PROCESS_MADVISE, _MADV_PAGEOUT = 440, 21


class Child:
    """A process that maps a file private, or memory of no file, and does as it is told."""

    _PROGRAM = """
import mmap, sys, ctypes
length = int(sys.argv[1])
for line in sys.stdin:
    what, *pages = line.split()
    if what == "map":
        if pages:
            with open(pages[0], "rb") as file:
                access = mmap.PROT_READ | mmap.PROT_WRITE
                memory = mmap.mmap(file.fileno(), length, mmap.MAP_PRIVATE, access)
        else:
            memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(15)  # MADV_NOHUGEPAGE
        print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
        continue
    for page in map(int, pages):
        if what == "read":
            memory[page * 4096]
        else:
            memory[page * 4096 + 7] = ord(what)
    print("done", flush=True)
"""

    def __init__(self, path: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self._PROGRAM, str(PAGES * PAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.map(path)

    def map(self, path: Path | None) -> None:
        """Map it anew: nothing has been written to then."""
        self.start = int(self._ask("map", *([] if path is None else [path])))

    def tell(self, what: str, pages: set[int]) -> None:
        assert self._ask(what, *sorted(pages)) == "done\n"

    def _ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def own(self) -> set[int]:
        ranges = own_ranges(self.pid, self.start, PAGES * PAGE)
        assert ranges == sorted(ranges)
        assert all(end < after for (_, end), (after, _) in itertools.pairwise(ranges))
        return pages_of(ranges)

    def end(self) -> None:
        with self._process as process:
            process.kill()


def pages_of(ranges: Ranges) -> set[int]:
    return {page for start, end in ranges for page in range(start // PAGE, end // PAGE)}


@contextlib.contextmanager
def swap_file(folder: Path) -> Iterator[None]:
    """Let this machine have a little swap space; root's only."""
    path = folder / "swap"
    path.touch(0o600)
    path.write_bytes(bytes(32 << 20))
    for name in ("mkswap", "swapon"):
        subprocess.run([find_program(name), path], check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([find_program("swapoff"), path], check=True)


def page_out(pid: int, start: int, length: int) -> None:
    """Have the kernel write a part of a process's memory to the swap space."""
    vector = (ctypes.c_size_t * 2)(start, length)
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        if libc.syscall(_PROCESS_MADVISE, pidfd, vector, 1, _MADV_PAGEOUT, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)


def swapped_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Swap:"))
