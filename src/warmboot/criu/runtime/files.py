"""A checkpoint's files: what the container has written into its own layer, as it was at the dump.

CRIU runs a script of ours when the memory is written and the processes still stand still; that
copies the layer. A copy that fails makes the dump fail, and the processes run on.

They are put back, while the container is stopped, by exchanging two folders at once. That is left
out when nothing can have changed: the container has not been started since its pause.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
from pathlib import Path

from warmboot.criu.in_progress import HANGS_AFTER_S
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.orders import ROOT
from warmboot.criu.runtime.sums import check_unless_it_hangs
from warmboot.model.errors import HostError
from warmboot.system.files import write_atomically
from warmboot.system.programs import run_program

SCRIPT = "keep-files"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_COPY = ("cp", "--archive", "--reflink=auto", "--sparse=auto", "--no-target-directory")


def write_script(
    container_id: str, layer: Path | None, making: CheckpointFolder, note: str = ""
) -> Path:
    """What CRIU runs to copy ``layer``, after the command ``note``; where it is."""
    path = ROOT / container_id / SCRIPT
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0\n{note}\n'
    if layer is not None:
        copy = shlex.join([*_COPY, str(layer), str(making.files)])
        done = shlex.join(["rm", str(making.lacks_files)])
        text += f"{copy} && exec {done}\n"
        making.lacks_files.touch()
    write_atomically(path, text, mode=0o700, durable=False)
    return path


def remove_script(container_id: str) -> None:
    (ROOT / container_id / SCRIPT).unlink(missing_ok=True)


def forget_copy(layer: Path) -> None:
    """Remove what a killed manager has left beside a container's ``layer``. Idempotent."""
    shutil.rmtree(_new(layer), ignore_errors=True)


async def put_back(
    folder: CheckpointFolder,
    layer: Path,
    started_at: str,
    hangs_after_s: float = HANGS_AFTER_S,
) -> bool:
    """Have the checkpoint's files in the stopped container's ``layer``; whether it took a copy.

    ``started_at`` is when the container was started last. After a crash in between ``layer`` has
    the old files or those of the checkpoint. ``HostError``.
    """
    if not differs(folder, started_at):
        return False
    await check_unless_it_hangs(folder.path, folder.files, hangs_after_s)
    new = _new(layer)
    shutil.rmtree(new, ignore_errors=True)
    try:
        await run_program(*_COPY, folder.files, new)
        # From now on they may be those of no pause, whatever becomes of this and of the start.
        write_atomically(folder.files_put_back, f"{folder.path.name}\n")
        _exchange(new, layer)
    except OSError as error:
        raise HostError(
            "the files of the checkpoint could not be put back",
            details=str(error),
            resolution="check that the disk has free space and is not mounted read-only, then "
            "resume the worker again",
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


def differs(folder: CheckpointFolder, started_at: str) -> bool:
    """Whether the files of the stopped container may be others than the checkpoint's."""
    return folder.files.is_dir() and not _unchanged(folder, started_at)


def _new(layer: Path) -> Path:
    return layer.with_name(f"{layer.name}.warmboot-new")


def _unchanged(folder: CheckpointFolder, started_at: str) -> bool:
    return folder.paused_at_start() == started_at and not folder.files_put_back.exists()


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
