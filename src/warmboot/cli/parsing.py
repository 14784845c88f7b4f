"""Translates docker's option values into what the API accepts.

All raise ``ValueError`` with a sentence that says what would be right.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from warmboot.cli.standard_streams import is_text

_SIZES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_AGO = re.compile(
    r"(?=\d)((?P<hours>\d+(\.\d+)?)h)?((?P<minutes>\d+(\.\d+)?)m(?!s))?"
    r"((?P<seconds>\d+(\.\d+)?)s)?((?P<milliseconds>\d+)ms)?"
)
_SECONDS = re.compile(r"\d+(\.\d+)?")
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
    return memory_mib + memory_mib % 2


def parse_cpus(text: str) -> int:
    """A whole number of CPUs."""
    try:
        cpus = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of CPUs") from None
    if not cpus.is_integer() or cpus < 1:
        raise ValueError(
            f"{text} CPUs are not possible: a container has its own VM, and a VM has whole "
            "CPUs; use --cpus 1, 2, …"
        )
    return int(cpus)


def parse_weight(text: str) -> float:
    """A number from 0 on; how large it may be, the manager says."""
    try:
        weight = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write for example 100, 0.5 or 0") from None
    if not 0 <= weight < float("inf"):
        raise ValueError(f"{text} is not a weight; write a number of 0 or more")
    return weight


def parse_port(text: str) -> dict[str, Any]:
    """``[ip:][host:]container[/udp]``."""
    rest, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"{text!r}: the protocol is tcp or udp")
    if rest.startswith("[") or rest.count(":") > 2:
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
    port = {
        "container_port": _port(container, text),
        "host_port": _port(host, text, lowest=0) if host else 0,
        "protocol": protocol,
    }
    if ip:
        try:
            port["host_ip"] = str(ipaddress.IPv4Address(ip))
        except ValueError:
            raise ValueError(f"{text!r}: {ip!r} is not an IPv4 address") from None
    return port


def _port(text: str, whole: str, lowest: int = 1) -> int:
    if "-" in text:
        raise ValueError(f"{whole!r}: ranges of ports are not supported; use -p once for each port")
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= 65_535:
        raise ValueError(f"{whole!r}: {text!r} is not a port; ports are {lowest} to 65535")
    return int(text)


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


def parse_environment(entries: Iterable[str], files: Iterable[Path]) -> dict[str, str]:
    """Files first, then ``K=V``; a bare ``K`` takes its value from here, or is left out."""
    environment: dict[str, str] = {}
    lines = [line for file in files for line in _env_lines(file)]
    for entry in [*lines, *entries]:
        name, assigned, value = entry.partition("=")
        if not name:
            raise ValueError(f"{entry!r} has no name; write NAME=VALUE")
        if assigned:
            environment[name] = value
        elif name in os.environ:
            environment[name] = os.environ[name]
            if not is_text(environment[name]):
                raise ValueError(f"the value that {name} has here is not UTF-8 text")
    return environment


def _env_lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    lines = (line.lstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
