"""Checks of a request's head, so that every program interprets it in the same way.

Stricter than h11, and than RFC 9112 where that allows a server to repair what it gets: a repaired
message is one that a program in front may have read differently (request smuggling).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 100
MAX_CHUNK_HEADER_BYTES = 64

_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_LENGTH, _CODING = b"content-length", b"transfer-encoding"


class BadHead(Exception):
    """Why a head is refused, with the HTTP status that says so."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def check_head(lines: Sequence[bytes]) -> None:
    """Raise ``BadHead`` unless these lines (without their ends) are a clean request head."""
    first, *rest = lines or [b""]
    matched = _REQUEST_LINE.fullmatch(first)
    if matched is None:
        raise BadHead("the first line is no request line")
    method, target, major, minor = matched.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadHead("only versions 1.0 and 1.1 of HTTP are spoken here", 505)
    check_target(target)
    fields = _fields(rest)
    _check_framing(fields, version=b"1." + minor)
    if b"websocket" in fields.get(b"upgrade", [b""])[-1].lower():
        bodiless = _CODING not in fields and fields.get(_LENGTH, [b"0"]) == [b"0"]
        if method != b"GET" or minor == b"0" or not bodiless:
            raise BadHead("a WebSocket begins with a GET without a body, in version 1.1")


def check_target(target: bytes) -> None:
    """A path, that decodes to UTF-8 without control characters, and perhaps a query."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        raise BadHead("the request's target is no path")
    if b"#" in target:
        raise BadHead("the request's target has a fragment")
    if _BAD_PERCENT.search(path):
        raise BadHead("the path has a % without two hexadecimal digits")
    decoded = unquote_to_bytes(path)
    if re.search(rb"[\x00-\x1f\x7f]", decoded):
        raise BadHead("the path has control characters")
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadHead("the path is not UTF-8") from error


def check_trailers(lines: Sequence[bytes]) -> None:
    """Fields after a chunked body. They are dropped, but may not speak of framing."""
    fields = _fields(lines)
    if _LENGTH in fields or _CODING in fields:
        raise BadHead("a trailer cannot say how long a body is")


def check_chunk_header(line: bytes) -> None:
    """``line`` is a chunk's size, perhaps with an extension, which is ignored."""
    if len(line) > MAX_CHUNK_HEADER_BYTES:
        raise BadHead("a chunk's extension is too long")
    if _CONTROL.search(line):
        raise BadHead("a chunk's extension has control characters")


def _fields(lines: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    if len(lines) > MAX_FIELDS:
        raise BadHead(f"there are more than {MAX_FIELDS} fields", 431)
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            raise BadHead("a field is folded over several lines")
        if _CONTROL.search(line):
            raise BadHead("a field has control characters")
        name, _, value = line.partition(b":")
        fields.setdefault(bytes(name.strip().lower()), []).append(bytes(value.strip(b" \t")))
    return fields


def _check_framing(fields: dict[bytes, list[bytes]], *, version: bytes) -> None:
    lengths, codings = fields.get(_LENGTH, []), fields.get(_CODING, [])
    if lengths and codings:
        raise BadHead("Content-Length and Transfer-Encoding exclude each other")
    if len(lengths) > 1 or not all(_DIGITS.fullmatch(length) for length in lengths):
        raise BadHead("Content-Length is not one number of bytes")
    if codings and version == b"1.0":
        raise BadHead("version 1.0 of HTTP knows no Transfer-Encoding")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise BadHead("the only Transfer-Encoding understood is chunked", 501)
