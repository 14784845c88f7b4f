"""A container that runc alone runs, dumps and restores: what no engine can be quicker than.

A dump counts as done when its images are on the disk, a restore begins with a look at whether they
are still what was written: whoever keeps checkpoints has to do both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Failed
from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.runtime.sums import crc32
from warmboot.model.errors import HostError
from warmboot.system.programs import run_program

_ID = "wb-bench-bare"
_APPLETS = ("sh", "head", "dd", "sleep")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BareContainer:
    """One of runc's in ``folder``; ``criu`` is the program that runc finds."""

    folder: Path
    criu: Path

    async def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    async def ready(self) -> None:
        pass

    async def dumped(self) -> None:
        pass

    @property
    def _images(self) -> Path:
        return self.folder / "images"

    async def dump(self) -> None:
        """Into images that are on the disk then; its processes are gone."""
        await self._runc("checkpoint", *self._places(), "--tcp-established", _ID)
        await run_program("sync", *self._images.iterdir())

    async def restore(self) -> None:
        """From images that were read once, and summed."""
        await asyncio.to_thread(self._sum)
        where = ("--bundle", self.folder, "--pid-file", self.folder / "pid")
        options = ("--detach", "--tcp-established")
        await self._runc("restore", *options, *where, *self._places(), _ID)

    async def forget(self) -> None:
        """The images; what restored it has them in memory."""
        await asyncio.to_thread(shutil.rmtree, self._images, True)

    async def run(self) -> None:
        where = ("--bundle", self.folder, "--pid-file", self.folder / "pid")
        await self._runc("run", "--detach", *where, _ID)

    async def remove(self) -> None:
        await self._runc("delete", "--force", _ID)

    def _places(self) -> tuple[str | Path, ...]:
        return "--image-path", self._images, "--work-path", self.folder / "work"

    def _sum(self) -> int:
        found = 0
        for path in sorted(self._images.iterdir()):
            with path.open("rb", buffering=0) as file:
                while block := file.read(_BLOCK_BYTES):
                    found = crc32(block, found)
        return found

    async def _runc(self, command: str, *words: str | Path) -> None:
        try:
            await _detached(
                "runc",
                *("--root", self.folder / "state", command, *words),
                path=f"{self.criu.parent}:{SEARCH_PATH}",
            )
        except HostError as error:
            logs = [self.folder / "work" / f"{one}.log" for one in ("dump", "restore")]
            tails = [log.read_text(errors="replace")[-2000:] for log in logs if log.exists()]
            raise Failed(f"runc {command} failed: {error.details}\n" + "\n".join(tails)) from error


async def _detached(program: str, *words: str | Path, path: str) -> None:
    """The container has the program's output as its own, so it is not one that ends."""
    process = await asyncio.create_subprocess_exec(
        *(program, *map(str, words)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": path},
    )
    if code := await process.wait():
        raise HostError(f"{program} failed", details=f"exit code {code}")


@contextlib.asynccontextmanager
async def bare_container(
    folder: Path, busybox: Path, criu: Path, script: str
) -> AsyncIterator[BareContainer]:
    """One that runs ``script``, on the host's network as a worker is; removed at the end."""
    programs = folder / "rootfs" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(busybox, programs / "busybox")
    for name in _APPLETS:
        (programs / name).symlink_to("busybox")
    await run_program("runc", "spec", cwd=folder)
    config = json.loads((folder / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", script]}
    config["root"]["readonly"] = False
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [one for one in namespaces if one["type"] != "network"]
    (folder / "config.json").write_text(json.dumps(config))
    container = BareContainer(folder, criu)
    await container.run()
    try:
        yield container
    finally:
        await container.remove()
