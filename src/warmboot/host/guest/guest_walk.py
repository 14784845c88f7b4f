"""Walks the way of a container's start once in a guest, with a program of ours in it.

The container is of the user's image, and created, started, waited for and removed as the user's
own will be; but what runs in it is a program that ends at once, and it has no network. So whatever
the image's own command does is not done, and what dockerd, containerd and the OCI runtime need of
the image is in memory afterwards: its configuration, its layers mounted once, its folders.
"""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
from collections.abc import AsyncIterator

from warmboot.host.guest.guest_containers import LOG, SANDBOX
from warmboot.host.guest.guest_link import GuestLink
from warmboot.model.errors import ContainerError, GuestError

_NAME = "warmboot-walk"
_FOLDER, _PROGRAM = ".warmboot", ".warmboot/true"
_LOAD_AT = 0x400000
_HEADERS_BYTES = 64 + 56


def ending_program() -> bytes:
    """A static x86-64 program for Linux that exits with 0, and needs nothing of an image's."""
    code = bytes.fromhex("31ff b83c000000 0f05".replace(" ", ""))  # exit(0)
    size = _HEADERS_BYTES + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 0x3E, 1, _LOAD_AT + _HEADERS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_AT, _LOAD_AT, size, size, 0x1000)
    return header + segment + code


async def walk_start(link: GuestLink, image: str, timeout_s: float) -> None:
    """Return when the container has ended with 0, and is removed; the guest must be on this
    machine's side of a claim.

    ``ContainerError`` if Docker refuses it or it ends otherwise, ``GuestError`` if there is no
    answer, or not within ``timeout_s`` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            exit_code = await _walk(link, image)
    except TimeoutError as error:
        raise GuestError(
            f"a container of {image} did not end in {link.vm_id}",
            details=f"a program that ends at once ran for {timeout_s:g} s",
            resolution="is this machine very busy? Try again",
        ) from error
    if exit_code != 0:
        raise ContainerError(
            f"a container of {image} ended with {exit_code}",
            details="the program in it was one of warmboot's, which ends with 0",
            resolution="is the image one for linux/amd64?",
        )


async def _walk(link: GuestLink, image: str) -> int:
    await link.ensure_sandbox()  # whose shim it shares, as the user's container does
    docker_id = await link.docker.create(
        _NAME,
        {
            "Image": image,
            "Entrypoint": [f"/{_PROGRAM}"],
            "Cmd": [],
            "User": "0",
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": SANDBOX | LOG | {"NetworkMode": "none"},
        },
    )
    await link.docker.inside.write_files(docker_id, "/", _packed(), keep_owners=False)
    await link.docker.start(docker_id)
    exit_code = await link.docker.wait_stopped(docker_id)
    await link.docker.remove(docker_id)
    return exit_code


async def _packed() -> AsyncIterator[bytes]:
    program, buffer = ending_program(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folder = tarfile.TarInfo(_FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        member = tarfile.TarInfo(_PROGRAM)
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    yield buffer.getvalue()
