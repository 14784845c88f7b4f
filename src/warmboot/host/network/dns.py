"""The name server of the guests: one dnsmasq for all of them, which outlives the manager.

A resolver of the host that listens on 127.0.0.53 only, as systemd-resolved does, refuses what
comes from elsewhere. So dnsmasq takes the guests' questions on an address of ours and asks the
name servers of ``resolv_conf``, following that file's changes by itself.

It runs as a user of its own from its first instruction on, without a right to anything but its own
folder, and with limits for its memory, its processes and its log: it reads what the world sends.

It is found again by the pid in its pid file together with its exact command line, and signalled
through a pidfd: a pid that another process has got meanwhile is never touched. While the manager
runs it is watched, and started again when it dies.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
from pathlib import Path

import structlog

from warmboot.host.network.config import DNS_PORT, NetworkConfig
from warmboot.host.network.rules import nft
from warmboot.model.errors import NetworkError
from warmboot.system import procfs
from warmboot.system.concurrency import end, process_ended
from warmboot.system.programs import look_up

_RUN_DIR = Path("/run/warmboot")
_LIMITS = ("--fsize=1048576", "--as=268435456", "--nproc=64", "--nofile=1024", "--core=0")
_STOP_TIMEOUT_S = 5.0
_RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class NameServer:
    """Starts, adopts, watches and stops the dnsmasq of one prefix."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._folder = _RUN_DIR / f"dns-{config.prefix}"
        self._pid_file = self._folder / "pid"
        self._log_file = self._folder / "log"
        self._earlier_pid_file = config.state_dir / "dnsmasq.pid"
        self._watcher: asyncio.Task[None] | None = None

    def _argv(self) -> list[str]:
        return [
            look_up("dnsmasq") or "dnsmasq",
            "--conf-file=/dev/null",
            f"--pid-file={self._pid_file}",
            f"--log-facility={self._log_file}",
            "--user=root",  # not looked at, as root does not start it
            f"--listen-address={self._config.dns_ip}",
            f"--port={DNS_PORT}",
            "--bind-interfaces",
            "--no-hosts",
            f"--resolv-file={self._config.resolv_conf}",
            "--cache-size=1000",
        ]

    def _rights(self) -> list[str]:
        user = self._config.uid_base
        return [
            *("prlimit", *_LIMITS, "--"),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
            *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
        ]

    async def start(self) -> None:
        """Adopt the one that runs, or start one; return when it takes questions."""
        pidfd = await self._adopt_or_launch()
        self._watcher = asyncio.create_task(self._watch(pidfd), name="network-dns")

    async def let_go(self) -> None:
        """Stop watching; it goes on answering."""
        if self._watcher is not None:
            await end(self._watcher)
            self._watcher = None

    async def stop(self) -> None:
        """Stop the name server and remove its files. Idempotent."""
        await self.let_go()
        found = self._find()
        if found is not None:
            await _end(found[0])
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    @property
    def pid(self) -> int | None:
        """The pid of the name server that runs."""
        found = self._find()
        if found is None:
            return None
        os.close(found[0])
        return int(self._pid_file.read_text())

    async def _adopt_or_launch(self) -> int:
        found = self._find()
        if found is not None:
            pidfd, argv, here = found
            if argv == self._argv() and here:
                return pidfd
            await _end(pidfd)  # of other settings
        await self._end_earlier()
        await asyncio.to_thread(self._make_folder)
        # It ends when its detached child has bound its sockets and written the pid file.
        status, _, err = await nft.run(*self._rights(), *self._argv())
        if status != 0:
            raise NetworkError(
                "the name server for VMs does not start",
                details=err.strip(),
                resolution=f"see {self._log_file}; another program may hold "
                f"{self._config.dns_ip}:{DNS_PORT}",
            )
        found = self._find()
        if found is None:
            raise NetworkError(
                "the name server for VMs exited immediately", resolution=f"see {self._log_file}"
            )
        return found[0]

    def _make_folder(self) -> None:
        """Its own, and empty but for its log."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        self._pid_file.unlink(missing_ok=True)
        for path in (self._folder, self._log_file):
            if path.exists():
                os.chown(path, self._config.uid_base, self._config.uid_base)

    async def _end_earlier(self) -> None:
        """The one of a version that started it as root."""
        found = self._find(self._earlier_pid_file)
        if found is not None:
            await _end(found[0])
        self._earlier_pid_file.unlink(missing_ok=True)

    def _find(self, pid_file: Path | None = None) -> tuple[int, list[str], bool] | None:
        """A pidfd, the arguments, and whether it is in our network namespace, if it runs."""
        pid_file = pid_file or self._pid_file
        try:
            pid = int(pid_file.read_text())
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        argv = _arguments(pid)
        if f"--pid-file={pid_file}" not in argv:
            os.close(pidfd)
            return None
        return pidfd, argv, _network_of(pid) == _network_of(os.getpid())

    async def _watch(self, pidfd: int) -> None:
        while True:
            try:
                await process_ended(pidfd)
            finally:
                os.close(pidfd)
            _log.warning("name server for VMs died", log=str(self._log_file))
            pidfd = await self._relaunch()

    async def _relaunch(self) -> int:
        while True:
            try:
                return await self._adopt_or_launch()
            except (NetworkError, OSError) as error:
                _log.error("name server for VMs", error=str(error))
                await asyncio.sleep(_RETRY_S)


def _arguments(pid: int) -> list[str]:
    try:
        return procfs.arguments(Path(f"/proc/{pid}"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _network_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except FileNotFoundError:
        return None


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def _end(pidfd: int) -> None:
    """Terminate, then kill; close the pidfd."""
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _has_ended(pidfd):
                return
            signal.pidfd_send_signal(pidfd, number)
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process_ended(pidfd)
            except TimeoutError:
                continue
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
