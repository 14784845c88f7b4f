"""Real programs as workers: each is paused and resumed twice, and goes on as if nothing had been.

They are this machine's own, mounted into a container that has nothing else. Each counts what it is
asked, and answers with the number: on one connection, held over the pauses, and on new ones.

They are root's here: a root without CAP_SYS_RESOURCE cannot dump processes of others.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.workers.conftest import TIMEOUT_S, of_host, start_on

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

PYTHON = """
import asyncio, queue, sqlite3, sys, threading
asked = queue.Queue()

def count():
    database = sqlite3.connect("/database", isolation_level=None)
    database.execute("create table asked (number integer)")
    database.execute("begin immediate")  # and never the end of it
    while True:
        loop, answer = asked.get()
        database.execute("insert into asked values (1)")
        number = database.execute("select count(*) from asked").fetchone()[0]
        loop.call_soon_threadsafe(answer.set_result, number)

async def serve(reader, writer):
    while await reader.read(1):
        answer = asyncio.get_running_loop().create_future()
        asked.put((asyncio.get_running_loop(), answer))
        writer.write(b"%d\\n" % await answer)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
threading.Thread(target=count, daemon=True).start()
asyncio.run(main())
"""
NODE = """
let count = 0;
require("net").createServer(connection => connection.on("data", asked => {
  for (const _ of asked) connection.write(`${++count}\\n`);
})).listen(Number(process.argv[1]), "127.0.0.1");
setInterval(() => {}, 10);
"""
COUNTING_CLASS = """
yv66vgAAAD0ATQoAAgADBwAEDAAFAAYBABBqYXZhL2xhbmcvT2JqZWN0AQAGPGluaXQ+AQADKClWCgAIAAkHAAoMAAsADAEA
FGphdmEvbmV0L0luZXRBZGRyZXNzAQASZ2V0TG9vcGJhY2tBZGRyZXNzAQAYKClMamF2YS9uZXQvSW5ldEFkZHJlc3M7BwAO
AQAVamF2YS9uZXQvU2VydmVyU29ja2V0CgAQABEHABIMABMAFAEAEWphdmEvbGFuZy9JbnRlZ2VyAQAIcGFyc2VJbnQBABUo
TGphdmEvbGFuZy9TdHJpbmc7KUkKAA0AFgwABQAXAQAbKElJTGphdmEvbmV0L0luZXRBZGRyZXNzOylWCgANABkMABoAGwEA
BmFjY2VwdAEAEygpTGphdmEvbmV0L1NvY2tldDsKAB0AHgcAHwwAIAAhAQAPamF2YS9uZXQvU29ja2V0AQAOZ2V0SW5wdXRT
dHJlYW0BABcoKUxqYXZhL2lvL0lucHV0U3RyZWFtOwoAIwAkBwAlDAAmACcBABNqYXZhL2lvL0lucHV0U3RyZWFtAQAEcmVh
ZAEAAygpSQoAHQApDAAqACsBAA9nZXRPdXRwdXRTdHJlYW0BABgoKUxqYXZhL2lvL091dHB1dFN0cmVhbTsKAC0ALgcALwwA
MAAxAQAOamF2YS9sYW5nL0xvbmcBAAh0b1N0cmluZwEAFShKKUxqYXZhL2xhbmcvU3RyaW5nOwgAMwEAAQoKADUANgcANwwA
OAA5AQAQamF2YS9sYW5nL1N0cmluZwEABmNvbmNhdAEAJihMamF2YS9sYW5nL1N0cmluZzspTGphdmEvbGFuZy9TdHJpbmc7
CgA1ADsMADwAPQEACGdldEJ5dGVzAQAEKClbQgoAPwBABwBBDABCAEMBABRqYXZhL2lvL091dHB1dFN0cmVhbQEABXdyaXRl
AQAFKFtCKVYHAEUBAAhDb3VudGluZwEABENvZGUBAARtYWluAQAWKFtMamF2YS9sYW5nL1N0cmluZzspVgEADVN0YWNrTWFw
VGFibGUBAApFeGNlcHRpb25zBwBMAQATamF2YS9sYW5nL0V4Y2VwdGlvbgAhAEQAAgAAAAAAAgABAAUABgABAEYAAAARAAEA
AQAAAAUqtwABsQAAAAAACQBHAEgAAgBGAAAAdgAFAAcAAABMCUC4AAdOuwANWSoDMrgADxAJLbcAFToEGQS2ABg6BRkFtgAc
OgYZBrYAIpsAHh8KYUAZBbYAKB+4ACwSMrYANLYAOrYAPqf/4Kf/zwAAAAEASQAAABgAA/4AGAQHAAgHAA39AA0HAB0HACP5
ACIASgAAAAQAAQBLAAA=
"""
"""For a JVM of version 17 or newer, which has no compiler:

public class Counting {
    public static void main(String[] words) throws Exception {
        long count = 0;
        InetAddress here = InetAddress.getLoopbackAddress();
        ServerSocket server = new ServerSocket(Integer.parseInt(words[0]), 9, here);
        while (true) {
            Socket connection = server.accept();
            InputStream asked = connection.getInputStream();
            while (asked.read() >= 0) {
                count++;
                connection.getOutputStream().write(Long.toString(count).concat("\\n").getBytes());
            }
        }
    }
}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """``words`` are those after its name; PORT is where it listens, FOLDER has its class.

    ``fill`` are requests, each answered by a line, that have it hold ``memory_bytes``.
    """

    name: str
    words: tuple[str, ...]
    ask: bytes = b"."
    fill: tuple[bytes, ...] = ()
    memory_bytes: int = 0


_MIB = 1 << 20
PROGRAMS = (
    Program(
        "redis-server",
        ("--port", "PORT", "--bind", "127.0.0.1", "--save", ""),
        b"INCR asked\r\n",
        fill=tuple(b"SETRANGE part%d %d x\r\n" % (part, _MIB - 1) for part in range(256)),
        memory_bytes=256 * _MIB,
    ),
    Program("python3", ("-c", PYTHON, "PORT")),
    Program("node", ("-e", NODE, "PORT")),
    Program("java", ("-Xmx64m", "-cp", "FOLDER", "Counting", "PORT")),
)


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
async def test_a_real_program_goes_on_after_two_pauses(
    client: Client, engine: DockerEngine, tmp_path: Path, program: Program
) -> None:
    path = shutil.which(program.name, path="/usr/bin:/bin")
    assert path is not None, f"`scripts/setup test` installs {program.name}"
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "Counting.class").write_bytes(base64.b64decode(COUNTING_CLASS))
    port = free_port()
    filled = {"PORT": str(port), "FOLDER": "/class"}
    worker = await start_on(
        client,
        engine,
        command=[path, *(filled.get(word, word) for word in program.words)],
        mounts=[*of_host(), {"source": str(tmp_path / "class"), "target": "/class"}],
    )
    async with asyncio.timeout(3 * TIMEOUT_S):
        held = await _connected(port)
        await _fill(held, program)
        assert await _ask(held, program) == 1
        for number in (2, 5):
            assert await _ask(held, program) == number
            await client.workers.pause(worker.id)
            kept = await client.workers.checkpoints(worker.id)
            assert kept[0].size_bytes >= program.memory_bytes
            await client.workers.resume(worker.id)
            assert await _ask(held, program) == number + 1
            if program.name != "java":  # that one has a connection at a time
                other = await _connected(port)
                assert await _ask(other, program) == number + 2
                other[1].transport.abort()
            else:
                assert await _ask(held, program) == number + 2
        await _fill(held, program)  # all parts are there, as long as they were
        held[1].transport.abort()


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connected(port: int) -> _Connection:
    async def connect() -> _Connection | None:  # nothing tells when it listens
        with contextlib.suppress(OSError):
            return await asyncio.open_connection("127.0.0.1", port)
        return None

    return await eventually(connect, "it listens", TIMEOUT_S)


async def _fill(connection: _Connection, program: Program) -> None:
    reader, writer = connection
    for request in program.fill:
        writer.write(request)
        assert await reader.readline() == b":%d\r\n" % _MIB


async def _ask(connection: _Connection, program: Program) -> int:
    reader, writer = connection
    writer.write(program.ask)
    return int((await reader.readline()).lstrip(b":"))
