"""Starts the process that serves folders of this machine to one VM (see ``folder_server``).

    listening socket in the VM's namespace ─▶ process, as root ─▶ confined, as the owner ─▶ serves
                                                                   until its VM's VMM has ended

It outlives us as its VM does, and names the VM's folder on its command line: that is how one is
found that nobody knows of.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import json
import os
import pwd
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from warmboot.host.network.config import FOLDERS_PORT, Slot
from warmboot.host.vm.leftovers import users_of
from warmboot.model.errors import HostError, VmGone
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.system.concurrency import finish
from warmboot.system.in_namespace import in_thread
from warmboot.system.on_failure import on_failure
from warmboot.system.procfs import open_process

log = structlog.get_logger(__name__)

MODULE = "warmboot.folder_server"
LOG = "folders.log"
PORT = FOLDERS_PORT
START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0
_LISTENER_FD, _VMM_FD = 3, 4
_BACKLOG = 16
_IP_MINTTL, _NOT_FORWARDED = 21, 255
_NOBODYS_GROUP = 65534
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served: to which VM, whose files lie in ``folder``, and with whose rights."""

    folder: Path
    slot: Slot
    vmm_pid: int
    vmm_start_time_ticks: int
    owner_uid: int
    folders: tuple[HostFolder, ...]

    @property
    def vm_id(self) -> str:
        return self.folder.name


Limit = Callable[[str, int], None]
"""Puts a process, by its pid, under the limits of a VM. Blocks."""


def no_limit(_vm_id: str, _pid: int) -> None:
    """For where there are no VMs' limits."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process that serves. ``refused``: the ids of folders that it cannot."""

    pidfd: int
    refused: frozenset[str] = frozenset()


async def start(serving: Serving, limit: Limit = no_limit, *, all_of_them: bool = True) -> Started:
    """The process, once it serves; an earlier one of the same VM has ended by then.

    ``HostError`` names a folder that the owner may not enter, or why there is no such process;
    ``VmGone``. One that is optional is refused, and so is any without ``all_of_them``: it is stale
    in a guest that has mounted it.
    """
    await asyncio.to_thread(end_all, serving.folder)
    listener = await in_thread(lambda: _listener(serving.slot), serving.slot.namespace)
    with listener:
        vmm = open_process(serving.vmm_pid, serving.vmm_start_time_ticks)
        if vmm is None:
            raise VmGone("the VM has ended, to which folders were to be served")
        begin = partial(start_at, serving, listener, vmm, limit, all_of_them=all_of_them)
        starting = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            return await finish(starting)
        except asyncio.CancelledError:
            if not starting.cancelled() and starting.exception() is None:
                await finish(asyncio.to_thread(_end, starting.result().pidfd))
            raise
        finally:
            os.close(vmm)


def end_all(folder: Path) -> None:
    """SIGKILL the file servers of the VM whose folder this is, and wait for their end."""
    if not (folder / LOG).exists():  # there never was one
        return
    for pid in users_of(folder):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _END_TIMEOUT_S)
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        os.close(pidfd)


def _listener(slot: Slot) -> socket.socket:
    """Only the VM reaches it: the address is its gateway's, and the device its own. Of the VM only
    its own kernel, as a container's packets are forwarded by that; the rules say so, too."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, slot.tap.encode())
        listener.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, _NOT_FORWARDED)
        listener.bind((slot.gateway_ip, PORT))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def start_at(
    serving: Serving,
    listener: socket.socket,
    vmm: int,
    limit: Limit = no_limit,
    *,
    all_of_them: bool = True,
) -> Started:
    """The same at a socket that listens, until the process of the pidfd ``vmm`` ends. Blocks."""
    said_to_it, told = os.pipe2(os.O_CLOEXEC)
    answers, said_by_it = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = _spawn(serving.folder, said_to_it, said_by_it, listener.fileno(), vmm)
        finally:
            os.close(said_to_it)
            os.close(said_by_it)
        pidfd = os.pidfd_open(pid)
        with on_failure(partial(_end, pidfd)):
            limit(serving.vm_id, pid)  # before it is told, and so before it has threads
            with contextlib.suppress(BrokenPipeError), open(told, "wb", closefd=False) as pipe:
                pipe.write(json.dumps(_as_message(serving)).encode())
            os.close(told)
            told = -1
            refused = _checked(serving, _answer(answers), all_of_them)
        return Started(pidfd, refused)
    finally:
        os.close(answers)
        if told >= 0:
            os.close(told)


def _end(pidfd: int) -> None:
    """Of a child of ours. Blocks."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)


def _spawn(folder: Path, stdin: int, stdout: int, listener: int, vmm: int) -> int:
    # The VMM may write to that folder: what it has put there is not followed, nor waited for.
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    log = os.open(folder / LOG, log_flags, 0o600)
    # Above the numbers that they get there: one may have the number of another.
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (listener, vmm)]
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", MODULE, str(folder)],
            {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, high[0], _LISTENER_FD),
                (os.POSIX_SPAWN_DUP2, high[1], _VMM_FD),
            ],
            setsid=True,
        )
    finally:
        for one in (log, *high):
            os.close(one)


def _as_message(serving: Serving) -> Mapping[str, Any]:
    gid, groups = groups_of(serving.owner_uid)
    return {
        "namespace": str(serving.slot.namespace),
        "uid": serving.owner_uid,
        "gid": gid,
        "groups": groups,
        "folders": [{**asdict(one), "id": one.id} for one in serving.folders],
    }


def groups_of(uid: int) -> tuple[int, Sequence[int]]:
    """A user's own group, and all that they are in, by name; nobody's for a user without a name."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return _NOBODYS_GROUP, ()
    with contextlib.suppress(OSError):
        return user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    return user.pw_gid, [one.gr_gid for one in grp.getgrall() if user.pw_name in one.gr_mem]


def _answer(pipe: int) -> Mapping[str, Any]:
    """The line that it says once it serves."""
    said = b""
    while not said.endswith(b"\n"):
        if not select.select([pipe], [], [], START_TIMEOUT_S)[0]:
            raise _not_there(f"it said nothing for {START_TIMEOUT_S:g} s")
        if not (more := os.read(pipe, 1 << 16)):
            raise _not_there("it has ended")
        said += more
    answer: Mapping[str, Any] = json.loads(said)
    return answer


def _checked(serving: Serving, answer: Mapping[str, Any], all_of_them: bool) -> frozenset[str]:
    """The ids of those that are refused. ``HostError`` for one that has to be there."""
    for folder in serving.folders:
        why = answer["refused"].get(folder.id)
        if why and (folder.optional or not all_of_them):
            log.warning("a folder is not served", vm=serving.vm_id, folder=folder.path, error=why)
        elif why:
            raise HostError(
                f"the folder {folder.path} cannot be given to a VM of uid {serving.owner_uid}",
                details=f"as that user it cannot be opened: {why}",
                resolution="give the owner the right to enter it, or leave the folder out",
            )
    return frozenset(answer["refused"])


def _not_there(why: str) -> HostError:
    return HostError(
        "the file server of its folders did not start",
        details=why,
        resolution="its log is folders.log in the VM's folder",
    )
