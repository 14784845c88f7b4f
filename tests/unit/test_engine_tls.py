"""An engine's TCP port, over a fake guest: who gets in, and what passes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.engine_sockets import (
    PING,
    UPGRADE,
    Client,
    Served,
    answers,
    serving,
)
from tests.support.eventually import until
from tests.support.ports import free_port

from warmboot.engine_socket.listeners import connected, tls_stream
from warmboot.host.engine_certificates import EngineCertificates
from warmboot.model.conventions.engine_certificates import (
    AUTHORITY,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from warmboot.model.conventions.engine_front import TlsEndpoint
from warmboot.model.errors import HostError

ADDRESS = "127.0.0.1"
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


@dataclass
class Remote:
    """An engine that is reached over TCP, too."""

    engine: Served
    port: int
    certificates: EngineCertificates
    folder: Path

    def context(self) -> ssl.SSLContext:
        context = trusting(self.folder)
        context.load_cert_chain(self.folder / CLIENT_CERTIFICATE, self.folder / CLIENT_KEY)
        return context

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        given = context or self.context()
        reader, writer = await asyncio.open_connection(ADDRESS, self.port, ssl=given)
        return Client(reader, writer)

    async def connect_plainly(self) -> Client:
        return Client(*await asyncio.open_connection(ADDRESS, self.port))


def trusting(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / AUTHORITY)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does it from 3.13 on
    return context


@contextlib.asynccontextmanager
async def remote() -> AsyncIterator[Remote]:
    async with serving() as it:
        certificates = EngineCertificates(it.path.parents[1] / "certificates")
        await certificates.make("1", ADDRESS)
        folder = certificates.folder("1")
        found = Remote(it, free_port(), certificates, folder)
        await it.front.set(replace(it.engine, tls=TlsEndpoint(ADDRESS, found.port, str(folder))))
        yield found
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((ADDRESS, found.port))  # it was given back


async def test_who_has_a_certificate_of_the_engines_reaches_its_docker() -> None:
    async with remote() as it:
        client = await it.connect()
        await client.send(PING + PING)
        assert [status for status, _ in await answers(client.reader, 2)] == [200, 200]
        client.close()


@pytest.mark.parametrize("shown", ["nothing", "another-engines", "the-servers-own"])
async def test_who_has_none_is_refused(shown: str) -> None:
    async with remote() as it:
        context = trusting(it.folder)
        if shown == "another-engines":
            await it.certificates.make("2", ADDRESS)
            other = it.certificates.folder("2")
            context.load_cert_chain(other / CLIENT_CERTIFICATE, other / CLIENT_KEY)
        if shown == "the-servers-own":
            context.load_cert_chain(it.folder / SERVER_CERTIFICATE, it.folder / SERVER_KEY)
        with pytest.raises(ssl.SSLError, match="alert"):
            client = await it.connect(context)
            client.writer.write(PING)
            await client.rest()
        assert it.engine.guest.asked == []


async def test_renewed_certificates_count_from_the_next_connection_on() -> None:
    async with remote() as it:
        former, talking = it.context(), await it.connect()
        await it.certificates.make("1", ADDRESS)
        renewed = TlsEndpoint(ADDRESS, it.port, str(it.folder), it.certificates.version("1"))
        await it.engine.front.set(replace(it.engine.engine, tls=renewed))
        client = await it.connect()
        for one in (talking, client):
            await one.send(PING)
            assert (await one.answer())[0] == 200
            one.close()
        with pytest.raises(ssl.SSLError, match="verify failed"):
            await it.connect(former)
        (it.folder / SERVER_CERTIFICATE).write_text("damaged")
        with pytest.raises(OSError, match="PEM"):
            await it.engine.front.set(replace(it.engine.engine, tls=replace(renewed, version="2")))


async def test_who_speaks_no_tls_is_hung_up_on_and_asks_nothing() -> None:
    async with remote() as it:
        client = await it.connect_plainly()
        await client.send(PING)
        client.writer.write_eof()
        assert b"HTTP" not in await client.rest()
        assert it.engine.guest.asked == []


async def test_another_server_is_not_taken_for_the_engine() -> None:
    async with remote() as it:
        await it.certificates.make("2", ADDRESS)
        with pytest.raises(ssl.SSLCertVerificationError):
            await it.connect(trusting(it.certificates.folder("2")))


class HalfClosing:
    """A client that ends its sending as Go's does, and reads on."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=ADDRESS)

    async def flush(self) -> None:
        await self._client.send(self._outgoing.read())

    async def fill(self) -> None:
        data = await self._client.reader.read(1000)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def begin(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self.fill()
            else:
                await self.flush()
                return

    async def end_sending(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()

    async def rest(self) -> bytes:
        found = bytearray()
        while True:
            try:
                found += self.tls.read(1000)
            except ssl.SSLWantReadError:
                await self.fill()
            except ssl.SSLZeroReturnError:
                return bytes(found)


@VERSIONS
async def test_a_stream_passes_both_ways_and_half_closed(version: ssl.TLSVersion) -> None:
    async with remote() as it:
        context = it.context()
        context.minimum_version = context.maximum_version = version
        client = HalfClosing(await it.connect_plainly(), context)
        await client.begin()
        client.tls.write(UPGRADE)
        client.tls.write(b"first ")
        await client.flush()
        client.tls.write(b"last")
        await client.end_sending()
        assert (await client.rest()).endswith(b"\r\n\r\nhello FIRST LAST goodbye")


async def test_much_passes_both_ways_at_once() -> None:
    body = os.urandom(1 << 20) * 4
    async with remote() as it:
        client = await it.connect()
        head = f"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
        sending = asyncio.create_task(client.send(head.encode() + body))
        assert await answers(client.reader, 1, ["POST"]) == [(200, body)]
        await sending
        client.close()


async def test_half_a_handshake_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_stream, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with remote() as it:
        client = await it.connect_plainly()
        assert await client.rest() == b""
        await until(lambda: not it.engine.front.busy)


async def test_who_only_connects_makes_room_and_displaces_nobody_at_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connected, "MOST_CONNECTIONS", 2)
    async with remote() as it:
        local = [await it.engine.connect() for _ in range(2)]
        silent = [await it.connect_plainly() for _ in range(2)]
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200
        assert await silent[0].rest() == b"", "the one that has said nothing for longest"
        for one in local:
            await one.send(PING)
            assert (await one.answer())[0] == 200
        client.close()


async def test_a_port_that_somebody_has_is_told_and_the_socket_is_there_all_the_same() -> None:
    async with serving(there=False) as it:
        certificates = EngineCertificates(it.path.parents[1] / "certificates")
        await certificates.make("1", ADDRESS)
        with socket.create_server((ADDRESS, 0)) as taken:
            port = taken.getsockname()[1]
            endpoint = TlsEndpoint(ADDRESS, port, str(certificates.folder("1")))
            with pytest.raises(OSError, match=str(port)):
                await it.front.set(replace(it.engine, guest=it.guest.endpoint, tls=endpoint))
        client = await it.connect()
        await client.send(PING)
        assert (await client.answer())[0] == 200


async def test_certificates_are_roots_alone_and_nobody_can_sign_more(tmp_path: Path) -> None:
    certificates = EngineCertificates(tmp_path / "all")
    await certificates.make("1", ADDRESS)
    folder = certificates.folder("1")
    names = {AUTHORITY, CLIENT_CERTIFICATE, CLIENT_KEY, SERVER_CERTIFICATE, SERVER_KEY}
    assert {path.name for path in folder.iterdir()} == names
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    read = await certificates.read("1")
    assert "PRIVATE" not in repr(read)
    assert 3649 <= (read.expires_at - datetime.now(UTC)).days <= 3650
    (tmp_path / "all" / "2.new").mkdir()
    folder.rename(tmp_path / "all" / "1.old")  # killed when the former were out of the way
    await certificates.keep({"1"})
    assert await certificates.read("1") == read
    (tmp_path / "all" / "1.old").mkdir()
    await certificates.keep({"1"})
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["1"]
    (folder / AUTHORITY).write_text("damaged")
    with pytest.raises(HostError, match="cannot be read"):
        await certificates.read("1")
    await certificates.keep({"3"})
    assert list((tmp_path / "all").iterdir()) == []


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker program")
async def test_the_docker_program_gets_in_with_tlsverify(tmp_path: Path) -> None:
    async with remote() as it:
        it.engine.guest.told["/containers/json"] = json.dumps([]).encode()
        command = ["docker", "--tlsverify", "-H", f"tcp://{ADDRESS}:{it.port}", "ps", "-q"]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "DOCKER_CERT_PATH": str(it.folder),
        }
        for code, folder in ((0, it.folder), (1, tmp_path)):
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**environment, "DOCKER_CERT_PATH": str(folder)},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            assert process.returncode == code, said
        targets = [asked.target for asked in it.engine.guest.asked]
        assert targets[-1].endswith("/containers/json")
