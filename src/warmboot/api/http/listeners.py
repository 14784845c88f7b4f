"""The listening sockets: TCP, and this manager's own Unix socket.

Both are bound before the manager starts, so that a second one is told at once, and nobody is
answered before it is ready. The Unix socket belongs to who holds a lock beside it, which the kernel
takes back from a killed manager: what such a one left is replaced, what is in use never. It is
bound under another name and renamed, so that it never has a wider mode or no listener for a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warmboot.manager.protocols import Check
from warmboot.model.conventions.manager_socket import MAX_PATH_BYTES
from warmboot.model.errors import Conflict, HostError, InvalidRequest

DEFAULT_GROUP = "warmboot"
_MODE_FOR_GROUP, _MODE_ALONE = 0o660, 0o600
_CONNECT_TIMEOUT_S = 1.0


@contextmanager
def listeners(
    host: str, port: int, socket_of: Callable[[int], Path], group: str
) -> Iterator[list[socket.socket]]:
    """TCP sockets and, last, the Unix socket at ``socket_of(port)``; bound, and not listening yet.

    Raises ``Conflict`` for what another manager has, ``InvalidRequest`` for what cannot be.
    """
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(one) for one in _tcp(host, port)]
        path = socket_of(bound[0].getsockname()[1])
        yield [*bound, stack.enter_context(_unix(path, gid_of(group)))]


def gid_of(group: str) -> int | None:
    """The id of ``group``, which may be a number; ``None`` where the default one does not exist.

    A user's own manager is that user's alone, unless another group is named.
    """
    if not group or (group == DEFAULT_GROUP and os.geteuid() != 0):
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        if group == DEFAULT_GROUP:
            return None
        raise InvalidRequest(
            f"there is no group {group}",
            details="MANAGER_SOCKET_GROUP names who may use the manager's Unix socket",
            resolution=f"create it with: groupadd --system {group}",
        ) from error


def who_may(path: Path, group: str) -> str:
    """What somebody is told who is none of those whom the manager answers."""
    gid, token = gid_of(group), "show a token: Authorization: Bearer <token>, or WARMBOOT_TOKEN"
    if gid is None and os.geteuid() != 0:
        return f"use {path} as the manager's user or root, or {token}"
    if gid is None:
        return (
            f"use {path} as root, or {token}; for more users: groupadd --system {DEFAULT_GROUP}, "
            "and start the manager again"
        )
    return (
        f"become a member of the group {_name_of(gid)} and use {path}, as `warmboot` does by "
        f"itself; or be root, or {token}"
    )


def socket_check(path: Path, group: str) -> Check:
    """A finding of ``warmboot doctor``: where the socket is, and who may connect to it."""
    gid: int | None = None
    try:
        gid = gid_of(group)
        missing = group if gid is None and group else ""
    except InvalidRequest:
        missing = group
    alone = os.geteuid() != 0 and gid is None
    whom = f"root and the group {_name_of(gid)}" if gid is not None else "root alone"
    return Check(
        "socket",
        not missing or alone,
        f"{path}, for {'this user and root' if alone else whom}",
        why=f"there is no group {missing}, whose members could use warmboot without sudo; they "
        "would be as good as root"
        if missing
        else "",
        remedy=f"`groupadd --system {missing}`, `usermod -aG {missing} USER`, and start the "
        "manager again"
        if missing
        else "",
        required=False,
    )


def _name_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _tcp(host: str, port: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
    except OSError as error:
        for one in made:
            one.close()
        raise Conflict(
            f"cannot listen on {host}:{port}",
            details=str(error),
            resolution="stop what listens there (another manager?), or set MANAGER_HOST and "
            "MANAGER_PORT",
        ) from error
    return made


@contextmanager
def _unix(path: Path, gid: int | None) -> Iterator[socket.socket]:
    if len(os.fsencode(f"{path}.new")) > MAX_PATH_BYTES:
        raise InvalidRequest(
            f"{path} is too long for a Unix socket",
            details=f"it can have at most {MAX_PATH_BYTES} bytes",
            resolution="set MANAGER_SOCKET to a shorter path",
        )
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            _check_free(path)
            _bind(listener, path, gid)
        except OSError as error:
            raise HostError(
                f"the manager's Unix socket cannot be created at {path}",
                details=str(error),
                resolution="set MANAGER_SOCKET to a writable path",
            ) from error
        stack.callback(path.unlink, missing_ok=True)
        yield listener


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``. Its file goes with the last holder, not with a killed one."""
    lock = path.with_name(f"{path.name}.lock")
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _taken(path, "another manager holds its lock") from error
            if not _is(fd, lock):  # its holder removed it at its end, after we opened it
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _check_free(path: Path) -> None:
    """What lies at ``path`` must be a socket that nobody listens at."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InvalidRequest(
                f"{path} exists and is not a socket",
                details="MANAGER_SOCKET is the path of the manager's own socket",
                resolution="choose another path, or remove that file",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_CONNECT_TIMEOUT_S)
            client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except TimeoutError as error:
        raise _taken(path, "somebody listens there, and is busy") from error
    raise _taken(path, "somebody listens there")


def _taken(path: Path, why: str) -> Conflict:
    return Conflict(
        f"the socket {path} is in use",
        details=why,
        resolution="stop the manager that runs there, or set MANAGER_SOCKET",
    )


def _bind(listener: socket.socket, path: Path, gid: int | None) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    listener.bind(str(new))
    try:
        if gid is not None:
            os.chown(new, -1, gid)
        new.chmod(_MODE_ALONE if gid is None else _MODE_FOR_GROUP)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
