"""VMM processes: started to outlive the manager, found again by pid, start time and boot id.

A VMM is started by ``posix_spawn`` in a session of its own, its output in a log file, and is
watched through a pidfd. The manager may be killed at any moment: the VMM goes on, and the next
manager attaches to it with the ``VmHandle`` that was stored.

It is started by a thread that has entered the VM's network namespace and made namespaces of the
VM's own for mounts, System V IPC and processes: a child takes them over, and its pid is seen here
as ever. Before the VMM's own program two small ones run and replace themselves (``exec``), so the
pid stays: ``prlimit`` bounds the length of its files, ``setpriv`` drops to the VM's own user,
without capabilities and without a way to gain any. It joins its control group while it comes up:
``confined`` says when.

A VMM in the background (``VmSpec.background``) runs in the kernel's idle class. As each session has
a group of its own where the scheduler groups by session, that group's weight is the least, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from warmboot.hypervisors import console_log
from warmboot.hypervisors.confinement import Confinement, file_limit_bytes, isolate
from warmboot.hypervisors.console_log import ConsoleLog
from warmboot.model.errors import HypervisorError, VmGone
from warmboot.model.vm import VmHandle, VmSpec
from warmboot.system import procfs
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import finish
from warmboot.system.on_failure import on_failure
from warmboot.system.programs import find_program, look_up

T = TypeVar("T")

KILL_TIMEOUT_S = 30.0
FIRST_FD = 3
_LOWEST_PRIORITY = 19
_FIRST_PAUSE_S, _REAPED_WITHIN_S = 0.001, 1.0


@cache
def boot_id() -> str:
    """The id of this boot of the host: a pid from before a reboot means nothing after it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time_ticks(pid: int) -> int | None:
    """The time at which a process began, in clock ticks since boot (proc(5), field 22); None if it
    is no more.

    A zombie counts as no more.
    """
    try:
        fields = procfs.stat_fields(Path(f"/proc/{pid}"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether the process stands still until it gets SIGCONT (or its tracer lets it go on)."""
    try:
        return procfs.stat_fields(Path(f"/proc/{pid}"))[0] in "Tt"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Forked(NamedTuple):
    """A process that another one has forked for us."""

    pid: int
    start_time_ticks: int
    pidfd: int


class VmmProcess:
    """A running VMM. Make one with ``spawn``, ``forked`` or ``attach``; ``close`` lets go of it."""

    def __init__(
        self,
        handle: VmHandle,
        pidfd: int,
        joining: asyncio.Future[None] | None = None,
        console: ConsoleLog | None = None,
    ) -> None:
        self.handle = handle
        self._pidfd = pidfd
        self._joining = joining
        self._console = console
        self._reaped_by_kernel = False
        self._gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit)

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        spec: VmSpec,
        hypervisor: str,
        log: Path,
        inherit: Sequence[int] = (),
        groups: Sequence[int] = (),
        confinement: Confinement | None = None,
        console: ConsoleLog | None = None,
        own_pids: bool = True,
    ) -> VmmProcess:
        """Start ``argv`` as ``spec`` wants it. The log file is appended to.

        ``inherit`` are open file descriptors that become ``FIRST_FD`` and the following ones of the
        VMM. A listening socket among them can be connected to before the VMM has come up, so nobody
        has to poll for it; and what only root may open need not be opened by the VMM.
        ``groups`` are supplementary groups for a VMM that does not run as root (a device's).
        ``console`` ends with this process, and takes its output if it is not among ``inherit``.
        Without ``own_pids`` it sees the processes that we see.
        """
        command = [*_limits(spec, confinement), *rights(spec, groups), *argv]
        output = log if console is None or console.pipe in inherit else console.pipe
        start = partial(_spawn, command, output, inherit, spec, confinement, own_pids)

        async def give_back() -> None:
            if console is not None:
                await console.finish()
            if confinement is not None:
                await confinement.release(spec.id)

        async with on_failure(give_back):
            pid = await _in_thread(start, _take_back)
        pidfd = os.pidfd_open(pid)
        handle = _handle(spec, hypervisor, pid, start_time_ticks(pid) or 0)
        joining = None
        if confinement is not None:
            pids = [pid] if console is None else [console.pid, pid]
            joining = asyncio.ensure_future(confinement.join(spec, pids))
        return cls(handle, pidfd, joining, console)

    @classmethod
    async def forked(
        cls, fork: Callable[[], Forked], *, spec: VmSpec, hypervisor: str
    ) -> VmmProcess:
        """Have it forked by a process that has its program already. ``fork`` runs in a thread."""
        made = await _in_thread(fork, _end_forked)
        if spec.background:
            _give_way(made.pid)
        process = cls(_handle(spec, hypervisor, made.pid, made.start_time_ticks), made.pidfd)
        process._reaped_by_kernel = True
        return process

    async def confined(self) -> None:
        """Return when it is under the VM's limits; ``HypervisorError`` if it cannot be."""
        if self._joining is not None:
            await asyncio.shield(self._joining)

    @classmethod
    def attach(cls, handle: VmHandle) -> VmmProcess:
        """Watch a process that another manager started; ``VmGone`` if it is not that one."""
        gone = VmGone(
            f"the VMM of {handle.vm_id} is not running any more",
            details=f"pid {handle.pid}, started at tick {handle.start_time_ticks}",
        )
        if handle.boot_id != boot_id():
            raise gone
        try:
            pidfd = os.pidfd_open(handle.pid)
        except ProcessLookupError:
            raise gone from None
        # The pidfd is held now, so the pid cannot be given to another process after this check.
        if start_time_ticks(handle.pid) != handle.start_time_ticks:
            os.close(pidfd)
            raise gone
        return cls(handle, pidfd)

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    async def wait(self) -> None:
        await self._gone.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone and reaped. Idempotent."""
        if self.alive and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            try:
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    await self.wait()
            except TimeoutError:
                raise HypervisorError(
                    f"the VMM of {self.handle.vm_id} (pid {self.handle.pid}) survives SIGKILL",
                    resolution="look for a hung disk or mount: `cat /proc/PID/stack`",
                ) from None
            if self._reaped_by_kernel:
                await self._until_reaped()
        if self._joining is not None:
            await asyncio.wait({self._joining})
        if self._console is not None:
            await self._console.finish()
        self.close()

    def close(self) -> None:
        """Stop watching. The process is left as it is."""
        if self._console is not None:
            self._console.close_pipe()  # it is reaped, whoever ends the VMM
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _until_reaped(self) -> None:
        """The kernel does so right after it has told the end, and tells nobody."""
        back_off = BackOff(_FIRST_PAUSE_S, _REAPED_WITHIN_S)
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            async with asyncio.timeout(_REAPED_WITHIN_S):
                while True:
                    signal.pidfd_send_signal(self._pidfd, 0)
                    await back_off.pause()

    def _on_exit(self) -> None:
        with contextlib.suppress(ChildProcessError):  # another manager's child: init reaps it
            os.waitpid(self.handle.pid, os.WNOHANG)
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._gone.set()


async def start_console_log(
    path: Path, spec: VmSpec, confinement: Confinement | None
) -> ConsoleLog:
    """What the guest prints goes to ``path`` through the log's pipe, up to the VM's limit."""
    limit_bytes = (confinement or Confinement()).console_bytes
    prefix = [*_lengths(limit_bytes), *rights(spec, ())]

    def take_back(started: tuple[int, int]) -> None:
        os.close(started[1])
        _take_back(started[0])

    console_log.set_aside(path, limit_bytes)
    begin = partial(console_log.start, path, prefix)
    return ConsoleLog(*await _in_thread(begin, take_back))


async def _in_thread(function: Callable[[], T], take_back: Callable[[T], None]) -> T:
    """Run ``function`` in a thread that ends with it: it may have moved to other namespaces."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vmm") as thread:
        running = asyncio.wrap_future(thread.submit(function))
        try:
            return await finish(running)
        except asyncio.CancelledError:
            # The thread cannot be stopped and has started it: take that back.
            if running.exception() is None:
                take_back(running.result())
            raise


def _take_back(pid: int) -> None:
    """End a process that nobody wants any more."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _end_forked(made: Forked) -> None:
    """As ``_take_back``, of what is not our child."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(made.pidfd, signal.SIGKILL)
    os.close(made.pidfd)


def _handle(spec: VmSpec, hypervisor: str, pid: int, started_ticks: int) -> VmHandle:
    return VmHandle(
        vm_id=spec.id,
        hypervisor=hypervisor,
        pid=pid,
        start_time_ticks=started_ticks,
        boot_id=boot_id(),
        run_dir=spec.run_dir,
    )


def rights(spec: VmSpec, groups: Sequence[int]) -> list[str]:
    """What drops to the VM's user."""
    return user_rights(spec.uid, spec.gid or spec.uid, groups) if spec.uid else []


def user_rights(uid: int, gid: int, groups: Sequence[int] = ()) -> list[str]:
    """What drops to a user of a VM."""
    return [
        _tool("setpriv"),
        f"--reuid={uid}",
        f"--regid={gid}",
        f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--",
    ]


def _limits(spec: VmSpec, confinement: Confinement | None) -> list[str]:
    if confinement is None:
        return []
    return _lengths(file_limit_bytes(spec))


def _lengths(limit_bytes: int) -> list[str]:
    return [_tool("prlimit"), f"--fsize={limit_bytes}:{limit_bytes}", "--core=0", "--"]


@cache
def _tool(name: str) -> str:
    return str(find_program(name, failure=HypervisorError))


def _spawn(
    command: list[str],
    output: Path | int,
    inherit: Sequence[int],
    spec: VmSpec,
    confinement: Confinement | None,
    own_pids: bool,
) -> int:
    """Moves the calling thread, which is to end then."""
    program = look_up(command[0])
    if program is None:
        raise HypervisorError(f"{command[0]} is not there or not executable")
    try:
        _surround(spec, confinement, own_pids)
    except OSError as error:
        raise HypervisorError(
            f"no namespaces could be made for VM {spec.id}",
            details=str(error),
            resolution="run the manager as root, or with MANAGER_HYPERVISOR=simulated",
        ) from error
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with contextlib.ExitStack() as copies:
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1)
            if isinstance(output, int)
            else (os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        for number, descriptor in enumerate(inherit, start=FIRST_FD):
            # From a copy out of the way of every target: no target overwrites a later source.
            copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_FD + len(inherit))
            copies.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, number))
        try:
            pid = os.posix_spawn(
                program,
                command,
                {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
            )
        except OSError as error:
            raise HypervisorError(f"{program} could not be started", details=str(error)) from error
    if spec.background:
        _give_way(pid)
    return pid


def _surround(spec: VmSpec, confinement: Confinement | None, own_pids: bool) -> None:
    namespace = None if spec.nic is None else spec.nic.namespace
    if confinement is not None:
        confinement.create(spec)
    if namespace is not None or (confinement is not None and os.geteuid() == 0):
        isolate(namespace, pids=own_pids)


def come_first(handle: VmHandle) -> None:
    """Take a VMM out of the background: somebody waits for it now."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{handle.pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path(f"/proc/{handle.pid}/autogroup").write_text("0")


def _give_way(pid: int) -> None:
    """Let the process, and its session, come last (sched(7)); what it starts takes over both.

    Only now, as posix_spawn knows no idle class: the VMM has not begun to work yet.
    """
    with contextlib.suppress(OSError):  # it has ended
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # or the kernel does not group by session
        Path(f"/proc/{pid}/autogroup").write_text(f"{_LOWEST_PRIORITY}")
