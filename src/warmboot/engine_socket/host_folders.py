"""Bind mounts of a container or a volume: which folders of this machine they mean.

An engine is in a VM, which sees of this machine's files only the folders that it was given: there,
each is below ``mounted_folders.IN_GUEST``, by its id. Links on the way to a mount's source are
followed here, and what that leads to has to be in one of them; inside the VM nothing leads back.

Paths of the VM's own system (``/proc``), and its Docker's socket by all of its names, pass: also by
those which it has on this machine, because ``DOCKER_HOST`` says so. The VM knows it by its usual
name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.limits import MOST_MOUNTS, MOST_PATH_LENGTH
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.model.tenants.mounted_folders import folder_of

DOCKER_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_SYSTEM = ("/proc", "/sys", "/dev", "/lib/modules", "/etc/localtime", "/var/lib/docker")
"""A path below one of them means the VM's, whoever asks."""


def checked(
    config: Mapping[str, Any], folders: Sequence[HostFolder], engine: str, *sockets: str
) -> Mapping[str, Any]:
    """The body as it is to be sent on. ``Refusal`` in words for the first folder of this machine
    that is not below one of ``folders``. Blocks where there are some.

    ``sockets``: those at which the engine is reached.
    """
    found = _in_bounds(_sources(config))
    given = {source: there for source in found if (there := _given(source, folders)) is not None}
    others = [source for source in found if source not in given]
    _check(others, engine, (*sockets, *DOCKER_SOCKETS), folders)
    named = {source: DOCKER_SOCKETS[0] for source in others if _clean(source) in sockets}
    return _with_sources(config, {**given, **named}) if given or named else config


def _given(source: str, folders: Sequence[HostFolder]) -> str | None:
    """Its name inside the VM; the innermost folder counts."""
    named = _clean(source)
    if not folders or not source.startswith("/") or _is_systems(named) or named in DOCKER_SOCKETS:
        return None
    found = folder_of(source, folders)
    return None if found is None else found[1]


def check_volume(volume: Mapping[str, Any], engine: str) -> None:
    """The same for the body that makes a volume, which may stand for a folder. ``Refusal``."""
    _check(_in_bounds(_bound(volume.get("DriverOpts"))), engine, DOCKER_SOCKETS, ())


def _in_bounds(sources: Iterator[str]) -> Sequence[str]:
    """Each of them once. ``Refusal`` for more, or longer ones, than are looked at in no time."""
    found = list(islice(sources, MOST_MOUNTS + 1))
    if len(found) > MOST_MOUNTS:
        raise Refusal(400, f"a container can mount {MOST_MOUNTS} paths at most")
    if any(len(source) > MOST_PATH_LENGTH for source in found):
        raise Refusal(400, f"a path that is mounted can have {MOST_PATH_LENGTH} characters at most")
    return list(dict.fromkeys(found))


def _check(
    sources: Iterable[str],
    engine: str,
    sockets: tuple[str, ...],
    folders: Sequence[HostFolder],
) -> None:
    for source in sources:
        path = _clean(source)
        if path in sockets or _is_systems(path):
            continue
        raise Refusal(400, _refusal(source, engine, folders))


def _refusal(source: str, engine: str, folders: Sequence[HostFolder]) -> str:
    instead = (
        "use a volume (-v NAME:/path), copy files in with `docker cp`, or put them into the image"
    )
    if folders:
        seen = ", ".join(folder.path for folder in folders)
        return (
            f"{source} cannot be mounted: of this machine's folders the engine {engine} sees only "
            f"what is in {seen}; create it with `--folder` for this one, too, or {instead}"
        )
    return (
        f"{source} cannot be mounted: the engine {engine} is in a VM, which does not see this "
        "machine's folders; create it with `--folder DIR` (`warmboot engine create`), have the "
        "manager share it with all engines (MANAGER_SHARED_FOLDERS), or "
        f"{instead}"
    )


def _clean(source: str) -> str:
    """As Docker reads a path: ``//var/run/./docker.sock`` is the socket, too."""
    return "/" + posixpath.normpath(source).lstrip("/")


def _with_sources(config: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """The same, with these sources of bind mounts in the place of those that were said."""

    def named(one: Any) -> Any:
        if isinstance(one, str) and (said := one.partition(":")[0]) in sources:
            return sources[said] + one.removeprefix(said)
        if isinstance(one, Mapping) and one.get("Type") == "bind" and one.get("Source") in sources:
            return {**one, "Source": sources[one["Source"]]}
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
