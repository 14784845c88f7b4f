"""A real, private Docker engine for the demo, benchmarks and tests: own data, own sockets.

Nothing is shared with an engine that the machine may run. When it ends no process, mount or file
of it is left, also if dockerd itself was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmboot.criu.binary import SEARCH_PATH
from warmboot.criu.runtime.orders import ROOT, images_to_resume, runc_of
from warmboot.criu.setup.install import install_criu
from warmboot.criu.setup.settings_files import enable_tcp_established
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import EngineUnavailable
from warmboot.system.files import followed
from warmboot.system.programs import run_program

RUNC_CONF = Path("/etc/criu/runc.conf")
FOLDER = "wb-dockerd-"
BARE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Without the folders in which ``doctor --fix`` puts a CRIU."""
START_TIMEOUT_S = 180.0
CONTAINERD_TOOK_LONG = "timeout waiting for containerd to start"
"""dockerd gives up after 15 s, which may be too short on an emulated processor."""
STOP_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.05
BEING_MADE_S = 60.0
"""A container's folder is empty for a moment when it is new."""


class PrivateDockerd:
    """One dockerd. ``socket`` and ``data_root`` are fixed for its life, restarts included.
    ``arguments`` are on its command line, beside the configuration file.

    ``criu_wrapper`` is the CRIU on its PATH.
    """

    def __init__(
        self,
        root: Path,
        criu_wrapper: Path,
        settings: Mapping[str, Any],
        arguments: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.criu_wrapper = criu_wrapper
        self.arguments = arguments
        self.socket = root / "docker.sock"
        self.data_root = Path(settings.get("data-root", root / "data"))
        self.exec_root = root / "exec"
        self.log = root / "dockerd.log"
        self.containerd_socket = self.exec_root / "containerd" / "containerd.sock"
        self.config = root / "daemon.json"
        self._process: asyncio.subprocess.Process | None = None
        config = {
            "experimental": True,
            "data-root": str(self.data_root),
            "exec-root": str(self.exec_root),
            "hosts": [f"unix://{self.socket}"],
            "pidfile": str(root / "dockerd.pid"),
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "shutdown-timeout": 1,
            **settings,
        }
        self.config.write_text(json.dumps(config))

    async def start(self, *, criu: bool = True) -> None:
        path = f"{self.criu_wrapper.parent}:{SEARCH_PATH}" if criu else BARE_PATH
        environment = {**os.environ, "PATH": path}
        environment.pop("DOCKER_HOST", None)
        async with asyncio.timeout(START_TIMEOUT_S), DockerEngine(self.socket) as engine:
            while not await self._answers(engine, await self._begin(environment)):
                pass

    async def _begin(self, environment: Mapping[str, str]) -> int:
        """Where in the log is what it says."""
        with self.log.open("ab") as log:
            began = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                # Should we be killed, dockerd is told to stop, and stops its containers.
                "setpriv",
                "--pdeathsig",
                "TERM",
                "dockerd",
                "--config-file",
                str(self.config),
                *self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            return began

    async def _answers(self, engine: DockerEngine, began: int) -> bool:
        """``False``: it has ended because its containerd took too long to start."""
        assert self._process is not None
        while self._process.returncode is None:
            with contextlib.suppress(EngineUnavailable):
                await engine.facts()
                return True
            await asyncio.sleep(LOOK_EVERY_S)
        said = self.log.read_bytes()[began:].decode(errors="replace")
        if CONTAINERD_TOOK_LONG in said:
            return False
        raise RuntimeError(f"dockerd ended with {self._process.returncode}: {said[-2000:]}")

    async def kill(self) -> None:
        """SIGKILL dockerd and its containerd, as a crash would; shims and containers go on."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self.kill_containerd()
        (self.exec_root / "containerd" / "containerd.pid").unlink(missing_ok=True)
        (self.root / "dockerd.pid").unlink(missing_ok=True)

    async def kill_containerd(self) -> None:
        """A dockerd that lives starts another one."""
        written = (self.exec_root / "containerd" / "containerd.pid").read_text()
        with contextlib.suppress(ProcessLookupError):
            containerd = os.pidfd_open(int(written))
            try:
                signal.pidfd_send_signal(containerd, signal.SIGKILL)
                await asyncio.to_thread(select.select, [containerd], [], [], STOP_TIMEOUT_S)
            finally:
                os.close(containerd)

    async def power_off(self) -> None:
        """All processes die at once, and what is kept in memory only is gone."""
        await self.kill()
        await self._end_rest()
        shutil.rmtree(self.exec_root)

    def hang(self) -> None:
        """Until ``go_on``, dockerd takes connections, as the kernel does that, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        self.hang()
        try:
            yield
        finally:
            self.go_on()

    async def stop(self) -> None:
        """Stop it and whatever it left behind. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._end_rest()

    async def _end_rest(self) -> None:
        await self._kill_left_over()
        for mount in self.mounts():
            await run_program("umount", "--lazy", mount, check=False, timeout_s=10)

    async def _kill_left_over(self) -> None:
        """containerd, its shims and their containers outlive a dockerd that was killed."""
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while left := self.processes():
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(LOOK_EVERY_S)

    def processes(self) -> list[int]:
        """Living processes that name this engine's folder, and everything below them."""
        parents: dict[int, int] = {}
        ours: set[int] = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
                command = folder.joinpath("cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state in "ZX" or int(folder.name) == os.getpid():
                continue
            parents[int(folder.name)] = int(parent)
            tools = (b"dockerd", b"containerd", b"containerd-shim-runc-v2", b"runc", b"criu")
            if Path(os.fsdecode(command[0])).name.encode() in tools and any(
                str(self.root).encode() in word for word in command
            ):
                ours.add(int(folder.name))
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return sorted(ours)

    def mounts(self) -> list[str]:
        """What is mounted below this engine's folders, the innermost first."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        ours = (f"{self.root}/", f"{self.data_root}/")
        return sorted(
            (p for p in (ln.split()[1] for ln in lines) if p.startswith(ours)), reverse=True
        )


@contextlib.asynccontextmanager
async def private_dockerd(
    state: Path, *, arguments: Sequence[str] = (), **settings: Any
) -> AsyncIterator[PrivateDockerd]:
    """A running engine; ``settings`` go into its daemon.json, ``arguments`` follow. Needs root.

    ``state`` keeps the CRIU that it uses (``prefix``, ``bin/criu``); installed there if need be.
    """
    await asyncio.to_thread(ensure_docker_installed)
    wrapper = state / "bin" / "criu"
    await install_criu(state / "prefix", wrapper, from_distribution=False)
    _sweep()
    root = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    dockerd = PrivateDockerd(root, wrapper, settings, arguments)
    try:
        await dockerd.start()
        yield dockerd
    finally:
        await dockerd.stop()
        shutil.rmtree(root)


@contextlib.contextmanager
def tcp_established(path: Path = RUNC_CONF) -> Iterator[None]:
    """Have the option in CRIU's configuration for runc, which knows no other place, meanwhile."""
    path = followed(path)
    backup = enable_tcp_established(path)
    try:
        yield
    finally:
        if backup == path:
            path.unlink(missing_ok=True)
        elif backup is not None:
            backup.replace(path)


def _sweep() -> None:
    """Remove the folders of runs that were killed; their engines have ended by themselves."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        owner = left.name.removeprefix(FOLDER).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    forget_containers(ROOT)


def forget_containers(state: Path) -> None:
    """Remove what the runtime of workers has noted of containers of engines that are gone."""
    for left in state.iterdir() if state.is_dir() else ():
        runc, images = runc_of(left.name, state), images_to_resume(left.name, state)
        needed = (runc is not None and runc.root.exists()) or (images and images.exists())
        if not needed and left.stat().st_mtime < time.time() - BEING_MADE_S:
            shutil.rmtree(left, ignore_errors=True)


def ensure_docker_installed() -> None:
    """Debian's engine, without letting the package start one for the whole machine."""
    if shutil.which("dockerd", path=SEARCH_PATH):
        return
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run([*apt, "update"], check=True, timeout=600, env=environment)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", "docker.io", "busybox-static"],
            check=True,
            timeout=1200,
            env=environment,
        )
    finally:
        if ours:
            policy.unlink(missing_ok=True)
