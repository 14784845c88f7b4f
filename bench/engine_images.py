"""``docker`` on an engine, and images for it that are made of this machine's own programs."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench.measure import Failed
from warmboot.client.engines import Engine


async def docker(engine: Engine, *words: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": engine.docker_host, "DOCKER_CONFIG": "/nonexistent"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "docker",
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise Failed(f"docker {words[0]} failed: {err.decode().strip()}")
    return out.decode()


def timed(*words: str) -> str:
    """A script that says how long the guest has been up before and after: hundredths of seconds."""
    clock = "read up idle </proc/uptime; echo $up"
    return f"{clock}; {' '.join(words)} || exit 1; {clock}"


def write_programs(path: Path, *names: str) -> None:
    """A file system with programs of this machine and the libraries that they need."""
    sources = [_program(name) for name in names]
    libraries = set()
    for source in sources:
        told = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
        libraries |= {word for word in told.split() if word.startswith("/")}  # a static one: none
    with tarfile.open(path, "w") as archive:
        for source in sources:
            add_file(archive, f"bin/{Path(source).name}", Path(source).read_bytes(), mode=0o755)
        for source in sorted(libraries):
            add_file(archive, source.lstrip("/"), Path(source).read_bytes(), mode=0o755)


def add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _program(name: str) -> str:
    if (found := shutil.which(name)) is None:
        raise Failed(f"{name} is not installed: run `make setup`")
    return found
