"""Edits the two configuration files that workers need, and preserves their other contents.

Only what has to be different is: the text around it (order, indentation, line ends, a byte order
mark, characters of any language) stays as its owner wrote it, and the old file is kept beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # there, and not in the stubs
from pathlib import Path
from typing import Any

from warmboot.model.errors import InvalidRequest
from warmboot.system.files import back_up, followed, write_atomically

TCP_ESTABLISHED = "tcp-established"
EXPERIMENTAL = "experimental"
RUNTIMES = "runtimes"
_MARK = "\ufeff"
_BLANKS = " \t\r\n"


@dataclass(frozen=True, slots=True)
class _Member:
    """A key of a JSON object and where it stands in the text: key, its end, value, its end."""

    key: str
    begin: int
    colon: int
    value: int
    end: int


def daemon_settings(path: Path) -> dict[str, Any]:
    """What stands in daemon.json; empty when there is none, ``InvalidRequest`` when broken."""
    return _parsed(path, _text(path))


def enable_experimental(path: Path) -> Path | None:
    """Set ``"experimental": true`` and keep everything else; whether and where it was backed up.

    Returns the backup, ``path`` itself for a new file, or ``None`` when nothing had to be done.
    """
    text = _text(path)
    if _parsed(path, text).get(EXPERIMENTAL) is True:
        return None
    return _replace(path, _with(text, EXPERIMENTAL, "true").encode())


def register_runtime(path: Path, name: str, program: Path) -> Path | None:
    """Have ``name`` among the ``runtimes`` of daemon.json; as ``enable_experimental``."""
    text = _text(path)
    runtimes = _parsed(path, text).get(RUNTIMES)
    if runtimes is not None and not isinstance(runtimes, dict):
        raise _broken(path, f"{RUNTIMES} is no object")
    if (runtimes or {}).get(name) == {"path": str(program)}:
        return None
    value = json.dumps({"path": str(program)})
    return _replace(path, _with_member(text, RUNTIMES, name, value).encode())


def unregister_runtime(path: Path, name: str) -> Path | None:
    """Have no ``name`` among the ``runtimes`` of daemon.json; as ``enable_experimental``."""
    text = _text(path)
    runtimes = _parsed(path, text).get(RUNTIMES)
    if not isinstance(runtimes, dict) or name not in runtimes:
        return None
    if len(runtimes) == 1:
        return _replace(path, _without(text, RUNTIMES).encode())
    at = _skip(text, len(_MARK) if text.startswith(_MARK) else 0)
    there = [member for member in _members(text, at) if member.key == RUNTIMES][-1]
    rest = _without(text[there.value : there.end], name)
    return _replace(path, f"{text[: there.value]}{rest}{text[there.end :]}".encode())


def has_tcp_established(path: Path) -> bool:
    """Whether CRIU's configuration for runc has the option (and not commented out)."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return False
    wanted = TCP_ESTABLISHED.encode()
    return any(line.split(b"#", 1)[0].strip().lstrip(b"-") == wanted for line in lines)


def enable_tcp_established(path: Path) -> Path | None:
    """Add the option after whatever stands there; as ``enable_experimental``, where it was kept."""
    if has_tcp_established(path):
        return None
    content = path.read_bytes() if path.exists() else b""
    line_end = b"\r\n" if b"\r\n" in content else b"\n"
    if content and not content.endswith(b"\n"):
        content += line_end
    return _replace(path, content + TCP_ESTABLISHED.encode() + line_end)


def _replace(path: Path, content: bytes) -> Path:
    """Write it, the old one kept; where that is, or ``path`` when there was none."""
    backup = back_up(path) if path.exists() else path
    followed(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return backup


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise _broken(path, f"it is not UTF-8: {error}") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    if not text.removeprefix(_MARK).strip():
        return {}
    try:
        found = json.loads(text.removeprefix(_MARK))
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"{path} is not a JSON object, so nothing was changed in it",
            details=f"it is a {type(found).__name__}",
            resolution="repair it by hand, then try again",
        )
    return found


def _broken(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is not valid JSON, so nothing was changed in it",
        details=why,
        resolution="repair it by hand, then try again; Docker itself cannot read it either",
    )


def _with(text: str, key: str, value: str) -> str:
    """``text``, a JSON object or nothing, with the key set to ``value``; else as it was."""
    at = _skip(text, len(_MARK) if text.startswith(_MARK) else 0)
    if at == len(text):
        return f'{{\n  "{key}": {value}\n}}\n'
    members = _members(text, at)
    for member in reversed(members):  # of a key that is there twice the last one holds
        if member.key == key:
            return f"{text[: member.value]}{value}{text[member.end :]}"
    if not members:
        closing = text.index("}", at)
        return f'{text[:at]}{{\n  "{key}": {value}\n{text[closing:]}'
    last = members[-1]
    before = text[: last.begin].rstrip(_BLANKS)
    lead = text[len(before) : last.begin]
    colon = text[last.colon : last.value]
    if not lead and len(members) == 1 and colon != ":":
        lead = " "  # {"a": 1} on one line
    return f'{text[: last.end]},{lead}"{key}"{colon}{value}{text[last.end :]}'


def _with_member(text: str, key: str, inner: str, value: str) -> str:
    """``text`` with ``inner`` set in the object that is at ``key``, which is there or not."""
    at = _skip(text, len(_MARK) if text.startswith(_MARK) else 0)
    members = _members(text, at) if at < len(text) else []
    there = next((member for member in reversed(members) if member.key == key), None)
    if there is None or not text[there.value : there.end].startswith("{"):
        return _with(text, key, f'{{"{inner}": {value}}}')
    changed = _with(text[there.value : there.end], inner, value)
    return f"{text[: there.value]}{changed}{text[there.end :]}"


def _without(text: str, key: str) -> str:
    """``text``, a JSON object, without the key, however often it is there."""
    at = _skip(text, len(_MARK) if text.startswith(_MARK) else 0)
    members = _members(text, at)
    for number, member in enumerate(members):
        if member.key != key:
            continue
        if number + 1 < len(members):
            return _without(text[: member.begin] + text[members[number + 1].begin :], key)
        begin = members[number - 1].end if number else member.begin
        return _without(text[:begin] + text[member.end :], key)
    return text


def _members(text: str, at: int) -> list[_Member]:
    """Those of the object that begins at ``at``; it is known to be valid."""
    decoder, found = json.JSONDecoder(), []
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, colon = scanstring(text, at + 1)
        value = _skip(text, _skip(text, colon) + 1)
        _, end = decoder.raw_decode(text, value)
        found.append(_Member(key, at, colon, value, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at
