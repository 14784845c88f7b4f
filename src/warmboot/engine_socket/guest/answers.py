"""Answers of dockerd: their heads, and where their bodies end.

They are passed on as they came, byte for byte: h11 would take every chunk apart and put it together
again. So a body is only followed to its end; its content is picked out where somebody needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from warmboot.engine_socket.docker_form import Headers

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n")
_EMPTY = (b"\r\n", b"\n")
_MOST_LINE_BYTES = 16 << 10
"""Of a chunk's size, and of what may follow the last chunk."""

LAST_CHUNK = b"0\r\n\r\n"


class BadAnswer(Exception):
    """The guest's answer is no HTTP."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """``raw``: as it came, with the empty line."""

    raw: bytes
    status: int
    http_1_1: bool
    headers: Headers

    @classmethod
    def parse(cls, raw: bytes) -> AnswerHead:
        """``BadAnswer``."""
        first, *lines = raw[:-4].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(first)
        if found is None:
            raise BadAnswer(f"an answer does not begin with {first[:40]!r}")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadAnswer(f"{line[:40]!r} is no header")
            headers.append((name, value.strip()))
        return cls(raw, int(found[2]), found[1] == b"1", headers)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def keeps_alive(self) -> bool:
        return self.http_1_1 and not says_close(self.headers)

    def with_headers(self, headers: Headers) -> bytes:
        """The same with others."""
        status_line = self.raw.partition(b"\r\n")[0]
        return head_of(status_line, headers)


class Body(Protocol):
    """``follow`` it to its end."""

    @property
    def ended(self) -> bool: ...

    def follow(self, data: bytes, content: list[bytes] | None = None) -> int:
        """How much of what has come is its; into ``content`` goes what it is without its frame.

        ``BadAnswer``.
        """
        ...

    def words(self, said: bytes) -> bytes:
        """One that has broken off, ended by these words; nothing where that has no form."""
        ...


def body_of(answer: AnswerHead, method: bytes) -> Body:
    """What follows the head of an answer to a request. ``BadAnswer``."""
    if method == b"HEAD" or answer.status in (204, 304):
        return SizedBody(0)
    if codings := answer.values(b"transfer-encoding"):
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise BadAnswer(f"an answer is sent as {codings}")
        return ChunkedBody()
    if sizes := set(answer.values(b"content-length")):
        size = sizes.pop()
        if sizes or not size.isdigit():
            raise BadAnswer("an answer does not say how long it is")
        return SizedBody(int(size))
    return EndlessBody()


class SizedBody:
    """A body whose length the head has told."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def ended(self) -> bool:
        return self._left == 0

    def follow(self, data: bytes, content: list[bytes] | None = None) -> int:
        used = min(self._left, len(data))
        self._left -= used
        if content is not None:
            content.append(data[:used])
        return used

    def words(self, said: bytes) -> bytes:
        return b""


class EndlessBody:
    """A body that ends with the connection; that it broke off cannot be told from its end."""

    ended = False

    def follow(self, data: bytes, content: list[bytes] | None = None) -> int:
        if content is not None:
            content.append(data)
        return len(data)

    def words(self, said: bytes) -> bytes:
        return said


class ChunkedBody:
    """A body in chunks: a size, the content, and so on until the size is 0; trailers may follow."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        self._line = b""
        self._next = self._size
        """What a line means that comes now."""
        self._trailer_bytes = 0

    def follow(self, data: bytes, content: list[bytes] | None = None) -> int:
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                step = min(self._left, len(data) - at)
                if content is not None:
                    content.append(data[at : at + step])
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at, at + _MOST_LINE_BYTES) + 1
            self._line += data[at : end or at + _MOST_LINE_BYTES]
            at = end or len(data)
            if len(self._line) >= _MOST_LINE_BYTES:
                raise BadAnswer("a line between chunks is too long")
            if end:
                line, self._line = self._line, b""
                self._next(line)
        return at

    def words(self, said: bytes) -> bytes:
        if self._left or self._line or self._next != self._size:
            return b""  # in the middle of a chunk
        return chunk(said) + LAST_CHUNK

    def _size(self, line: bytes) -> None:
        if (found := _SIZE.fullmatch(line)) is None:
            raise BadAnswer(f"{line[:40]!r} is no chunk's size")
        self._left = int(found[1], 16)
        self._next = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line not in _EMPTY:
            raise BadAnswer("a chunk is longer than its size")
        self._next = self._size

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _MOST_LINE_BYTES:
            raise BadAnswer("what follows the last chunk is too long")
        self.ended = line in _EMPTY


def chunk(data: bytes) -> bytes:
    """``data``: not empty, which would be the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def head_of(first_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = (first_line, *(name + b": " + value for name, value in headers))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def says_close(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether no other message follows on the connection of this one."""
    return any(
        name.lower() == b"connection" and b"close" in value.lower().replace(b" ", b"").split(b",")
        for name, value in headers
    )
