"""The guest agent as files: the one that is shipped here, and the one inside an image."""

from __future__ import annotations

import re
from pathlib import Path

from warmboot import guest
from warmboot.system.programs import run_program

SHIPPED = Path(guest.__file__).parent
"""The agent that comes with this warmboot."""

FOLDER = "/usr/lib/warmboot/guest"
"""Where it lies in an image."""

_VERSION = re.compile(r'^AGENT_VERSION = "([^"\n]+)"$', re.MULTILINE)


async def agent_version_in(rootfs: Path) -> str | None:
    """The protocol of the agent in an ext4 file system; ``None`` where there is none of ours."""
    shown = await run_program("debugfs", "-R", f"cat {FOLDER}/__init__.py", rootfs)
    return _version(shown.output)


def agent_version_of(package: Path) -> str:
    """The protocol of the agent in a folder."""
    version = _version((package / "__init__.py").read_text())
    assert version is not None, f"{package} says no version"
    return version


def _version(text: str) -> str | None:
    found = _VERSION.search(text)
    return None if found is None else found[1]
