"""The two configuration files that workers need, changed without losing what stands in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warmboot.engine.files import back_up, write_atomically
from warmboot.model.errors import InvalidRequest

TCP_ESTABLISHED = "tcp-established"


def daemon_settings(path: Path) -> dict[str, Any]:
    """What stands in daemon.json; empty when there is none, ``InvalidRequest`` when broken."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{path} is not valid JSON, so nothing was changed in it",
            details=str(error),
            resolution="mend it by hand, then try again; Docker itself cannot read it either",
        ) from error
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"{path} is not a JSON object, so nothing was changed in it",
            details=f"it is a {type(found).__name__}",
            resolution="mend it by hand, then try again",
        )
    return found


def enable_experimental(path: Path) -> Path | None:
    """Set ``"experimental": true`` and keep everything else; whether and where it was backed up.

    Returns the backup, ``path`` itself for a new file, or ``None`` when nothing had to be done.
    """
    settings = daemon_settings(path)
    if settings.get("experimental") is True:
        return None
    backup = back_up(path) if path.exists() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    settings["experimental"] = True
    write_atomically(path, json.dumps(settings, indent=2) + "\n")
    return backup


def has_tcp_established(path: Path) -> bool:
    """Whether CRIU's configuration for runc has the option (and not commented out)."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.split("#", 1)[0].strip().lstrip("-") == TCP_ESTABLISHED for line in lines)


def enable_tcp_established(path: Path) -> bool:
    """Add the option after whatever stands there; whether anything had to be done."""
    if has_tcp_established(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        text += "\n"
    write_atomically(path, f"{text}{TCP_ESTABLISHED}\n")
    return True
