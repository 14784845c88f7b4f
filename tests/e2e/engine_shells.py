"""A user's shell beside a manager: ``warmboot``, ``docker`` with its plugins, Python's clients.

Nothing is pulled in a test: ``./with-images COMMAND…`` is there, which loads the images that the
folder has into the engine that ``DOCKER_HOST`` names, and goes on with the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tours import clean_environment
from tests.support.vms import Ran, Site, state_root

TIMEOUT_S = 600.0
"""For all commands of a page."""
_WITH_IMAGES = """#!/bin/sh
for image in "$(dirname "$0")"/*.tar; do docker load -q -i "$image" >&2; done
exec "$@"
"""


@dataclass
class Shell:
    """In ``folder``, with ``first`` said before every script."""

    site: Site
    folder: Path
    first: str = ""
    more: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, site: Site, folder: Path, images: dict[str, bytes], **more: str) -> Shell:
        """``images`` as ``docker save`` writes them, by the name of a file."""
        for name, content in images.items():
            (folder / f"{name}.tar").write_bytes(content)
        (folder / "with-images").write_text(_WITH_IMAGES)
        (folder / "with-images").chmod(0o755)
        config = folder / ".docker"
        config.mkdir()
        (config / "cli-plugins").symlink_to(state_root() / "docker-clients" / "cli-plugins")
        return cls(site, folder, more=more)

    @property
    def environment(self) -> dict[str, str]:
        plain = {k: v for k, v in clean_environment().items() if not k.startswith("DOCKER_")}
        ours = {"WARMBOOT_URL": self.site.url, "DOCKER_CONFIG": str(self.folder / ".docker")}
        return {**plain, "HOME": str(self.folder), **ours, **self.more}

    async def run(self, script: str, code: int = 0) -> str:
        """What it prints; it must exit with ``code``."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"set -e\n{self.first}\n{script}"),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, err = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        assert process.returncode is not None
        ran = Ran(process.returncode, out.decode(), err.decode())
        assert ran.code == code, f"{script}\n{ran.out}\n{ran.err}"
        return ran.out
