"""The name server that guests ask: one dnsmasq for all of them, that outlives the manager.

A resolver of the host that listens on 127.0.0.53 only, as systemd-resolved does, refuses what
comes from elsewhere. So dnsmasq takes the guests' questions on an address of ours and asks the
name servers of ``resolv_conf``, following that file's changes by itself.

It is found again by the pid in its pid file together with its exact command line, and signalled
through a pidfd: a pid that another process has got meanwhile is never touched. While the manager
runs it is watched, and started again when it dies.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import select
import shutil
import signal
from pathlib import Path

import structlog

from warmboot.host.network import nft
from warmboot.host.network.config import DNS_PORT, NetworkConfig
from warmboot.model.errors import NetworkError

_STOP_TIMEOUT_S = 5.0
_RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class NameServer:
    """Starts, adopts, watches and stops the dnsmasq of one prefix."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self._pid_file = config.state_dir / "dnsmasq.pid"
        self._log_file = config.state_dir / "dnsmasq.log"
        self._watcher: asyncio.Task[None] | None = None

    def _argv(self) -> list[str]:
        user = "dnsmasq" if _has_user("dnsmasq") else "nobody"
        return [
            shutil.which("dnsmasq") or "/usr/sbin/dnsmasq",
            "--conf-file=/dev/null",
            f"--pid-file={self._pid_file}",
            f"--log-facility={self._log_file}",
            f"--user={user}",
            "--group=nogroup",
            f"--listen-address={self._config.dns_ip}",
            f"--port={DNS_PORT}",
            "--bind-interfaces",
            "--no-hosts",
            f"--resolv-file={self._config.resolv_conf}",
            "--cache-size=1000",
        ]

    async def start(self) -> None:
        """Adopt the one that runs, or start one; return when it takes questions."""
        pidfd = await self._adopt_or_launch()
        self._watcher = asyncio.create_task(self._watch(pidfd), name="network-dns")

    async def let_go(self) -> None:
        """Stop watching; it goes on answering."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None

    async def stop(self) -> None:
        """Idempotent."""
        await self.let_go()
        found = self._find()
        if found is not None:
            await _end(found[0])
        self._pid_file.unlink(missing_ok=True)

    async def _adopt_or_launch(self) -> int:
        found = self._find()
        if found is not None:
            pidfd, argv, here = found
            if argv == self._argv() and here:
                return pidfd
            await _end(pidfd)  # of other settings
        self._pid_file.unlink(missing_ok=True)
        # It ends when its detached child has bound its sockets and written the pid file.
        status, _, err = await nft.run(*self._argv())
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
                "the name server for VMs ended at once", resolution=f"see {self._log_file}"
            )
        return found[0]

    def _find(self) -> tuple[int, list[str], bool] | None:
        """A pidfd, the arguments, and whether it is in our network namespace, if it runs."""
        try:
            pid = int(self._pid_file.read_text())
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        argv = _arguments(pid)
        if f"--pid-file={self._pid_file}" not in argv:
            os.close(pidfd)
            return None
        return pidfd, argv, _network_of(pid) == _network_of(os.getpid())

    async def _watch(self, pidfd: int) -> None:
        while True:
            try:
                await _gone(pidfd)
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


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _network_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except FileNotFoundError:
        return None


async def _gone(pidfd: int) -> None:
    """Return when the process has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)


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
                    await _gone(pidfd)
            except TimeoutError:
                continue
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
