"""A connection over TLS that can be half-closed, as Docker's clients do it (``docker exec -i``).

asyncio's own TLS closes both directions when either ends. OpenSSL does not: each side's
``close_notify`` ends what that side sends, and what is for it still comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from warmboot.engine_socket.limits import HANDSHAKE_TIMEOUT_S, LINGER_S
from warmboot.engine_socket.relay import Stream

_RECORD_BYTES = 16 << 10
"""No more comes at once."""


@dataclass(frozen=True, slots=True)
class TlsStream(Stream):
    """``begin`` it before use."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    early: bytearray = field(default_factory=bytearray)
    """What had come when we ended our sending, and was not read yet."""

    @classmethod
    def over(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
    ) -> TlsStream:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        return cls(reader, writer, tls, incoming, outgoing)

    async def begin(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                while not self._has(self.tls.do_handshake):
                    await self._flush()
                    if not await self._fill():
                        raise ConnectionError("the client has ended in the handshake")
            await self._flush()
        except ssl.SSLError as error:
            await self._say_why()
            raise ConnectionError(str(error)) from error
        except TimeoutError:
            raise ConnectionError("the handshake has taken too long") from None

    async def send(self, data: bytes) -> None:
        if not data:
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionError(str(error)) from error
        await self._flush()

    async def read(self) -> bytes:
        if self.early:
            data = bytes(self.early)
            self.early.clear()
            return data
        try:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    return self.tls.read(_RECORD_BYTES)
                await self._flush()  # there are requests for new keys, which want an answer
                if not await self._fill():
                    return b""
        except (ssl.SSLError, ConnectionError):
            return b""

    def end_sending(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # no handshake, or it has ended already
            while data := self.tls.read(_RECORD_BYTES):  # else OpenSSL takes it for an error
                self.early.extend(data)
        with contextlib.suppress(OSError, ValueError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self.writer.write(self.outgoing.read())

    async def close(self) -> None:
        self.end_sending()
        await Stream.close(self)

    def _has(self, work: Callable[[], object]) -> bool:
        """Whether it is done; else it needs more to read."""
        try:
            work()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _fill(self) -> bool:
        data = await Stream.read(self)
        self.incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        if data := self.outgoing.read():
            await Stream.send(self, data)

    async def _say_why(self) -> None:
        """The client is told; with unread data a close would cut that off."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_S):
                await self._flush()
                Stream.end_sending(self)
                while await Stream.read(self):
                    pass
