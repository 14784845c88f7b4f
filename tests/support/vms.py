"""A manager of the tests' own on real VMs: a process, its storage, its command line.

    async with Site.at(folder, prefix="wbe", subnet="198.19.208.0/22") as site:
        await site.start()
        ran = await site.cli("run", "-d", "warmboot/probe", "sleep", "1000")
        await site.kill()                  as kill -9 does; its VMs run on
        await site.start()                 the next one, on the same storage and port

What a run that was killed has left in the folder is removed first, its processes included.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.support.command_forks import run_forked
from tests.support.eventually import eventually as eventually_soon
from tests.support.ports import free_port, remove_socket
from tests.support.site_processes import command_of, kill_processes_of, processes_of

from warmboot.client import Client
from warmboot.host.guest.guest_link import AGENT_PORT, GuestLink
from warmboot.host.network import Network, NetworkConfig, Slot
from warmboot.hypervisors import cgroups
from warmboot.hypervisors.cgroups import Cgroups
from warmboot.model.errors import NotFound
from warmboot.model.vm import GuestAddress, VmRecord
from warmboot.store import Store
from warmboot.system import procfs

T = TypeVar("T")

START_TIMEOUT_S = 120.0
CLI_TIMEOUT_S = 400.0
BUILD_S = 600.0
"""How long the build of a snapshot may take on a busy machine, given ``IMPATIENT``."""

VM_TIMEOUT_S = 180.0
"""How long anything may take that is done in or with a VM, on two CPUs without KVM."""

IMPATIENT = {"MANAGER_COLD_BOOT_TIMEOUT_S": "150"}
"""A rebuild in the background that gets no CPU is built at full speed after that many seconds."""

TINY = "warmboot/probe:latest"
"""A busybox that every warm guest has in its Docker already: it was warmed up with it."""


async def eventually(
    look: Callable[[], Awaitable[T | None]], what: str = "", timeout_s: float = VM_TIMEOUT_S
) -> T:
    """What ``look`` finds, which is neither nothing nor empty."""
    return await eventually_soon(look, what, timeout_s)


def state_root() -> Path:
    """Where the runtime image lies between runs."""
    return Path(os.environ.get("WARMBOOT_STATE", ".state")).absolute()


async def runtime_image() -> Path:
    """The runtime image, built when it is not there: minutes the first time, by one process."""
    folder = state_root() / "runtime-image"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("runtime-image.lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warmboot.images", "build", "--output", str(folder))
        )
        assert await process.wait() == 0, "the runtime image could not be built"
    return folder


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    code: int
    out: str
    err: str

    @classmethod
    async def of(cls, process: asyncio.subprocess.Process, stdin: bytes, timeout_s: float) -> Ran:
        """Give it ``stdin``, and wait until it ends; it is killed when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return cls(process.returncode, out.decode(), err.decode())


@dataclass
class Site:
    """One storage and the managers on it, one after the other."""

    folder: Path
    prefix: str
    subnet: str
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def at(
        cls, folder: Path, *, prefix: str, subnet: str, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Site]:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            site = cls(folder, prefix, subnet, dict(settings or {}))
            await site._sweep()
            folder.mkdir()
            try:
                yield site
            finally:
                await site.kill()
                await site._sweep()

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def log(self) -> Path:
        return self.folder / "manager.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # -- the manager ---------------------------------------------------------------------------

    async def start(
        self, settings: Mapping[str, str] | None = None, source: Path | None = None
    ) -> None:
        """``settings`` are for this manager only; ``source`` is where another version's code is."""
        environment = {
            **_environment(),
            **({"PYTHONPATH": str(source)} if source is not None else {}),
            "MANAGER_STORAGE_ROOT": str(self.storage),
            "MANAGER_PORT": str(self.port),
            "MANAGER_NETWORK_PREFIX": self.prefix,
            "MANAGER_NETWORK_SUBNET": self.subnet,
            # What a test looks at is what it made; those that look at these ask for them.
            "MANAGER_POOL_MAX_VMS": "0",
            "MANAGER_IMAGE_DEMAND_STARTS": "0",
            **self.settings,
            **(settings or {}),
        }
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "warmboot.cli", "serve"),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self._until_ready()

    async def _until_ready(self) -> None:
        process = self.process
        assert process is not None

        async def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return True
            tail = self.log.read_text(errors="replace")[-3000:]
            assert process.returncode is None, f"the manager ended:\n{tail}"
            return False

        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            await eventually(ready, f"the manager answers; see {self.log}", START_TIMEOUT_S)

    async def stop(self) -> int:
        """As a service manager stops it; the exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL. Nothing happens when there is none."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(VM_TIMEOUT_S):
            return await process.wait()

    def log_lines(self, *parts: str) -> list[str]:
        """Lines of the manager's log with all of ``parts`` in them."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if all(part in line for part in parts)]

    # -- its users -----------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        return {**_environment(), "WARMBOOT_URL": self.url, "COLUMNS": "200"}

    def client(self) -> Client:
        return Client(self.url)

    async def cli(
        self, *words: str, stdin: bytes = b"", timeout_s: float = CLI_TIMEOUT_S, code: int = 0
    ) -> Ran:
        """``warmboot`` as a user types it; it must exit with ``code``."""
        ran = Ran(*await run_forked(words, self.environment, stdin, timeout_s))
        assert ran.code == code, f"warmboot {' '.join(words)}: {ran}"
        return ran

    async def begin(self, *words: str) -> asyncio.subprocess.Process:
        """A ``warmboot`` that goes on; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warmboot.cli", *words),
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, name: str, *words: str) -> dict[str, Any]:
        """``warmboot run -d --name NAME …``; what ``inspect`` says of it."""
        await self.cli("run", "-d", "--name", name, *words)
        return await self.inspect(name)

    # A command line starts in half a second of processor time: what is asked often is asked here.

    async def inspect(self, ref: str) -> dict[str, Any]:
        """What ``warmboot inspect --json`` prints of it."""
        async with self.client() as client:
            return dict((await client.containers.get(ref)).raw)

    async def exec(self, ref: str, script: str, timeout_s: float = VM_TIMEOUT_S) -> str:
        """The output of a shell's ``script`` in a container, errors with it; it must succeed."""
        command = ["sh", "-c", f"({script}) 2>&1"]
        async with (
            asyncio.timeout(timeout_s),
            self.client() as client,
            client.containers.exec(ref, command) as session,
        ):
            output = b"".join([chunk.data async for chunk in session]).decode()
        assert session.exit_code == 0, f"{script}: exit code {session.exit_code}\n{output}"
        return output

    async def remove_containers(self) -> None:
        async with self.client() as client:
            for container in await client.containers.list(all_states=True):
                with contextlib.suppress(NotFound):  # that of a `run --rm` goes by itself
                    await client.containers.delete(container.id, force=True)

    async def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with at least these labels, as Prometheus sees them."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            text = (await client.get(f"{self.url}/metrics")).text
        families = text_string_to_metric_families(text)
        samples = [one for family in families for one in family.samples if one.name == name]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    # -- behind its back -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The manager's database."""
        inside = f"sqlite+aiosqlite:///{self.storage / 'warmboot.db'}"
        async with Store.open(self.settings.get("MANAGER_DATABASE_URL", inside)) as store:
            yield store

    async def vm(self, ref: str) -> VmRecord:
        async with self.store() as store:
            container = await store.containers.find(ref)
            (record,) = await store.vms.of_owner(container.id)
            return record

    @contextlib.asynccontextmanager
    async def link(self, record: VmRecord, token: str | None = None) -> AsyncIterator[GuestLink]:
        """A connection of our own to a guest's agent."""
        slot = slot_of(record)
        address = GuestAddress(AGENT_PORT, namespace=slot.namespace, ip=slot.guest_ip)
        link = GuestLink(record.id, address, record.token if token is None else token)
        try:
            yield link
        finally:
            await link.close()

    # -- what is left --------------------------------------------------------------------------

    def vmms(self) -> list[int]:
        """VMMs of containers and of snapshots that are being built."""
        return [pid for pid in processes_of(self.storage) if "qemu-system" in command_of(pid)]

    async def on_the_machine(self) -> list[str]:
        """Everything of this site that is there: processes, names on the network, mounts."""
        return [
            *(f"process {pid} {command_of(pid)}" for pid in processes_of(self.storage)),
            *await self._network().audit(),
            *(f"control group {name}" for name in self.groups().names()),
            *(f"mount {place}" for place in self._mounts()),
        ]

    def temporary_files(self) -> list[Path]:
        patterns = (".building-*", ".gone-*", ".upload-*", "*.new", ".*.partial", "*.tmp")
        return [path for one in patterns for path in self.storage.rglob(one)]

    def groups(self) -> Cgroups:
        """The control groups of its VMs."""
        return Cgroups(self.prefix, cgroups.here())

    def _network(self) -> Network:
        return Network(
            NetworkConfig(state_dir=self.folder / "sweep", prefix=self.prefix, subnet=self.subnet)
        )

    async def _sweep(self) -> None:
        """Remove all that a run has left, one that was killed too."""
        await asyncio.to_thread(kill_processes_of, self.folder)
        remove_socket(self.port)
        for name in self.groups().names():
            await asyncio.to_thread(self.groups().remove, name)
        self.groups().tear_down()
        network = self._network()
        await network.start([])
        await network.stop(keep=False)
        for mounted in self._mounts():
            process = await asyncio.create_subprocess_exec("umount", "--lazy", mounted)
            assert await process.wait() == 0, mounted
        await asyncio.to_thread(shutil.rmtree, self.folder, True)

    def _mounts(self) -> list[str]:
        places = [line.split()[1] for line in procfs.lines(Path("/proc/self/mounts"))]
        return [place for place in places if Path(place).is_relative_to(self.folder)]


def slot_of(record: VmRecord) -> Slot:
    assert record.slot is not None
    return Slot.from_dict(record.slot)


def _environment() -> dict[str, str]:
    ours = ("WARMBOOT_", "MANAGER_", "CONTAINER_RUNTIME_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
