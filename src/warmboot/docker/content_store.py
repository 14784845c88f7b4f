"""Blobs of a container's previous dump in containerd's content store.

With every dump containerd writes the container's specification into its content store. That is the
same bytes each time, so while those of the dump before are still there, the new dump fails with
"content sha256:… already exists", and only after CRIU has killed the process: its memory is lost.
The engine has them collected after each dump, but seconds may pass until then. So a dump waits for
that, and asks containerd to collect at once where its own tool, ``ctr``, is there: whoever deletes
a lease may have the collector run before the answer. Which containerd it is stands in the command
line of the shim above the container's first process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from warmboot.model.errors import CheckpointError, HostError, NotSupported
from warmboot.system import procfs
from warmboot.system.programs import run_program

LOOK_EVERY_S = 0.02
GONE_TIMEOUT_S = 60.0
CTR_TIMEOUT_S = 10.0
NAMESPACE = "moby"
_SPECIFICATION_BYTES = range(256, 1 << 20)
_MARK = b'"ociVersion"'


async def until_forgotten(container_id: str, pid: int, stores: Sequence[Path]) -> None:
    """Wait until no store has the container's specification; ``CheckpointError`` if one keeps it.

    ``stores`` are the folders of blobs, ``pid`` is the container's first process. Nothing tells
    when a blob is collected, so they are looked at every few milliseconds; most often the first
    look is enough.
    """
    if not await asyncio.to_thread(_kept, container_id, stores):
        return
    await _collect(container_id, pid)
    try:
        async with asyncio.timeout(GONE_TIMEOUT_S):
            while await asyncio.to_thread(_kept, container_id, stores):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        raise CheckpointError(
            "containerd has not yet released the previous dump; the container keeps running",
            details=f"its content store kept the specification for {GONE_TIMEOUT_S:.0f} s, and "
            "another dump would fail after it has ended the process",
            resolution="try again in a moment; if this continues, restart the engine",
        ) from error


async def _collect(container_id: str, pid: int) -> None:
    """Ask containerd to collect now; without an effect where that cannot be done."""
    address = _containerd_of(container_id, pid)
    if address is None:
        return
    ctr = ["ctr", "--address", address, "--namespace", NAMESPACE, "leases"]
    lease = f"warmboot-{secrets.token_hex(8)}"
    with contextlib.suppress(HostError, NotSupported):
        for verb in (("create", "--id"), ("delete", "--sync")):
            await run_program(*ctr, *verb, lease, check=False, timeout_s=CTR_TIMEOUT_S)


def _containerd_of(container_id: str, pid: int, proc: Path = Path("/proc")) -> str | None:
    """The socket that the container's shim was told."""
    try:
        parent = procfs.stat_fields(proc / str(pid))[1]
        words = procfs.arguments(proc / parent)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if container_id not in words or "-address" not in words[:-1]:
        return None
    return words[words.index("-address") + 1]


def _kept(container_id: str, stores: Sequence[Path]) -> bool:
    wanted = container_id.encode()
    for store in stores:
        try:
            blobs = list(store.iterdir())
        except FileNotFoundError:
            continue
        for blob in blobs:
            try:
                if blob.stat().st_size not in _SPECIFICATION_BYTES:
                    continue
                content = blob.read_bytes()
            except FileNotFoundError:  # collected at this moment
                continue
            # A small dump names its container, too, but is no two times the same.
            if wanted in content and _MARK in content:
                return True
    return False
