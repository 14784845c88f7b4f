"""The manager's endpoint: a URL, or its Unix socket on this machine.

given, or WARMBOOT_URL        that: http://…, https://… or unix:///path/to.sock
MANAGER_SOCKET                that socket
a socket of the usual name    this user's own manager's first, then the machine's
otherwise                     http://127.0.0.1:18080
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from warmboot.model.conventions.engine_front import USERS_FOLDER
from warmboot.model.conventions.manager_socket import (
    DEFAULT_PORT,
    SYSTEM_FOLDER,
    default_socket,
    run_folder_of,
)
from warmboot.model.errors import NotFound

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
_SCHEME = "unix://"
_HOST = "127.0.0.1"
_BE_ROOT = "be root (sudo), or set WARMBOOT_URL and WARMBOOT_TOKEN"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` is what requests are sent to; by ``socket`` if it is one, then ``url`` is a name."""

    url: str
    socket: Path | None = None

    def __str__(self) -> str:
        return self.url if self.socket is None else f"{_SCHEME}{self.socket}"

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """The endpoint that this URL means."""
        if url.startswith(_SCHEME):
            return cls("http://localhost", Path(unquote(url.removeprefix(_SCHEME))))
        return cls(url.rstrip("/"))

    @classmethod
    def usual(cls, *, token: bool) -> Endpoint:
        """The endpoint of this machine's manager. With a ``token``, TCP is used where its
        socket may not be.
        """
        given = os.environ.get("WARMBOOT_URL")
        if given:
            return cls.of(given)
        named = os.environ.get("MANAGER_SOCKET")
        there = [Path(named)] if named else [path for path in _usual() if _is_socket(path)]
        usable = [path for path in there if os.access(path, os.W_OK)]
        if usable:
            return cls.of(f"{_SCHEME}{usable[0]}")
        if there and not token:  # it says why not
            return cls.of(f"{_SCHEME}{there[0]}")
        return cls(f"http://{_HOST}:{_port()}")

    def closed_to_us(self) -> str:
        """Why this user may not connect, and what to do; empty if that is not what is wrong."""
        if self.socket is None or os.access(self.socket, os.W_OK):
            return ""
        try:
            status = self.socket.stat()
        except PermissionError:  # a folder on the way is closed
            return _BE_ROOT
        except OSError:
            return ""
        if status.st_mode & 0o020 == 0:
            return _BE_ROOT
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            group = str(status.st_gid)
        return (
            f"add yourself to the group {group}: sudo usermod -aG {group} $USER, and log in again; "
            "or be root (sudo)"
        )


def default_engine_socket() -> Path:
    """The socket of this user's default engine, which needs no access to the API. ``NotFound``."""
    given, named = os.environ.get("WARMBOOT_URL"), os.environ.get("MANAGER_SOCKET")
    managers: list[Path] = [Path(named).absolute()] if named else list(_usual())
    if given:
        there = Endpoint.of(given).socket
        managers = [there] if there else []
    paths = [run_folder_of(one) / USERS_FOLDER / f"{os.getuid()}.sock" for one in managers]
    for path in paths:
        if _is_socket(path):
            return path
    raise NotFound(
        "you have no default engine on this machine",
        details=f"there is no socket {paths[-1]}" if paths else f"{given} is no Unix socket",
        resolution="name an engine, or have MANAGER_ENGINE_USERS name you",
    )


def _port() -> int:
    given = os.environ.get("MANAGER_PORT", "")
    is_number = given.isascii() and given.isdigit() and len(given) <= 5
    return int(given) if is_number and int(given) else DEFAULT_PORT


def _is_socket(path: Path) -> bool:
    """Whether one is there to be seen: root's storage root, ``0710``, is closed to others."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _usual() -> Iterator[Path]:
    root = Path(os.environ.get("MANAGER_STORAGE_ROOT") or "/srv/fc")
    yield default_socket(_HOST, _port(), root.absolute())
    yield root.absolute() / "manager.sock"
    yield SYSTEM_FOLDER / f"{_port()}.sock"
