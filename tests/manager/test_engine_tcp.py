"""Engines over TCP, on the simulated hypervisor: the port and the certificates of each."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import Lab, Manager, eventually, front_pids
from tests.support.ports import free_port

from warmboot.host import engine_certificates
from warmboot.manager.protocols import Check, EngineUntil
from warmboot.model.conventions.engine_certificates import AUTHORITY
from warmboot.model.errors import Conflict, InvalidRequest, NotFound
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState, TcpAddress

ADDRESS = "127.0.0.1"


async def context_of(m: Manager, engine: Engine, folder: Path) -> ssl.SSLContext:
    found = await engines_of(m).certificates(engine.name)
    context = ssl.create_default_context(cadata=found.authority)
    (folder / "client.pem").write_text(found.certificate + found.key)
    context.load_cert_chain(folder / "client.pem")
    return context


async def ping(port: int, context: ssl.SSLContext) -> tuple[int, str]:
    async with httpx.AsyncClient(verify=context, timeout=60) as client:
        answer = await client.get(f"https://{ADDRESS}:{port}/_ping")
        return answer.status_code, answer.text


def is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((ADDRESS, port))
        except OSError:
            return False
        return True


async def test_a_port_is_the_engines_until_that_is_removed(place: Lab, tmp_path: Path) -> None:
    port = free_port()
    async with place.manager() as m:
        engine = await create(m, tcp=TcpAddress(ADDRESS, port))
        assert engine.state is EngineState.RUNNING, engine.error
        context = await context_of(m, engine, tmp_path)
        assert await ping(port, context) == (200, "OK")
    assert await ping(port, context) == (200, "OK"), "without a manager"
    async with place.manager() as m:
        (front,) = front_pids(place.storage)
        os.kill(front, signal.SIGKILL)

        async def answers() -> bool:
            try:
                return await ping(port, context) == (200, "OK")
            except httpx.TransportError:
                return False

        await eventually(answers)
        await engines_of(m).stop("ci")
        code, said = await ping(port, context)
        assert (code, "is stopped" in said) == (503, True)
        await engines_of(m).delete("ci", force=True)
        assert is_free(port)
        assert list((place.storage / "engine-certificates").iterdir()) == []


async def certificates_checked(m: Manager) -> Check:
    """What ``warmboot doctor`` says of them."""
    checks = await m.services.system.doctor()
    (found,) = [check for check in checks if check.name == "certificates ci"]
    return found


async def test_renewed_certificates_are_the_only_ones_that_let_in(
    place: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with place.manager() as m:
        engine = await create(m, tcp=TcpAddress(ADDRESS, port))
        former = await context_of(m, engine, tmp_path)
        assert await ping(port, former) == (200, "OK")
        await engines_of(m).renew_certificates("ci")
        assert await ping(port, await context_of(m, engine, tmp_path)) == (200, "OK")
        with pytest.raises(httpx.ConnectError, match="verify failed"):
            await ping(port, former)
        (told,) = [e for e in await m.events_of(engine.id) if e.kind.endswith("renewed")]
        expires_at = (await engines_of(m).certificates("ci")).expires_at
        assert told.data["expires_at"] == expires_at.isoformat()
        check = await certificates_checked(m)
        assert (check.ok, f"valid until {expires_at:%Y-%m-%d}" in check.summary) == (True, True)
        monkeypatch.setattr(engine_certificates, "VALID_DAYS", 7)
        await engines_of(m).renew_certificates("ci")
        check = await certificates_checked(m)
        assert (check.ok, check.required) == (False, False)
        assert "certs --renew ci" in check.remedy
        (m.host.certificates.folder(str(engine.id)) / AUTHORITY).unlink()
        assert "cannot be read" in (await certificates_checked(m)).summary
        await engines_of(m).delete("ci", force=True)
        await create(m, "without")
        with pytest.raises(NotFound, match="no certificates"):
            await engines_of(m).renew_certificates("without")
        await engines_of(m).delete("without", force=True)


async def test_a_port_that_cannot_be_is_refused_and_leaves_nothing(place: Lab) -> None:
    async with place.manager() as m:
        await m.image()

        async def refused(address: str, port: int) -> str:
            spec = EngineSpec("other", os.geteuid(), tcp=TcpAddress(address, port))
            with pytest.raises((Conflict, InvalidRequest)) as error:
                await engines_of(m).create(spec)
            return error.value.brief

        assert "could name" in await refused("0.0.0.0", free_port())
        assert "cannot be listened on" in await refused("192.0.2.1", free_port())
        with socket.create_server((ADDRESS, 0)) as somebody:
            assert "already taken" in await refused(ADDRESS, somebody.getsockname()[1])
        port = free_port()
        await create(m, tcp=TcpAddress(ADDRESS, port))
        assert "is the engine ci's" in await refused(ADDRESS, port)
        assert len(list((place.storage / "engine-certificates").iterdir())) == 1
        with pytest.raises(Conflict):
            await engines_of(m).create(
                EngineSpec("ci", os.geteuid(), tcp=TcpAddress(ADDRESS, free_port()))
            )
        assert len(list((place.storage / "engine-certificates").iterdir())) == 1
        await engines_of(m).delete("ci", force=True)


async def test_one_without_a_port_has_no_certificates(place: Lab) -> None:
    async with place.manager() as m:
        await create(m)
        with pytest.raises(NotFound, match="no certificates"):
            await engines_of(m).certificates("ci")
        await engines_of(m).delete("ci", force=True)


async def test_a_port_that_is_taken_while_it_comes_up_is_told(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        await m.image()
        certificates, port = m.host.certificates, free_port()
        make = certificates.make
        with socket.socket() as somebody:

            async def taken_meanwhile(engine_id: str, address: str) -> None:
                await make(engine_id, address)
                somebody.bind((ADDRESS, port))
                somebody.listen()

            monkeypatch.setattr(certificates, "make", taken_meanwhile)
            spec = EngineSpec("ci", os.geteuid(), tcp=TcpAddress(ADDRESS, port))
            engine_id = await engines_of(m).create(spec)
            engine = await engines_of(m).wait(str(engine_id), EngineUntil.RUNNING, 60)
            assert (engine.state, str(port) in str(engine.error)) == (EngineState.FAILED, True)
        await engines_of(m).delete("ci", force=True)


async def test_no_key_is_logged_and_what_a_killed_manager_left_is_removed(
    place: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    left = place.storage / "engine-certificates" / "half-made.new"
    left.mkdir(parents=True)
    async with place.manager() as m:
        assert not left.exists()
        engine = await create(m, tcp=TcpAddress(ADDRESS, free_port()))
        key = (await engines_of(m).certificates("ci")).key.splitlines()[1]
        await engines_of(m).delete("ci", force=True)
        told = [str(event) for event in await m.events_of(engine.id)]
    said = capfd.readouterr()
    assert key not in said.out + said.err + "".join(told)
    assert "PRIVATE KEY" not in said.out + said.err
