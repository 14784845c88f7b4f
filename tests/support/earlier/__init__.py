"""The first release's own sources, to leave behind what an upgrade finds.

``warmboot-first.tar.xz`` is ``src`` as it was at commit e11486e: a clone need not have its history.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

_SOURCES = Path(__file__).with_name("warmboot-first.tar.xz")


def first_release(folder: Path) -> Path:
    """Unpack it below ``folder``; the path that ``PYTHONPATH`` must have for it to run."""
    with tarfile.open(_SOURCES) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"
