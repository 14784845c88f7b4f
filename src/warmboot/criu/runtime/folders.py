"""Checkpoints in folders of our own: each appears whole or not at all.

ROOT/<worker>/<name>/memory/     CRIU's images
                    /files/      what the worker has written into its own layer
                    /sums.json   of both
                    /dump.log    what CRIU said
                    /paused      when the container was started last; not if it ran on
                    /lacks-files until its files are all there
                    /own-network if it is not on the host's
                    /boot-id     of the machine that made it: what is only in memory is gone then
                    /held        the files in mounts that it had open, see ``held_files``
ROOT/<worker>/.<name>.making/    while it is being made
ROOT/<worker>/.restore/          CRIU's log of the last restore
ROOT/<worker>/.files             files of a checkpoint were put back since the last dump
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.runtime.sums import SUMS, make_sums, regular_files
from warmboot.system import procfs
from warmboot.system.files import sync

RESTORE_WORK, PUT_BACK, PAUSED, LACKS_FILES = ".restore", ".files", "paused", "lacks-files"
MAKING, GONE, BOOT_ID, HELD = ".making", ".gone", "boot-id", "held"
OWN_NETWORK = "own-network"
_libc, _MNT_DETACH = ctypes.CDLL(None, use_errno=True), 2
_ESCAPED = re.compile(rb"\\([0-7]{3})")
"""A blank, a tab, a line feed or a backslash in a table of mounts (proc(5))."""

SYNCS_AT_ONCE = 8
"""The file system writes down the syncs of several files together."""

LITTLE_BYTES = 32 << 20
"""If all that this machine has not yet written is so little, one sync of the disk takes less."""


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    path: Path

    @property
    def memory(self) -> Path:
        return self.path / "memory"

    @property
    def files(self) -> Path:
        return self.path / "files"

    @property
    def lacks_files(self) -> Path:
        """There as long as ``files`` is to be made, and is not whole."""
        return self.path / LACKS_FILES

    @property
    def held(self) -> Path:
        """What is noted of the files in mounts that the worker had open."""
        return self.path / HELD

    @property
    def files_put_back(self) -> Path:
        """There since files were put back, until the next dump."""
        return self.path.with_name(PUT_BACK)

    @property
    def making(self) -> CheckpointFolder:
        """The temporary folder in which the checkpoint is made."""
        return CheckpointFolder(self.path.with_name(f".{self.path.name}{MAKING}"))

    @property
    def restore_work(self) -> Path:
        return self.path.with_name(RESTORE_WORK)

    def begin(self) -> CheckpointFolder:
        """An empty folder to make it in, whatever an interrupted attempt has left."""
        making = self.making
        clear(making.path)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        making.memory.mkdir(mode=0o700, parents=True)
        (making.path / BOOT_ID).write_text(_boot_id())
        return making

    def is_of_this_boot(self) -> bool:
        """Else what was written to it may be lost, wholly or in part, if it was not published."""
        try:
            return (self.path / BOOT_ID).read_text() == _boot_id()
        except FileNotFoundError:  # of an earlier version
            return True

    def note_pause(self, started_at: str) -> None:
        """The container, started at ``started_at``, is stopped after this dump."""
        (self.path / PAUSED).write_text(started_at)

    def note_own_network(self) -> None:
        """The container has a network of its own, in which it may get another address."""
        (self.path / OWN_NETWORK).touch()

    def has_own_network(self) -> bool:
        return (self.path / OWN_NETWORK).exists()

    def paused_at_start(self) -> str:
        """What was noted; empty when the container ran on."""
        try:
            return (self.path / PAUSED).read_text()
        except FileNotFoundError:
            return ""

    def publish(self) -> None:
        """What was made is the checkpoint from now on, also after a power failure."""
        making = self.making.path
        if _unwritten_bytes() <= LITTLE_BYTES:
            make_sums(making, self.making.memory, self.making.files)
            _sync_all_of_disk(making)
        else:
            with ThreadPoolExecutor(SYNCS_AT_ONCE, "sync") as threads:
                begun = threads.map(_sync, list(_all_in(making)))
                make_sums(making, self.making.memory, self.making.files)  # meanwhile
                for _ in (*begun, *map(_sync, (making / SUMS, making))):
                    pass
        making.rename(self.path)
        self.files_put_back.unlink(missing_ok=True)
        sync(self.path.parent)

    def remove(self) -> None:
        """Remove it, and what an attempt to make it has left. Idempotent."""
        clear(self.making.path)
        if self.path.exists():
            gone = self.path.with_name(f".{self.path.name}{GONE}")
            shutil.rmtree(gone, ignore_errors=True)
            self.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def clear(folder: Path) -> None:
    """Remove it. A CRIU that was killed leaves mounts of cgroups in the folder that it works in."""
    inside = os.fsencode(folder.resolve()) + b"/"
    for line in reversed(procfs.lines(Path("/proc/self/mountinfo"))):
        mounted = _ESCAPED.sub(_meant, os.fsencode(line.split(" ")[4]))
        if mounted.startswith(inside):
            _libc.umount2(mounted, _MNT_DETACH)
    shutil.rmtree(folder, ignore_errors=True)


def _meant(escaped: re.Match[bytes]) -> bytes:
    return bytes((int(escaped[1], 8),))


def _all_in(top: Path) -> Iterator[Path]:
    """Its folders and regular files."""
    yield from (path for path, _ in regular_files(top))
    yield from (Path(folder) for folder, _, _ in os.walk(top))


def _unwritten_bytes() -> int:
    """Of all files, on all disks: what is to be written, and is being written."""
    found = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value, *_ = line.split()
        if name in ("Dirty:", "Writeback:"):
            found += int(value) * 1024
    return found


def _sync_all_of_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
