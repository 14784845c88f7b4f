"""Certificates for engines that are reached over TCP: an authority for each, made with openssl.

    engine-certificates/<engine id>/   ca.pem  cert.pem  key.pem  server-cert.pem  server-key.pem

What an authority has signed is good for its own engine and for no other one. Its key is removed as
soon as it has signed a certificate for the server and one for clients: nobody can make more. So new
ones have another authority, and the former are good for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import shutil
import socket
import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from warmboot.model.conventions.engine_certificates import (
    AUTHORITY,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from warmboot.model.errors import DiskFull, HostError, NotFound
from warmboot.model.tenants.engine import Certificates
from warmboot.system.programs import run_program

VALID_DAYS = 3650
TIMEOUT_S = 60.0
_AUTHORITY_KEY = "ca-key.pem"
_UNFINISHED, _BEFORE = ".new", ".old"
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIGURATION = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class EngineCertificates:
    """``make`` them for an engine, ``read`` what its clients need, ``forget`` them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, engine_id: str) -> Path:
        return self._root / engine_id

    async def make(self, engine_id: str, address: str) -> None:
        """Make certificates for a server at ``address``, in the place of earlier ones.

        ``NotSupported`` without openssl; ``HostError``: those that were there are left.
        """
        new = self._root / f"{engine_id}{_UNFINISHED}"
        try:
            await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
            new.mkdir(mode=0o700, parents=True)
            self._root.chmod(0o700)
            (new / "openssl.cnf").write_text(_CONFIGURATION.format(names=_names(address)))
            await _sign_all(new, f"warmboot {engine_id}")
            for path in new.iterdir():
                path.chmod(0o600)
            self._put(new, engine_id)
        except OSError as error:
            raise _not_written(new, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _put(self, new: Path, engine_id: str) -> None:
        """``keep`` takes the former back if we are killed in between."""
        folder, before = self.folder(engine_id), self._root / f"{engine_id}{_BEFORE}"
        shutil.rmtree(before, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(before)
        new.rename(folder)
        shutil.rmtree(before, ignore_errors=True)

    def version(self, engine_id: str) -> str:
        """Another one when they are others; empty where there are none."""
        try:
            found = (self.folder(engine_id) / SERVER_CERTIFICATE).stat()
        except FileNotFoundError:
            return ""
        return f"{found.st_ino}-{found.st_mtime_ns}"

    async def read(self, engine_id: str) -> Certificates:
        """``NotFound`` where there are none."""
        folder = self.folder(engine_id)
        try:
            authority, certificate, key = (
                (folder / name).read_text() for name in (AUTHORITY, CLIENT_CERTIFICATE, CLIENT_KEY)
            )
        except FileNotFoundError as error:
            raise NotFound(
                "the engine has no certificates",
                details=f"there is no {error.filename}",
                resolution="create an engine with --tcp",
            ) from error
        return Certificates(authority, certificate, key, _end_of(folder / AUTHORITY))

    async def forget(self, engine_id: str) -> None:
        """Idempotent."""
        await asyncio.to_thread(shutil.rmtree, self.folder(engine_id), ignore_errors=True)

    async def keep(self, engine_ids: Collection[str]) -> None:
        """Those of no other engines, and none that are half made."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._root.iterdir()):
                of = path.name.removesuffix(_BEFORE)
                if of in engine_ids and not self.folder(of).exists():
                    path.rename(self.folder(of))
                elif path.name not in engine_ids:
                    await self.forget(path.name)


async def _sign_all(folder: Path, subject: str) -> None:
    await _openssl(
        folder,
        *("req", "-x509", "-config", "openssl.cnf", "-extensions", "authority", *_CURVE),
        *("-subj", f"/CN={subject}", "-days", str(VALID_DAYS), *_serial()),
        *("-keyout", _AUTHORITY_KEY, "-out", AUTHORITY),
    )
    for what, certificate, key in (
        ("server", SERVER_CERTIFICATE, SERVER_KEY),
        ("client", CLIENT_CERTIFICATE, CLIENT_KEY),
    ):
        await _openssl(
            folder,
            *("req", "-new", "-config", "openssl.cnf", *_CURVE, "-subj", f"/CN={subject} {what}"),
            *("-keyout", key, "-out", "request.pem"),
        )
        await _openssl(
            folder,
            *("x509", "-req", "-in", "request.pem", "-CA", AUTHORITY, "-CAkey", _AUTHORITY_KEY),
            *("-days", str(VALID_DAYS), *_serial()),
            *("-extfile", "openssl.cnf", "-extensions", what, "-out", certificate),
        )
    for done in (_AUTHORITY_KEY, "request.pem", "openssl.cnf"):
        (folder / done).unlink()


async def _openssl(folder: Path, *words: str) -> None:
    await run_program("openssl", *words, cwd=folder, timeout_s=TIMEOUT_S)


def _end_of(authority: Path) -> datetime:
    """It is as old as what it has signed. ``HostError`` for a file that is damaged."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority)
        (found,) = context.get_ca_certs()
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise HostError(
            "the engine's certificates cannot be read",
            details=f"{authority}: {error}",
            resolution="make new ones: `warmboot engine certs --renew ENGINE DIR`",
        ) from error


def _serial() -> tuple[str, str]:
    return "-set_serial", str(secrets.randbits(127) | 1)


def _names(address: str) -> str:
    """What clients may call the server."""
    local = IPv4Address(address).is_loopback
    return f"IP:{address}, DNS:{'localhost' if local else socket.gethostname()}"


def _not_written(path: Path, error: OSError) -> HostError | DiskFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"there is not enough space for {path}", details=str(error))
    return HostError(f"{path} could not be written", details=str(error))
