"""Who may connect to an engine's socket on the host."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.engine_sockets import serving

from warmboot.engine_socket.listeners import socket_file


async def test_the_way_to_a_socket_is_open_whatever_the_umask_is(tmp_path: Path) -> None:
    old = os.umask(0o177)
    try:
        path = tmp_path / "engines" / "ci.sock"
        socket_file.listen_at(path, os.geteuid(), os.getegid())[0].close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_the_socket_is_its_owners() -> None:
    async with serving() as it:
        found = it.path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_uid == os.geteuid()


@pytest.mark.root
async def test_an_engine_is_its_owners_and_no_other_users() -> None:
    owner, other = 64_001, 64_002
    async with serving() as it:
        for folder in (it.path.parent, it.path.parent.parent):
            folder.chmod(0o755)
        await it.front.set(replace(it.engine, uid=owner))
        assert await _connects_as(owner, it.path) == "it does"
        assert await _connects_as(other, it.path) == "PermissionError"


async def _connects_as(uid: int, path: Path) -> str:
    connect = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[2]); print('it does', end='')\n"
        "except OSError as error: print(type(error).__name__, end='')\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", connect, str(uid), str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[0].decode()
