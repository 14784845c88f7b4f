"""The network of the user's container, made before there is such a container.

    host ──▶ eth0 ──DNAT──▶ docker0 ──▶ the sandbox's namespace ◀── joined by the user's container

To connect a container to its bridge, dockerd makes links, runs iptables several times and has the
runtime call it back; under emulation that is most of a start. So a container that only sleeps is
connected once, before the snapshot is taken, and the user's joins its network namespace (what
Kubernetes calls a sandbox). It also shares the sandbox's shim, which is running already.

All that the host sends in goes to it, but for what is the agent's: which ports are published is
decided by the host's own rules. A VM whose Docker is handed over to a user has none any more.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from .docker import WARM_UP_IMAGE, Docker
from .firewall import add_rule, delete_rule
from .system import System
from .wire import HttpError

NAME = "warmboot-sandbox"
SHIM_GROUP = {"io.containerd.runc.v2.group": "warmboot"}
"""containerd's runc shim serves all containers of a group with one process."""

_ADDRESS = "198.18.0.2"
JOINED: dict[str, Any] = {
    "NetworkMode": f"container:{NAME}",
    "UTSMode": "host",
    "Annotations": SHIM_GROUP,
}
"""The HostConfig of a container in the sandbox. The VM's host name is its own."""

_SPEC: dict[str, Any] = {
    "Image": WARM_UP_IMAGE,
    "Cmd": ["/bin/sleep", "2147483647"],
    "HostConfig": {
        "Annotations": SHIM_GROUP,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "OomScoreAdj": -900,
        "LogConfig": {"Type": "none"},
    },
}


class Sandbox:
    def __init__(self, system: System, docker: Docker) -> None:
        self._system = system
        self._docker = docker
        self._lock = threading.Lock()
        self._address = ""
        self._hosts = ""
        self._named = ""
        self._removed = False

    def ensure(self) -> None:
        """There is a sandbox that runs and is reached, and it knows this VM's name. Idempotent.

        ``HttpError`` 502 or 500 when that cannot be had.
        """
        with self._lock:
            if not self._address:
                self._removed = False
                self._make()
            hostname = self._system.hostname()
            if self._named != hostname:
                self._name(hostname)

    def remove(self) -> None:
        """There is no sandbox, none of its rules, and no warm-up image. Idempotent.

        ``HttpError`` 502 when Docker refuses a step.
        """
        with self._lock:
            if self._removed:  # by the VM that this one is a fork of
                return
            status, body = self._docker.call("GET", f"/containers/{NAME}/json", accept=(404,))
            address = self._address
            if status != 404:
                address = address or json.loads(body)["NetworkSettings"]["IPAddress"]
            # The rules beside the container: each takes its time where the CPU is emulated.
            unrouting = threading.Thread(target=self._unroute, args=(address,))
            unrouting.start()
            try:
                if status != 404:
                    self._docker.call("DELETE", f"/containers/{NAME}?force=1&v=1", accept=(404,))
            finally:
                unrouting.join()
            self._docker.call("DELETE", f"/images/{WARM_UP_IMAGE}?force=1", accept=(404,))
            self._address = self._named = ""
            self._removed = True

    def _make(self) -> None:
        status, _ = self._docker.call("GET", f"/containers/{NAME}/json", accept=(404,))
        if status == 404:
            self._docker.load_image()
            self._docker.call("POST", f"/containers/create?name={NAME}", document=_SPEC)
        self._docker.call("POST", f"/containers/{NAME}/start")  # 304 when it runs
        _, body = self._docker.call("GET", f"/containers/{NAME}/json")
        details = json.loads(body)
        address = details["NetworkSettings"]["IPAddress"]
        self._route(address)
        self._hosts = details["HostsPath"]
        self._address = address

    def _route(self, address: str) -> None:
        for table, chain, rule in _rules(address):
            # Docker's own chain ends with RETURN, so the rule must come before that.
            add_rule(self._system, table, chain, rule, first=chain == "DOCKER-USER")

    def _unroute(self, address: str) -> None:
        for table, chain, rule in _rules(address) if address else ():
            delete_rule(self._system, table, chain, rule)

    def _name(self, hostname: str) -> None:
        """The hosts file of the sandbox is that of the container which joins it."""
        text = f"127.0.0.1\tlocalhost\n{self._address}\t{hostname}\n"
        try:
            self._system.write_file(self._hosts, text)
        except OSError as error:
            raise HttpError(500, f"the sandbox's hosts file: {error}") from error
        self._named = hostname


def _rules(address: str) -> tuple[tuple[str, str, list[str]], ...]:
    """What leads to the sandbox: table, chain, rule."""
    return (
        ("nat", "PREROUTING", ["-i", "eth0", "-d", _ADDRESS, "-j", "DNAT", "--to", address]),
        ("filter", "DOCKER-USER", ["-i", "eth0", "-d", address, "-j", "ACCEPT"]),
    )
