"""CRIU's cache of what this kernel can do, for machines on which CRIU keeps none.

At each start CRIU asks the kernel some hundred questions, which takes longer than to dump or
restore a small worker's memory. It keeps the answers in /run/criu.kdat, but on a tmpfs only, since
they must not outlive the kernel. Where /run is on a disk (no systemd, a container) it asks anew at
every dump and every restore.

There they are kept here, by the id of this boot, and runc is started in a mount namespace that has
them in CRIU's place. CRIU itself sees whether they are those of its own version; if not, it asks.
Where the mount below /run is shared with other namespaces nothing is kept: what is mounted for runc
would be seen by all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import structlog

from warmboot.criu.binary import find_criu
from warmboot.model.errors import WarmbootError
from warmboot.system import procfs
from warmboot.system.programs import run_program

log = structlog.get_logger(__name__)

KERNDAT = "/run/warmboot/criu.kdat-"
"""And the boot's id."""

SHOW_KERNDAT = (
    "sh",
    "-c",
    '{ true >> /run/criu.kdat; mount --bind "$0" /run/criu.kdat; } 2> /dev/null; exec "$@"',
)
"""What runs a command that finds it where CRIU looks for it, or does without if that fails."""

RUN = Path("/run")
ASK_TIMEOUT_S = 60.0
_MOUNTS, _BOOT_ID = Path("/proc/self/mountinfo"), Path("/proc/sys/kernel/random/boot_id")
_ASK = (
    'exec 3> "$1" && mount -t tmpfs tmpfs /run && '
    '{ "$0" check --feature mem_dirty_track; cat /run/criu.kdat >&3; }'
)
"""Any feature: CRIU finds out all about the kernel first, and writes that down. 0: CRIU."""


def with_kerndat(*command: str | Path) -> tuple[str | Path, ...]:
    """What starts ``command``, by which CRIU is started, with what is kept for it."""
    kept = _kept()
    if not kept.is_file():
        return command
    return ("unshare", "--mount", "--propagation", "unchanged", *SHOW_KERNDAT, kept, *command)


async def keep_kerndat(search_path: str) -> None:
    """Keep the answers for the CRIU on ``search_path``, if it does not do so itself. Idempotent.

    Without them everything works, but takes longer.
    """
    kept = _kept()
    if kept.is_file() or not await asyncio.to_thread(is_lost, RUN):
        return
    criu = find_criu(search_path)
    if criu is None:
        return
    new = kept.with_name(f".{kept.name}.{os.getpid()}")
    words = ("--mount", "--propagation", "private", "sh", "-c", _ASK, criu, new)
    try:
        kept.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        await run_program("unshare", *words, timeout_s=ASK_TIMEOUT_S)
        for earlier in kept.parent.glob(f"{Path(KERNDAT).name}*"):  # of another boot
            earlier.unlink(missing_ok=True)
        new.replace(kept)
    except (OSError, WarmbootError) as error:
        log.info("CRIU's cache of what the kernel can do could not be kept", why=str(error))
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def is_lost(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether CRIU keeps nothing in ``folder``, and what is mounted there can be hidden."""
    depth, lost = 0, False
    for line in procfs.lines(mounts):
        words = line.split(" ")
        place, optional = Path(words[4]), words[6 : words.index("-")]
        # What is seen is the deepest mount, and of several at one place the last.
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            shared = any(one.startswith("shared:") for one in optional)
            depth, lost = len(place.parts), words[words.index("-") + 1] != "tmpfs" and not shared
    return lost


def _kept() -> Path:
    return Path(KERNDAT + _BOOT_ID.read_text().strip())
