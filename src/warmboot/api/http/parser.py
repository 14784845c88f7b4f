"""A stricter h11 parser: lines must end with CR LF, and heads must satisfy ``heads``."""

from __future__ import annotations

import re
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer

from warmboot.api.http.heads import (
    MAX_HEAD_BYTES,
    BadHead,
    check_chunk_header,
    check_head,
    check_trailers,
)

_END = b"\r\n\r\n"
_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")


class StrictConnection(h11.Connection):
    """The server's side. ``refusal`` is the error that ended it, if one did."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal: h11.RemoteProtocolError | None = None
        # h11 has no hook between its buffer and its parser; test_http_heads guards this one.
        self._receive_buffer = _StrictBuffer(self)

    def next_event(self) -> Any:
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.refusal = error
            raise


class _StrictBuffer(ReceiveBuffer):
    """Looks at lines while they still have their ends."""

    def __init__(self, connection: h11.Connection) -> None:
        super().__init__()
        self._connection = connection
        self._looked_at = 0

    def _extract(self, count: int) -> bytearray:
        self._looked_at = 0
        return super()._extract(count)

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """A whole head, or all trailers; ``None`` while their end is not there."""
        is_head = self._connection.their_state is h11.IDLE
        if not is_head and self._data[:2] == b"\r\n":
            return super().maybe_extract_lines()
        try:
            end = self._end_of_lines()
            if end is None:
                return None
            lines = bytes(self._data[:end]).split(b"\r\n")
            (check_head if is_head else check_trailers)(lines)
        except BadHead as error:
            raise _as_h11(error) from error
        return super().maybe_extract_lines()

    def _end_of_lines(self) -> int | None:
        """Where the last line ends. Raises ``BadHead`` for ends of lines that are not CR LF."""
        start = max(0, self._looked_at - len(_END))
        end = self._data.find(_END, start)
        size = len(self._data) if end < 0 else end + len(_END)
        if _BARE.search(self._data, start, size):
            raise BadHead("a line does not end with CR LF")
        if size > MAX_HEAD_BYTES:
            raise BadHead(f"it is longer than {MAX_HEAD_BYTES} bytes", 431)
        self._looked_at = size
        return None if end < 0 else end

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line before a chunk."""
        line = super().maybe_extract_next_line()
        try:
            if line is None:
                check_chunk_header(bytes(self._data).removesuffix(b"\r"))
            else:
                check_chunk_header(bytes(line).removesuffix(b"\r\n"))
        except BadHead as error:
            raise _as_h11(error) from error
        return line


def _as_h11(error: BadHead) -> h11.LocalProtocolError:
    """h11 turns it into a ``RemoteProtocolError``, and takes nothing more from this peer."""
    return h11.LocalProtocolError(error.reason, error_status_hint=error.status)
