"""Docker's multiplexed streams, taken apart as their bytes come.

Each frame is one byte that names the stream (1 stdout, 2 stderr), three zero bytes, the length as a
big-endian 32-bit number, then the data.
"""

from __future__ import annotations

HEADER_BYTES = 8


class Demultiplexer:
    """Keeps at most a header between two calls, however long a frame is."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 1
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What ``data`` goes on with: the stream and its bytes.

        Neighbours of one stream are one piece: who writes a line at a time makes many frames.
        """
        pieces: list[tuple[int, list[bytes]]] = []
        at = 0
        while at < len(data):
            if not self._left:
                missing = HEADER_BYTES - len(self._header)
                self._header += data[at : at + missing]
                at += missing
                if len(self._header) < HEADER_BYTES:
                    break
                self._stream = self._header[0]
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if pieces and pieces[-1][0] == self._stream:
                pieces[-1][1].append(piece)
            else:
                pieces.append((self._stream, [piece]))
        return [(stream, b"".join(parts)) for stream, parts in pieces]
