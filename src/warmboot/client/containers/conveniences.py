"""What one call of the client does in several steps."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmboot.client.results import Container
from warmboot.model.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from warmboot.client.sessions import Session

PAUSE_S = 0.05
"""Between attempts to connect: nothing tells when a program listens."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program has written, and its exit code."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Its standard output; what is not UTF-8 in it is replaced."""
        return self.stdout.decode(errors="replace")


async def collected(session: Session, stdin: bytes = b"") -> Finished:
    """Give a process its input, and read its output to the end.

    ``Unavailable`` if the session is cut off, or what the manager tells.
    """

    async def feed() -> None:
        with contextlib.suppress(Unavailable):  # why it takes no more is told by its output's end
            await session.write(stdin)
            await session.write_eof()

    said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(feed()) if stdin else None
            async for chunk in session:
                said[chunk.stream] += chunk.data
            if feeding is not None:
                feeding.cancel()  # its process has ended
    except ExceptionGroup as errors:  # of one error, as a rule: who called expects it, not a group
        raise errors.exceptions[0] from None
    if session.exit_code is None:
        raise Unavailable("the exit code is not known", resolution="see `warmboot ps -a`")
    return Finished(session.exit_code, bytes(said["stdout"]), bytes(said["stderr"]))


def address_of(container: Container, container_port: int) -> tuple[str, int]:
    """Where a port is published; ``Conflict`` if it is not, or the container does not run."""
    if container.state != "running":
        raise Conflict(f"{container.name} is not running", details=f"it is {container.state}")
    for port in container.ports:
        if (port.container_port, port.protocol) == (container_port, "tcp"):
            return ("127.0.0.1" if port.host_ip == "0.0.0.0" else port.host_ip), port.host_port
    raise Conflict(
        f"{container.name} does not publish its port {container_port}",
        resolution=f'create it with ports=[{{"container_port": {container_port}}}]',
    )


async def accepts(host: str, port: int) -> bool:
    """Whether a connection is accepted; if not, after a pause."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        await asyncio.sleep(PAUSE_S)
        return False
    writer.close()
    return True
