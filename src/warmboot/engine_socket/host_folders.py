"""Bind mounts of a container or a volume: which folders of this machine they mean. Pure functions.

An engine is in a VM, which does not see this machine's files. Paths of the VM's own system
(``/proc``), and its Docker's socket by all of its names, pass: also by those which it has on this
machine, because ``DOCKER_HOST`` says so. The VM knows it by its usual name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
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
    _check(found, engine, (*sockets, *DOCKER_SOCKETS))
    named = {source for source in found if _clean(source) in sockets}
    return _with_docker_socket(config, named) if named else config


def check_volume(volume: Mapping[str, Any], engine: str) -> None:
    """The same for the body that makes a volume, which may stand for a folder. ``Refusal``."""
    _check(_bound(volume.get("DriverOpts")), engine, DOCKER_SOCKETS)


def _check(sources: Iterable[str], engine: str, sockets: tuple[str, ...]) -> None:
    for source in sources:
        path = _clean(source)
        if path in sockets or _is_systems(path):
            continue
        raise Refusal(
            400,
            f"{source} cannot be mounted: the engine {engine} is in a VM, which does not see this "
            "machine's folders; use a volume (-v NAME:/path), copy files in with `docker cp`, or "
            "put them into the image",
        )


def _clean(source: str) -> str:
    """As Docker reads a path: ``//var/run/./docker.sock`` is the socket, too."""
    return "/" + posixpath.normpath(source).lstrip("/")


def _with_docker_socket(config: Mapping[str, Any], sources: set[str]) -> dict[str, Any]:
    def named(one: Any) -> Any:
        if isinstance(one, str) and one.partition(":")[0] in sources:
            return DOCKER_SOCKETS[0] + one.removeprefix(one.partition(":")[0])
        if isinstance(one, Mapping) and one.get("Source") in sources:
            return {**one, "Source": DOCKER_SOCKETS[0]}
        return one

    host = dict(config["HostConfig"])
    for key in ("Binds", "Mounts"):
        if isinstance(host.get(key), list):
            host[key] = [named(one) for one in host[key]]
    return {**config, "HostConfig": host}


def _is_systems(source: str) -> bool:
    return any(PurePosixPath(source).is_relative_to(one) for one in _SYSTEM)


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
        elif isinstance(mount, Mapping):
            driver = _mapping(_mapping(mount.get("VolumeOptions")).get("DriverConfig"))
            yield from _bound(driver.get("Options"))


def _bound(options: Any) -> Iterator[str]:
    """The folder that a volume stands for, by options of Docker's ``local`` driver."""
    said = _mapping(options)
    if {"bind", "rbind"}.intersection(str(said.get("o", "")).split(",")):
        yield str(said.get("device", ""))


def _mapping(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}
