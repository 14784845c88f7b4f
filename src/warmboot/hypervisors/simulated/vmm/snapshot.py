"""How a simulated machine lies on disk, and how damage to it is found.

``snapshot.mem``: a magic line, the SHA-256 of what follows, the RAM as JSON, and spaces to the end
of the last page. ``snapshot.state``: a
JSON object with the version and shape that it needs, the guest's clock and the memory's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"warmboot simulated memory 1\n"
PAGE = 4096


class SnapshotUnusable(Exception):
    """A file is missing, damaged or of another snapshot. The text says which and how."""


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """``clock_s`` is the guest's uptime; ``shape`` is (vCPUs, MiB)."""

    version: str
    shape: tuple[int, int]
    clock_s: float
    ram: dict[str, Any]
    mapped: mmap.mmap | None = None
    """The file that it was read from, mapped as long as the VM lives."""


def write(machine: SavedMachine, memory: Path, state: Path) -> None:
    """Write both files; on failure neither is left."""
    ram = json.dumps(machine.ram).encode()
    ram += b" " * (-(len(MAGIC) + 2 * hashlib.sha256().digest_size + 1 + len(ram)) % PAGE)
    sha256 = hashlib.sha256(ram).hexdigest()
    about = {
        "version": machine.version,
        "shape": machine.shape,
        "clock_s": machine.clock_s,
        "memory_sha256": sha256,
    }
    text = json.dumps(about)
    try:
        memory.write_bytes(MAGIC + sha256.encode() + b"\n" + ram)
        state.write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")
    except OSError:
        memory.unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        raise


def differing(now: bytes, before: mmap.mmap) -> list[tuple[int, int]]:
    """The pages, as offsets (start, end), in which one memory is not the other."""
    found: list[tuple[int, int]] = []
    for at in range(0, len(now), PAGE):
        if now[at : at + PAGE] != before[at : at + PAGE]:
            start = found.pop()[0] if found and found[-1][1] == at else at
            found.append((start, at + PAGE))
    return found


def read(memory: Path, state: Path, *, version: str, shape: tuple[int, int]) -> SavedMachine:
    """Read both files and check them, or raise ``SnapshotUnusable``."""
    about = _read_state(state)
    if about["version"] != version:
        raise SnapshotUnusable(
            f"the snapshot was saved by version {about['version']}, this is version {version}"
        )
    if tuple(about["shape"]) != shape:
        raise SnapshotUnusable(f"the snapshot's shape is {about['shape']}, not {list(shape)}")
    try:
        with memory.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:  # the latter for an empty file
        raise SnapshotUnusable(f"{memory} cannot be read: {error}") from error
    content = mapped[:]
    magic, _, rest = content.partition(b"\n")
    sha256, _, ram = rest.partition(b"\n")
    if magic + b"\n" != MAGIC or hashlib.sha256(ram).hexdigest().encode() != sha256:
        raise SnapshotUnusable(f"{memory} is damaged")
    if sha256.decode() != about["memory_sha256"]:
        raise SnapshotUnusable(f"{memory} does not belong to {state}")
    return SavedMachine(version, shape, float(about["clock_s"]), json.loads(ram), mapped)


def _read_state(state: Path) -> dict[str, Any]:
    try:
        content = state.read_bytes()
    except OSError as error:
        raise SnapshotUnusable(f"{state} cannot be read: {error}") from error
    text, _, sha256 = content.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() + b"\n" != sha256:
        raise SnapshotUnusable(f"{state} is damaged")
    about: dict[str, Any] = json.loads(text)
    return about
