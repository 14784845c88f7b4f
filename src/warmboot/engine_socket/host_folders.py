"""Bind mounts in the body of a ``create``: which folders of this machine they mean. Pure functions.

An engine is in a VM, which does not see this machine's files. Paths of the VM's own system
(``/proc``), and its Docker's socket by all of its names, pass: also by those which it has on this
machine, because ``DOCKER_HOST`` says so. The VM knows it by its usual name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from warmboot.engine_socket.docker_form import Refusal

DOCKER_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_SYSTEM = ("/proc", "/sys", "/dev", "/lib/modules", "/etc/localtime", "/var/lib/docker")
"""A path below one of them means the VM's, whoever asks."""


def checked(config: Mapping[str, Any], engine: str, *sockets: str) -> Mapping[str, Any]:
    """The body as it is to be sent on. ``Refusal`` in words for the first folder of this machine.

    ``sockets``: those at which the engine is reached.
    """
    found = list(_sources(config))
    for source in found:
        if source in (*sockets, *DOCKER_SOCKETS) or _is_systems(source):
            continue
        raise Refusal(
            400,
            f"{source} cannot be mounted: the engine {engine} is in a VM, which does not see this "
            "machine's folders; use a volume (-v NAME:/path), copy files in with `docker cp`, or "
            "put them into the image",
        )
    for socket in set(sockets).intersection(found):
        config = _with_docker_socket(config, socket)
    return config


def _with_docker_socket(config: Mapping[str, Any], socket: str) -> dict[str, Any]:
    def named(one: Any) -> Any:
        if isinstance(one, str) and one.startswith(f"{socket}:"):
            return DOCKER_SOCKETS[0] + one.removeprefix(socket)
        if isinstance(one, Mapping) and one.get("Source") == socket:
            return {**one, "Source": DOCKER_SOCKETS[0]}
        return one

    host = dict(config["HostConfig"])
    for key in ("Binds", "Mounts"):
        if isinstance(host.get(key), list):
            host[key] = [named(one) for one in host[key]]
    return {**config, "HostConfig": host}


def _is_systems(source: str) -> bool:
    path = PurePosixPath(source)
    return ".." not in path.parts and any(path.is_relative_to(one) for one in _SYSTEM)


def _sources(config: Mapping[str, Any]) -> Iterator[str]:
    host = config.get("HostConfig")
    if not isinstance(host, Mapping):
        return
    binds, mounts = host.get("Binds"), host.get("Mounts")
    for bind in binds if isinstance(binds, list) else []:
        source = str(bind).partition(":")[0]
        if source.startswith("/") and ":" in str(bind):  # else it is a volume's name
            yield source
    for mount in mounts if isinstance(mounts, list) else []:
        if isinstance(mount, Mapping) and mount.get("Type") == "bind":
            yield str(mount.get("Source", ""))
