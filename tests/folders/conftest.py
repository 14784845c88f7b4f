"""A file server at a port of this machine, with the rights of a user who is nobody else."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.support.nfs_client import NfsClient

from warmboot.host.folders.folder_server import Serving, start_at
from warmboot.host.network.config import NetworkConfig
from warmboot.model.tenants.host_folder import HostFolder

OWNER_UID = 54321


@dataclass
class Site:
    """A folder that is served, of ``OWNER_UID``, and what it takes."""

    serving: Serving
    listener: socket.socket
    vmm: subprocess.Popen[bytes]
    pidfds: list[int] = field(default_factory=list)
    clients: list[NfsClient] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.serving.folders[0].path)

    def start(self, *, all_of_them: bool = True) -> None:
        vmm = os.pidfd_open(self.vmm.pid)
        try:
            self.pidfds.append(
                start_at(self.serving, self.listener, vmm, all_of_them=all_of_them).pidfd
            )
        finally:
            os.close(vmm)

    def kill(self) -> None:
        """The process that serves, which cannot do anything about it."""
        signal.pidfd_send_signal(self.pidfds[-1], signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.pidfds[-1], os.WEXITED)

    def has_ended(self) -> bool:
        return bool(select.select([self.pidfds[-1]], [], [], 60)[0])

    def client(self) -> NfsClient:
        self.clients.append(NfsClient(self.listener.getsockname()))
        return self.clients[-1]

    def mounted(self, at: int = 0) -> tuple[NfsClient, bytes]:
        """A client, and the handle of a folder."""
        client = self.client()
        return client, client.mount(self.serving.folders[at].id)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.vmm.kill()
        self.vmm.wait()
        for pidfd in self.pidfds:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
        self.listener.close()


Make = Callable[..., Site]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One that another user gets to: pytest's is its own user's alone, and whenever another pytest
    begins it sees to that."""
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a site, whose server has not started."""
    sites: list[Site] = []

    def made(*folders: HostFolder, uid: int = OWNER_UID) -> Site:
        vm = tmp_path / "vm"
        vm.mkdir()
        slot = replace(NetworkConfig(tmp_path).slot(1), namespace=Path("/proc/self/ns/net"))
        sites.append(
            Site(
                Serving(vm, slot, 0, 0, uid, folders or (HostFolder(str(own(tmp_path, "own"))),)),
                socket.create_server(("127.0.0.1", 0)),
                subprocess.Popen(["sleep", "3600"]),
            )
        )
        return sites[-1]

    yield made
    for site in sites:
        site.close()


def own(parent: Path, name: str) -> Path:
    """A folder of the owner's."""
    folder = parent / name
    folder.mkdir()
    os.chown(folder, OWNER_UID, OWNER_UID)
    return folder


@pytest.fixture
def site(make: Make) -> Site:
    made = make()
    made.start()
    return made
