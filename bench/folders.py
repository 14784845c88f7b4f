"""Folders of the host in an engine: a large file, and a repository with many small ones.

All is done in one container, by the guest's clock, in turns: a file that the guest does not have in
its cache, and the same bytes from a port of the host; ``git status`` in the host's folder and in a
copy on the VM's own disk, when it has been done there before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Thread

from bench.engine_images import docker, timed, write_programs
from bench.measure import Failed, Samples
from bench.place import BOOT_TIMEOUT_S, Place, build_image, place
from bench.progress import Progress
from warmboot.client.engines import Engine

ROUNDS = 7
FILE_MIB, FOLDERS, FILES = 200, 100, 100
STATUSES = 3
"""In a row: one takes a few hundredths of a second, and the clock has no more digits."""
PROGRAMS, GATEWAY = "warmboot-bench/programs:1", "198.18.0.1"
_GIT = "/bin/git -c safe.directory=* -C {place} status --porcelain"
_WAYS = {"folder.status_s": "/src/many", "folder.status_local_s": "/own/many"}
_RATIOS = {
    "folder.read_over_tcp": ("folder.read_s", "folder.tcp_s"),
    "folder.status_over_local": ("folder.status_s", "folder.status_local_s"),
}


async def measure(progress: Progress) -> dict[str, float]:
    """``folder.…``"""
    samples = Samples()
    async with place(progress, await build_image(progress), pool="0") as at:
        await at.prepare()
        folder = at.manager.storage.parent / "bench-folder"
        shutil.rmtree(folder, ignore_errors=True)
        progress.tell(f"a file of {FILE_MIB} MiB, and {FOLDERS * FILES} small ones")
        try:
            await asyncio.to_thread(_fill, folder)
            with _served(folder / "big") as port:
                async with _engine(at, folder, port) as engine:
                    await _measure(progress, samples, engine, port)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return samples.figures(_RATIOS)


async def _measure(progress: Progress, samples: Samples, engine: Engine, port: int) -> None:
    progress.tell("the repository is copied to the VM's disk, and looked at")
    await _said(engine, "/bin/busybox cp -a /src/many /own/many")
    for where in _WAYS.values():
        await _status_s(engine, where)
    ways = {
        "folder.read_s": "/bin/busybox cat /src/big",
        "folder.tcp_s": f"/bin/bash -c '/bin/busybox cat </dev/tcp/{GATEWAY}/{port}'",
    }
    for number in progress.rounds("reads", ROUNDS):
        order = [*ways.items()]
        for name, command in order if number % 2 == 0 else reversed(order):
            samples.add(name, await _read_s(engine, command))
    progress.keep(samples.figures(_RATIOS))
    for _ in progress.rounds("git status", ROUNDS):
        for name, where in _WAYS.items():
            samples.add(name, await _status_s(engine, where))


@contextlib.asynccontextmanager
async def _engine(at: Place, folder: Path, port: int) -> AsyncIterator[Engine]:
    """One with a container ``client``, which has the folder, and a volume of its own."""
    engine_id = await at.client.engines.create(
        name="bench-folders",
        owner_uid=0,
        folders=[{"path": str(folder), "read_only": False}],
        host_ports=[port],
    )
    try:
        engine = await at.client.engines.wait(engine_id, timeout_s=BOOT_TIMEOUT_S)
        if engine.state != "running":
            raise Failed(f"an engine with a folder is {engine.state}: {engine.error}")
        archive = at.manager.storage / "programs.tar"
        await asyncio.to_thread(write_programs, archive, "git", "bash", "busybox")
        await docker(engine, "import", str(archive), PROGRAMS)
        archive.unlink()
        mounts = ("-v", f"{folder}:/src", "-v", "own:/own")
        words = ("run", "-d", "--privileged", "--name", "client", *mounts, PROGRAMS)
        await docker(engine, *words, "/bin/busybox", "sleep", "100000")
        yield engine
    finally:
        await at.client.engines.delete(engine_id, force=True)


async def _said(engine: Engine, script: str) -> str:
    return await docker(engine, "exec", "client", "/bin/busybox", "sh", "-c", script)


async def _read_s(engine: Engine, command: str) -> float:
    """Of what the guest has not in its cache; the bytes are counted where they arrive."""
    await _said(engine, "/bin/busybox sync; echo 3 >/proc/sys/vm/drop_caches")
    script = timed(f"{command} | /bin/busybox wc -c")
    before, size, after = (await _said(engine, script)).split()
    if int(size) != FILE_MIB << 20:
        raise Failed(f"{command} has read {size} bytes")
    return float(after) - float(before)


async def _status_s(engine: Engine, where: str) -> float:
    """Of one, when there was one before."""
    status = _GIT.format(place=where)
    script = f"{status}; {timed('; '.join([status] * STATUSES))}"
    said = (await _said(engine, script)).split()
    if len(said) != 2:
        raise Failed(f"git status says that there is something new in {where}: {said[:6]}")
    return (float(said[1]) - float(said[0])) / STATUSES


def _fill(folder: Path) -> None:
    many = folder / "many"
    many.mkdir(parents=True)
    with (folder / "big").open("wb") as big:
        for _ in range(FILE_MIB):
            big.write(os.urandom(1 << 20))
    for number in range(FOLDERS):
        (many / str(number)).mkdir()
        for name in range(FILES):
            (many / str(number) / f"file-{name}").write_text(f"{number} {name}\n")
    own = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for words in (("init", "-q"), ("add", "."), (*own, "commit", "-q", "-m", "all of them")):
        done = subprocess.run(["git", *words], cwd=many, capture_output=True, check=False)
        if done.returncode != 0:
            raise Failed(f"git {words[0]} failed: {done.stderr.decode().strip()}")


@contextlib.contextmanager
def _served(path: Path) -> Iterator[int]:
    """The port of this machine's loopback at which whoever connects gets this file."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=_serve, args=(listener, path), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, path: Path) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # the end
            return
        with sock, path.open("rb") as file, contextlib.suppress(ConnectionError):
            sock.sendfile(file)
