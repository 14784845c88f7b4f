"""Translates the values of Docker's options into what the API accepts. Pure functions.

All raise ``ValueError``, in Docker's words where it has some.
"""

from __future__ import annotations

import csv
import ipaddress
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from warmboot.cli.parsing import in_seconds, size_in_bytes
from warmboot.model.shapes import MAX_VCPUS
from warmboot.model.tenants.container_options import ULIMITS, PullPolicy, RestartMode

_READ_ONLY = {"ro": True, "readonly": True, "rw": False}
_LABELS = frozenset({"z", "Z", "nocopy"})
"""Of volumes, and without a meaning where a VM has them for itself."""


def cpus(text: str) -> tuple[int, float | None]:
    """How many CPUs its VM has, and how much of them it may use; ``None``: all."""
    try:
        wanted = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of CPUs") from None
    if not math.isfinite(wanted) or not 0.01 <= wanted <= MAX_VCPUS:
        raise ValueError(f"{text} CPUs are not possible: a VM has 1 to {MAX_VCPUS}")
    whole = math.ceil(wanted)
    return whole, None if wanted == whole else wanted


def volume(text: str) -> dict[str, Any]:
    """``-v``: ``NAME:/path[:ro]``, ``/path`` for a new volume, or ``DIR:/path[:ro]`` for something
    of this machine."""
    parts = text.split(":")
    if "" in parts:
        raise ValueError(f"invalid spec: {text}: empty section between colons")
    if len(parts) == 1:
        return {"type": "volume", "target": _absolute(text, text)}
    source, target, *modes = parts
    if len(parts) > 3:
        raise ValueError(f"invalid volume specification: '{text}'")
    kind, source = _source(source)
    mount: dict[str, Any] = {"type": kind, "source": source, "target": _absolute(target, text)}
    for mode in ",".join(modes).split(",") if modes else ():
        if mode in _READ_ONLY:
            mount["read_only"] = _READ_ONLY[mode]
        elif mode not in _LABELS:
            raise ValueError(f"invalid mode: {mode}")
    return mount


def mount(text: str) -> dict[str, Any]:
    """``--mount``: ``type=volume,source=NAME,target=/path,readonly``, ``type=bind,source=DIR,…`` or
    ``type=tmpfs,…``; what has a comma in it is quoted, as in CSV: ``type=bind,"source=a,b",…``."""
    found: dict[str, Any] = {"type": "volume"}
    try:
        entries = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"invalid mount: {text}: {error}") from None
    for entry in entries:
        name, assigned, value = entry.partition("=")
        name = name.strip().lower()
        if name in ("readonly", "ro") and value.lower() in ("", "1", "true", "false", "0"):
            found["read_only"] = value.lower() in ("", "1", "true")
        elif not assigned:
            raise ValueError(f"invalid field '{entry}' must be a key=value pair")
        elif name == "type":
            found["type"] = value.lower()
        elif name in ("source", "src"):
            found["source"] = value
        elif name in ("target", "destination", "dst"):
            found["target"] = _absolute(value, text)
        elif name == "tmpfs-size":
            found["size_bytes"] = size_in_bytes(value)
        elif name == "tmpfs-mode":
            found["mode"] = _octal(value)
        else:
            raise ValueError(f"unexpected key '{name}' in '{entry}'")
    if found["type"] not in ("volume", "tmpfs", "bind"):
        raise ValueError(f"invalid mount type {found['type']!r}: use volume, tmpfs or bind")
    if found["type"] == "bind":
        if not found.get("source"):
            raise ValueError("source is required")
        found["source"] = str(Path(found["source"]).absolute())
    elif found["type"] == "volume" and _source(found.get("source", ""))[0] == "bind":
        raise ValueError(f"{found['source']} is no volume's name; for a folder say type=bind")
    if "target" not in found:
        raise ValueError("target is required")
    if found["type"] == "tmpfs" and found.get("source"):
        raise ValueError("cannot specify a source for a tmpfs mount")
    if found["type"] != "tmpfs" and found.keys() & {"size_bytes", "mode"}:
        raise ValueError(f"cannot mix 'tmpfs-*' options with mount type '{found['type']}'")
    return found


def tmpfs(entries: Iterable[str]) -> dict[str, str]:
    """``--tmpfs``: ``/path[:OPTIONS]``."""
    pairs = (entry.partition(":") for entry in entries)
    return {_absolute(path, path): options for path, _, options in pairs}


def ulimit(text: str) -> dict[str, Any]:
    """``NAME=SOFT[:HARD]``; -1 or ``unlimited`` is no limit."""
    name, assigned, value = text.partition("=")
    soft, _, hard = value.partition(":")
    if not assigned or not name:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    low = _limit(soft, text)
    high = _limit(hard, text) if hard else low
    if high != -1 and (low == -1 or low > high):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {text}")
    return {"name": name, "soft": low, "hard": high}


def restart(text: str) -> dict[str, Any]:
    """``no``, ``always``, ``unless-stopped`` or ``on-failure[:N]``."""
    mode, counted, count = text.partition(":")
    if counted and not (count.isascii() and count.isdigit()):
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    if mode not in [*RestartMode, ""]:
        raise ValueError(
            f"invalid restart policy: unknown policy '{mode}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    return {"mode": mode or "no", "maximum_retries": int(count or 0)}


def pull(text: str) -> str:
    if text not in list(PullPolicy):
        raise ValueError(
            f'invalid pull option: \'{text}\': must be one of "always", "missing" or "never"'
        )
    return text


def host(text: str) -> str:
    """``--add-host``: ``NAME:ADDRESS`` or ``NAME=ADDRESS``."""
    name, assigned, address = text.partition("=") if "=" in text else text.partition(":")
    if not name or not assigned:
        raise ValueError(f"bad format for add-host: {text!r}")
    if address == "host-gateway":
        raise ValueError(
            "host-gateway is not possible: no port of this machine is open to the container; an "
            "engine can have some: `warmboot engine create --host-port`"
        )
    try:
        return f"{name}:{ipaddress.ip_address(address.removeprefix('[').removesuffix(']'))}"
    except ValueError:
        raise ValueError(f"invalid IP address in add-host: {address!r}") from None


def name_server(text: str) -> str:
    """``--dns``."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def shm_size(text: str) -> int | None:
    """``--shm-size``; 0 is Docker's own size."""
    return None if text == "0" else size_in_bytes(text)


def pids_limit(number: int) -> int:
    """``--pids-limit``; 0 and what is less is no limit."""
    return number if number > 0 else -1


def sysctls(entries: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE``."""
    found: dict[str, str] = {}
    for entry in entries:
        name, assigned, value = entry.partition("=")
        if not assigned:
            raise ValueError(f"invalid sysctl {entry!r}: write NAME=VALUE")
        found[name] = value
    return found


def health(
    command: str | None,
    times: dict[str, str | None],
    retries: int | None,
    *,
    none: bool,
) -> dict[str, Any] | None:
    """``--health-*``; ``times`` by the API's names. ``None`` if nothing is said of it."""
    found: dict[str, Any] = {
        name: in_seconds(text) for name, text in times.items() if text is not None
    }
    if retries is not None:
        found["retries"] = retries
    if none and (found or command is not None):
        raise ValueError("--no-healthcheck conflicts with --health-* options")
    if none:
        return {"test": ["NONE"]}
    if command:
        found["test"] = ["CMD-SHELL", command]
    return found or None


def _source(source: str) -> tuple[str, str]:
    """The type of a mount from there, and its source as the API has it."""
    if source.startswith(("/", ".")):
        return "bind", str(Path(source).absolute())
    if any(one in source for one in "/~\\"):
        raise ValueError(
            f"{source!r} includes invalid characters for a volume name; a folder of this machine "
            "begins with / or ./"
        )
    return "volume", source


def _absolute(path: str, whole: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"invalid mount path: '{path}' mount path must be absolute ({whole})")
    return path


def _octal(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,4}", text):
        raise ValueError(f"invalid value for tmpfs-mode: {text}")
    return int(text, 8)


def _limit(text: str, whole: str) -> int:
    if text in ("-1", "unlimited"):
        return -1
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ValueError(f"invalid ulimit argument: {whole}")
    return int(text)
