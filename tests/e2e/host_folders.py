"""Folders of this machine in an engine, as its containers see them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from tests.e2e.conftest import TOOLS, Archive
from tests.e2e.docker_engines import Engine
from tests.support.eventually import eventually
from tests.support.site_processes import command_of
from tests.support.vms import Site

from warmboot.host.vm.leftovers import users_of
from warmboot.system.programs import run_program

SMALL_MIB = 2
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_GIT = (_LOADER, "--library-path", _LIBRARIES, "/usr/bin/git", "-c", "safe.directory=*")
_PYTHON = (_LOADER, "--library-path", _LIBRARIES, "/usr/bin/python3", "-B", "-c")

_HOLD_A_LOCK = """
import fcntl, os
with open("/src/lock", "w") as whole, open("/src/part", "w") as part:
    fcntl.flock(whole, fcntl.LOCK_EX)
    fcntl.lockf(part, fcntl.LOCK_EX)
    print("held", flush=True)
    input()
"""
_TRY_A_LOCK = """
import fcntl
for path, lock in (("/src/lock", fcntl.flock), ("/src/part", fcntl.lockf)):
    with open(path, "r+") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("free")
        except BlockingIOError:
            print("held")
"""
_DATABASE = """
import sqlite3
database = sqlite3.connect("/src/data.db")
with database:
    database.execute("create table if not exists words (word text)")
    database.execute("insert into words values ('of the engine')")
print([word for word, in database.execute("select word from words order by rowid")])
"""
_FILL = """
import errno, os
with open("/small/big", "wb", buffering=0) as file:
    try:
        for _ in range(64):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
    except OSError as error:
        print(errno.errorcode[error.errno])
    try:
        file.close()
    except OSError:
        pass
os.unlink("/small/big")
with open("/small/word", "w") as file:
    file.write("fits")
"""
_CHANGE_THE_OWNER = """
import os
before = os.stat("/src/code/word").st_uid
os.chown("/src/code/word", 1234, 1234)
print(before == os.stat("/src/code/word").st_uid)
"""


@contextlib.asynccontextmanager
async def given_folders(place: Path) -> AsyncIterator[tuple[str, ...]]:
    """The options for an engine with ``place``, a small disk of its own in that, and this machine's
    programs, which containers run."""
    small = place / "small"
    small.mkdir()
    await run_program("mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "warmboot-e2e", small)
    try:
        yield ("--folder", str(place), "--folder", str(small), "--folder", "/usr:ro")
    finally:
        await run_program("umount", "--lazy", small)


async def folders_are_live(engine: Engine, folder: Path) -> None:
    """What one side writes the other reads, links lead to nothing of the host's, and a server that
    is killed is not missed."""
    (folder / "code").mkdir()
    (folder / "code" / "word").write_text("from the host")
    (folder / "code" / "out").symlink_to(folder.parent)
    mounted = ("run", "--rm", "-v", f"{folder}/code:/src", TOOLS, "sh", "-c")
    script = "cat /src/word; test ! -e /src/out && echo from the engine >/src/answer"
    assert (await engine.docker(*mounted, script)).out == "from the host"
    assert (folder / "code" / "answer").read_text() == "from the engine\n"
    refused = await engine.docker("run", "-v", f"{folder.parent}:/src", TOOLS, "true", code=125)
    assert f"sees only what is in {folder}" in refused.err
    vms = engine.site.storage / "vms"
    (server,) = [pid for vm in vms.iterdir() for pid in servers_of(vm)]
    os.kill(server, signal.SIGKILL)
    assert (await engine.docker(*mounted, "cat /src/word")).out == "from the host"


async def a_container_of_its_own_has_them(place: Site, archive: Archive, folder: Path) -> None:
    """``warmboot run -v``: with ``--folder``, and else a sentence that says so."""
    words = ("-v", f"{folder}/code:/src", "--archive", str(archive.path), TOOLS, "sh", "-c")
    script = "cat /src/word; echo from a container >/src/said"
    ran = await place.cli("run", "--rm", "--folder", str(folder), *words, script)
    assert ran.out == "from the host"
    assert (folder / "code" / "said").read_text() == "from a container\n"
    refused = await place.cli("run", "--rm", *words, script, code=125)
    assert "cannot be mounted" in refused.err
    assert "--folder" in refused.err


async def folders_are_as_programs_want_them(engine: Engine, folder: Path) -> None:
    """git, a database, locks among containers, a disk that is full, and a change of the owner."""
    repository = folder / "repository"
    repository.mkdir()
    for number in range(200):
        (repository / f"file-{number}").write_text(str(number))
    own = ("-c", "user.name=e2e", "-c", "user.email=e2e@localhost")
    for words in (("init", "-q"), ("add", "."), (*own, "commit", "-q", "-m", "all of them")):
        await run_program("git", *words, cwd=repository)
    mounts = ("-v", f"{folder}:/src", "-v", f"{folder}/small:/small", "-v", "/usr:/usr:ro")
    await engine.docker("run", "-d", "--name", "programs", *mounts, TOOLS, "sleep", "100000")

    async def said(*words: str, at: str = "programs") -> str:
        return (await engine.docker("exec", at, *words)).out.strip()

    status = (*_GIT, "-C", "/src/repository", "status", "--porcelain")
    assert await said(*status) == ""
    (repository / "file-7").write_text("something else")

    async def seen() -> bool:
        return await said(*status) == "M file-7"

    await eventually(seen, "the change shows, as soon as attributes are asked for anew")
    here = await run_program("git", "status", "--porcelain", cwd=repository)
    assert here.output.strip() == "M file-7"
    assert await said(*_PYTHON, _DATABASE) == "['of the engine']"
    with contextlib.closing(sqlite3.connect(folder / "data.db")) as database, database:
        database.execute("insert into words values ('of the host')")
    assert await said(*_PYTHON, _DATABASE) == "['of the engine', 'of the host', 'of the engine']"
    assert await said(*_PYTHON, _CHANGE_THE_OWNER) == "True"
    assert (folder / "code" / "word").stat().st_uid == os.geteuid()
    assert await said(*_PYTHON, _FILL) == "ENOSPC"
    assert (folder / "small" / "word").read_text() == "fits"
    await _locks_hold(engine, mounts)
    await engine.docker("rm", "-f", "programs")


async def _locks_hold(engine: Engine, mounts: tuple[str, ...]) -> None:
    """Those that one container has keep another from it, until it has ended."""
    holder = await engine.begin("run", "-i", "--rm", *mounts, TOOLS, *_PYTHON, _HOLD_A_LOCK)
    assert holder.stdout is not None
    try:
        async with asyncio.timeout(180):
            assert await holder.stdout.readline() == b"held\n"
        tried = ("exec", "programs", *_PYTHON, _TRY_A_LOCK)
        assert (await engine.docker(*tried)).out.split() == ["held", "held"]
        async with asyncio.timeout(180):
            await holder.communicate(b"\n")
        assert (await engine.docker(*tried)).out.split() == ["free", "free"]
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.wait()


def servers_of(vm: Path) -> list[int]:
    return [pid for pid in users_of(vm) if "folder_server" in command_of(pid)]


async def one_from_a_snapshot_only_reads(engine: Engine, folder: Path) -> None:
    mounted = ("run", "--rm", "-v", f"{folder}/code:/src", TOOLS, "sh", "-c")
    tried = "cat /src/word; echo no 2>&- >/src/answer || echo refused"
    assert (await engine.docker(*mounted, tried)).out == "from the hostrefused\n"
    assert (folder / "code" / "answer").read_text() == "from the engine\n"


async def a_fork_writes_if_asked_to(fork: Engine, folder: Path) -> None:
    mounted = ("run", "--rm", "-v", f"{folder}/code:/src", TOOLS, "sh", "-c")
    await fork.docker(*mounted, "echo from the fork >/src/forked")
    assert (folder / "code" / "forked").read_text() == "from the fork\n"
