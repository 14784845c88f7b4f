"""The folders that the runtime and the manager share, one for each container.

The runtime notes where runc keeps a container's state; the manager leaves the order to resume it.
An order stands until the runtime has carried it out or it is withdrawn: whatever starts the
container in between resumes it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmboot.criu.runtime.program import CHECKED, NOTED, OPTIONS, RESUME, STATE
from warmboot.model.errors import HostError
from warmboot.system.files import write_atomically

ROOT = Path(STATE)
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Runc:
    """The ``program`` that runs a container, and its ``--root``, where it keeps the state of it."""

    program: Path
    root: Path


def runc_of(container_id: str, root: Path = ROOT) -> Runc | None:
    """The ``Runc`` that runs a container; ``None`` if the container does not run."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        kept, program = (root / container_id / NOTED).read_text().splitlines()
        return Runc(Path(program), Path(kept))
    return None


def images_to_resume(container_id: str, root: Path = ROOT) -> Path | None:
    """The folder of the checkpoint from which the container's next start has been ordered
    to resume.
    """
    lines = _lines_of(root / container_id / RESUME)
    return Path(lines[1]) if len(lines) > 1 else None


def give_options(container_id: str, options: Sequence[str], root: Path = ROOT) -> None:
    """CRIU's options for the container's next dump, a line each (``criu(8)``)."""
    _write(root / container_id, OPTIONS, options, durable=False)


def order(
    container_id: str,
    *,
    search_path: str,
    images: Path,
    work: Path,
    options: Sequence[str],
    root: Path = ROOT,
) -> None:
    """Have the container's next start be a restore from ``images``; replaces an earlier order.

    ``options`` are CRIU's for that.
    """
    # That of a manager that was killed after the runtime had begun to check it itself.
    (root / container_id / CHECKED).unlink(missing_ok=True)
    lines = (search_path, str(images), str(work), *options)
    if _lines_of(root / container_id / RESUME) != lines:
        _write(root / container_id, RESUME, lines, durable=True)


@contextlib.contextmanager
def sparing_check(container_id: str, root: Path = ROOT) -> Iterator[Callable[[], None]]:
    """What is given spares the runtime the check of an order's images at a start in this context,
    from when it is called on.
    """

    def spare() -> None:
        with contextlib.suppress(OSError):  # it is checked twice, then
            _write(root / container_id, CHECKED, ("it is",), durable=False)

    try:
        yield spare
    finally:
        (root / container_id / CHECKED).unlink(missing_ok=True)


def withdraw(container_id: str, root: Path = ROOT) -> None:
    """Have the next start be one from the beginning. Idempotent."""
    folder = root / container_id
    for name in (RESUME, CHECKED):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it runs, so something is noted; or it is not there
        folder.rmdir()


def forget(container_id: str, root: Path = ROOT) -> None:
    """Remove all that is kept of a container that is gone. Idempotent.

    The runtime removes what it has noted itself; a manager that was killed may have left more.
    """
    shutil.rmtree(root / container_id, ignore_errors=True)


def _lines_of(path: Path) -> tuple[str, ...]:
    with contextlib.suppress(FileNotFoundError):
        return tuple(path.read_text().splitlines())
    return ()


def _write(folder: Path, name: str, lines: Sequence[str], *, durable: bool) -> None:
    """The runtime removes an empty folder when the container has ended, perhaps just now."""
    for _ in range(ATTEMPTS):
        # ``mkdir`` says that it exists if it is removed while that is looked at.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = "".join(f"{line}\n" for line in lines)
            write_atomically(folder / name, text, mode=0o600, durable=durable)
            return
    raise HostError(f"{folder} is removed as often as it is made")
