"""Whether the other end of a loopback connection is root, now.

    its socket      established, with an inode, made by uid 0        sock_diag, every request
    who holds it    a process of uid 0, of our own pid and user      /proc, the first time;
                    namespace, not in a container's cgroup           then that process again

A socket that its owner has closed shows uid 0 on kernels without ``sk_uid``, hence the state and
the inode. Its maker's uid alone is not enough: root in a container has the host's network, too. Its
holder's alone is not either: a program that runs as root may be handed anybody's socket. Whoever is
in doubt is not root. A manager of an ordinary user takes that user for root, and only that one: it
cannot see who holds root's connections, so root comes by the Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmboot.api.middleware.sock_diag import ESTABLISHED, Address, TcpSocket, tcp_socket
from warmboot.system import procfs

MAX_REMEMBERED = 1024
_CLOSED = "the connection is closed, or is none of this machine's own"
_NAMESPACES = ("pid", "user")
_ID = re.compile(r"(?:^|[-:])[0-9a-f]{64}(?:\.scope)?$")
_CONTAINER_PREFIXES = ("kubepods", "libpod", "lxc.payload", "machine-")
_CONTAINER_PARENTS = frozenset({"docker", "lxc", "buildkit", "garden"})


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    fd: str


class LoopbackPeers:
    """Remembers who held a connection, and looks at that process alone as long as it does."""

    def __init__(self) -> None:
        self._uids = frozenset({os.geteuid()})
        own = Path("/proc/self")
        self._namespaces = {name: str((own / "ns" / name).readlink()) for name in _NAMESPACES}
        self._containers = containers_of((own / "cgroup").read_text(errors="replace"))
        self._holders: OrderedDict[int, _Holder] = OrderedDict()

    async def why_not_root(self, client: Address, server: Address) -> str:
        """Why the peer ``client`` of our ``server`` does not count as root; empty if it does."""
        try:
            found = tcp_socket(client, server)
        except (OSError, ValueError) as error:
            return f"the kernel does not say whose connection this is ({error})"
        if found is None or found.state != ESTABLISHED or not found.inode:
            return _CLOSED
        if found.uid not in self._uids:
            return f"the connection belongs to uid {found.uid}"
        known = self._holders.get(found.inode)
        if known is not None and self._why_not(known, found.inode) == "":
            return ""
        holder, reason = await asyncio.to_thread(self._look_for_holder, found.inode)
        if holder is None:
            return reason
        if not _still(found, client, server):
            return _CLOSED
        self._remember(found.inode, holder)
        return ""

    def _remember(self, inode: int, holder: _Holder) -> None:
        self._holders[inode] = holder
        self._holders.move_to_end(inode)
        while len(self._holders) > MAX_REMEMBERED:
            self._holders.popitem(last=False)

    def _look_for_holder(self, inode: int) -> tuple[_Holder | None, str]:
        """One that counts as root; ``None``, and why, if there is none or one that does not.

        All are looked at: what a process in a container holds together with one outside may have
        been handed out of it. Those of other uids are not: root gave it to them.
        """
        found: _Holder | None = None
        for holder in _holders(inode, self._uids):
            reason = self._why_not(holder, inode)
            if reason:
                return None, reason
            found = found or holder
        return found, "" if found else "no process of root's that can be seen has this connection"

    def _why_not(self, holder: _Holder, inode: int) -> str:
        try:
            process = os.open(f"/proc/{holder.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return _CLOSED
        try:  # by its folder: another process of this number is not taken for it
            if os.readlink(f"fd/{holder.fd}", dir_fd=process) != f"socket:[{inode}]":
                return _CLOSED
            status, cgroup = _read("status", process), _read("cgroup", process)
            own = all(
                os.readlink(f"ns/{name}", dir_fd=process) == ours
                for name, ours in self._namespaces.items()
            )
        except OSError:
            return f"process {holder.pid} of the connection cannot be looked at"
        finally:
            os.close(process)
        if not _uids(status) <= self._uids:
            return f"process {holder.pid} of the connection is not all root's"
        if not own:
            return f"process {holder.pid} of the connection is in namespaces of its own"
        if not containers_of(cgroup) <= self._containers:
            return f"process {holder.pid} of the connection is in a container"
        return ""


def containers_of(cgroup: str) -> frozenset[str]:
    """The names of containers in a ``/proc/PID/cgroup``, as engines name their cgroups."""
    found = set()
    for line in cgroup.split("\n"):
        path = line.split(":", 2)[-1].split("/")
        for parent, name in zip(("", *path), path, strict=False):
            if (
                _ID.search(name)
                or name.startswith(_CONTAINER_PREFIXES)
                or (name and parent in _CONTAINER_PARENTS)
            ):
                found.add(name)
    return frozenset(found)


def _still(found: TcpSocket, client: Address, server: Address) -> bool:
    try:
        return tcp_socket(client, server) == found
    except OSError:
        return False


def _holders(inode: int, uids: frozenset[int]) -> Iterator[_Holder]:
    """Processes of ``uids`` that have the socket; what cannot be seen is passed over."""
    wanted = f"socket:[{inode}]"
    with os.scandir("/proc") as processes:
        for process in processes:
            if not process.name.isdigit():
                continue
            with contextlib.suppress(OSError):  # it has ended, or is not ours to see
                if process.stat().st_uid not in uids:
                    continue
                for fd, path in procfs.open_files(Path(process.path)):
                    if path == wanted:
                        yield _Holder(int(process.name), fd)
                        break


def _read(name: str, folder: int) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
        return file.read().decode(errors="replace")


def _uids(status: str) -> frozenset[int]:
    """Real, effective, saved and file-system uid: a setuid program is not its owner's."""
    for line in status.split("\n"):  # a name may hold what splitlines() takes for an end of line
        if line.startswith("Uid:"):
            return frozenset(int(uid) for uid in line.split()[1:])
    return frozenset({-1})
