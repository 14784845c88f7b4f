"""Translates docker's option values into what the API accepts.

All raise ``ValueError`` with a sentence that says what would be right.
"""

from __future__ import annotations

import codecs
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from warmboot.cli.standard_streams import is_text
from warmboot.model.conventions.port_ranges import port_range
from warmboot.model.conventions.program_start import assignments, check_length, check_size
from warmboot.model.errors import InvalidRequest
from warmboot.model.shapes import MAX_DISK_MIB, MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB

_SIZES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_AGO = re.compile(
    r"(?=\d)((?P<hours>\d+(\.\d+)?)h)?((?P<minutes>\d+(\.\d+)?)m(?!s))?"
    r"((?P<seconds>\d+(\.\d+)?)s)?((?P<milliseconds>\d+)ms)?"
)
_SECONDS = re.compile(r"\d+(\.\d+)?")
_LEADING = " \t\v\f\r\x85\xa0"
"""What may stand before a name in a file: what Go takes for white space."""

MIB = 2**20


def parse_memory(text: str) -> int:
    """``512m``, ``1g``, ``1.5g`` (a bare number is bytes, as in docker) to MiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 512m or 1g")
    size_bytes = float(match[1]) * _SIZES[match[2].lower()]
    if size_bytes < MIB:
        raise ValueError(f"{text!r} is less than 1 MiB; write for example 512m or 1g")
    if size_bytes >= 1 << 60:
        raise ValueError(f"{text!r} is more than a machine has; write for example 512m or 1g")
    memory_mib = round(size_bytes / MIB)
    memory_mib += memory_mib % 2
    if not MIN_MEMORY_MIB <= memory_mib <= MAX_MEMORY_MIB:
        raise ValueError(
            f"{text!r} is not possible: a VM has {MIN_MEMORY_MIB}m to {MAX_MEMORY_MIB // 1024}g"
        )
    return memory_mib


def parse_tcp(text: str) -> dict[str, Any]:
    """``2376``, ``192.0.2.7:2376``: an address of this machine, and a port."""
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no port; write for example 2376, or 192.0.2.7:2376")
    try:
        return {"address": str(ipaddress.IPv4Address(address or "127.0.0.1")), "port": int(port)}
    except ipaddress.AddressValueError:
        raise ValueError(
            f"{address!r} is not an IPv4 address; write for example 192.0.2.7:2376"
        ) from None


def size_in_bytes(text: str) -> int:
    """``64m``, ``1g`` (a bare number is bytes, as in docker)."""
    match = _SIZE.fullmatch(text.strip())
    size_bytes = float(match[1]) * _SIZES[match[2].lower()] if match else 0.0
    if not 1 <= size_bytes < 1 << 50:
        raise ValueError(f"invalid size: '{text}'")
    return int(size_bytes)


def parse_disk(text: str) -> int:
    """``40g``, ``2t`` to MiB, rounded up."""
    match = _SIZE.fullmatch(text.strip())
    size_bytes = float(match[1]) * _SIZES[match[2].lower()] if match else 0.0
    if not size_bytes:
        raise ValueError(f"{text!r} is not a size of a disk; write for example 40g")
    if size_bytes > MAX_DISK_MIB * MIB:
        raise ValueError(f"{text!r} is not possible: a disk has {MAX_DISK_MIB >> 20}t at most")
    return -(-int(size_bytes) // MIB)


def parse_cpus(text: str) -> int:
    """A whole number of CPUs."""
    try:
        cpus = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of CPUs") from None
    if not 1 <= cpus < float("inf") or cpus != int(cpus):
        raise ValueError(
            f"{text} CPUs are not possible: a container has its own VM, and a VM has whole "
            "CPUs; use --cpus 1, 2, …"
        )
    if cpus > MAX_VCPUS:
        raise ValueError(f"{text} CPUs are not possible: a VM has 1 to {MAX_VCPUS}")
    return int(cpus)


def parse_folder(text: str) -> str:
    """A folder in the container: docker takes an absolute path only."""
    if text and not text.startswith("/"):
        raise ValueError(f"the working folder {text!r} is not an absolute path")
    return text


def parse_weight(text: str) -> float:
    """A number from 0 on; how large it may be, the manager says."""
    try:
        weight = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write for example 100, 0.5 or 0") from None
    if not 0 <= weight < float("inf"):
        raise ValueError(f"{text} is not a weight; write a number of 0 or more")
    return weight


def parse_ports(text: str) -> list[dict[str, Any]]:
    """``[ip:][host:]container[/udp]``, of which host and container may be ranges, as ``80-90``."""
    rest, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"{text!r}: the protocol is tcp or udp")
    if rest.startswith("[") or ("::" in rest and rest.count(":") > 2):
        raise ValueError(
            f"{text!r}: ports are published on IPv4 addresses only; leave the address out, or "
            "write for example 127.0.0.1:8080:80"
        )
    ip = ""
    parts = rest.split(":")
    if len(parts) == 3:
        ip, *parts = parts
    if len(parts) > 2:
        raise ValueError(f"{text!r} is not a port; write [ip:][host:]container[/udp]")
    host, container = ("", *parts) if len(parts) == 1 else parts
    if "." in host:
        raise ValueError(
            f"{text!r} has an address, but no place for the host's port; write {host}::{container} "
            f"for any free one, or for example {host}:8080:{container}"
        )
    address = {}
    if ip:
        try:
            address["host_ip"] = str(ipaddress.IPv4Address(ip))
        except ValueError:
            raise ValueError(f"{text!r}: {ip!r} is not an IPv4 address") from None
    first, last = _ports(container, text)
    low, high = _ports(host, text, lowest=0) if host else (0, 0)
    one_of = first == last and low != high
    if low and not one_of and high - low != last - first:
        raise ValueError(
            f"invalid ranges specified for container and host Ports: '{container}' and '{host}'"
        )
    return [
        {
            "container_port": first + number,
            "host_port": low + number if low else 0,
            "protocol": protocol,
            **({"host_port_last": high} if one_of else {}),
            **address,
        }
        for number in range(last - first + 1)
    ]


def _ports(text: str, whole: str, lowest: int = 1) -> tuple[int, int]:
    found = port_range(text) if text else None
    if found is None or found[0] < lowest:
        raise ValueError(f"{whole!r}: {text!r} is not a port; ports are {lowest} to 65535")
    return found


def parse_duration(text: str) -> float:
    """``90m``, ``2h`` or ``1h30m``: seconds, more than none."""
    seconds = in_seconds(text)
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a time like 90m or 2h")
    return seconds


def in_seconds(text: str) -> float:
    """``500ms``, ``30s`` or ``1m30s``, and ``0``."""
    match = _AGO.fullmatch(text)
    if match is None and text != "0":
        raise ValueError(f"{text!r} is not a time like 30s, 90m or 2h")
    parts = (
        {unit: float(number or 0) for unit, number in match.groupdict().items()} if match else {}
    )
    return timedelta(**parts).total_seconds()


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """``10m`` or ``1h30m`` ago, seconds since 1970, or a date and time (ours, without a zone)."""
    try:
        if match := _AGO.fullmatch(text):
            parts = {unit: float(number or 0) for unit, number in match.groupdict().items()}
            return (now or datetime.now(UTC)) - timedelta(**parts)
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is not a time; write for example 10m, 2026-01-24T12:00:00 or 1769256000"
        ) from None


def parse_environment(
    entries: Iterable[str], files: Iterable[Path], words: Iterable[str] = ()
) -> dict[str, str | None]:
    """Files first, then ``K=V``, as docker does: a bare ``K`` has the value that it has here.

    One that has none here is taken away (``None``); in a file it means nothing. ``words`` are the
    program's: what is too much to start it with need not be sent.
    """
    environment: dict[str, str | None] = {}
    for file in files:
        for name, value in _env_lines(file):
            if value is not None:
                environment[name] = value
    for entry in entries:
        name, assigned, value = entry.partition("=")
        if not name:
            raise ValueError(f"{entry!r} has no name; write NAME=VALUE")
        environment[name] = _startable(name, value if assigned else _here(name))
    with _in_a_sentence():
        check_size(words, assignments(environment))
    return environment


def _startable(name: str, value: str | None) -> str | None:
    """The value, if a program can be started with it."""
    with _in_a_sentence():
        for word in assignments({name: value}):
            check_length(f"the variable {name[:64]}", word)
    return value


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except InvalidRequest as error:
        raise ValueError(f"{error.brief}: {error.details}; {error.resolution}") from None


def _here(name: str) -> str | None:
    """What a variable has in our own environment; raises ``ValueError`` where that is no text."""
    value = os.environ.get(name)
    if value is not None and not is_text(value):
        raise ValueError(f"the value that {name} has here is not UTF-8 text")
    return value


def parse_labels(entries: Iterable[str]) -> dict[str, str]:
    """``K=V``; a bare ``K`` is a label without a value."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def _env_lines(file: Path) -> Iterator[tuple[str, str | None]]:
    """Names and values; ``None`` where a line is only a name that has no value here."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    # Only a line feed ends a line: splitlines() knows of ten other characters.
    for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip(_LEADING)
            if line and not line.startswith("#"):
                name, value = _env_line(line)
                yield name, _startable(name, _here(name) if value is None else value)
        except ValueError as error:
            why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
            raise ValueError(f"{file}, line {number}: {why}") from None


def _env_line(line: str) -> tuple[str, str | None]:
    name, assigned, value = line.partition("=")
    if not name:
        raise ValueError("there is no name before the '='; write NAME=VALUE")
    if "\0" in line:
        raise ValueError("there is a NUL character in it")
    if " " in name or "\t" in name:
        raise ValueError(f"there is a blank in the name {name!r}; write NAME=VALUE")
    return name, value if assigned else None


def parse_given_folder(said: str) -> dict[str, Any]:
    """``DIR[:ro]``: a folder of this machine, as the API has it. ``ValueError``."""
    path, colon, how = said.rpartition(":")
    if not colon or how not in ("ro", "rw"):
        path, how = said, "rw"
    if not path:
        raise ValueError(f"{said!r} is no folder; one looks like . or /srv/code:ro")
    return {"path": str(Path(path).absolute()), "read_only": how == "ro"}
