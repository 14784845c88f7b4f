"""The logins that ``docker login`` has left here, as docker's own command line finds them.

    config.json: credHelpers (of one registry) ─▶ credsStore (of all) ─▶ auths (in the file itself)

The first two name programs, ``docker-credential-…``, which are asked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from warmboot.cli.terminal.foreground import note
from warmboot.model.conventions.registry_logins import DOCKER_HUB, HUBS_ADDRESS, host_of
from warmboot.model.errors import InvalidRequest, NotFound, WarmbootError

Login = dict[str, str]
"""As the API takes it."""

RegistryAuth = Annotated[
    list[str] | None,
    typer.Option(
        "--registry-auth",
        help="pull, push and build with your docker logins; =REGISTRY: with this one only",
        metavar="[=REGISTRY]",
    ),
]
"""Its value is empty where none was given: then all are meant."""

_HELPER_TIMEOUT_S = 120.0
"""It may ask its user for a password."""

_NOT_FOUND = "credentials not found in native keychain"
"""So a helper says that it has none."""

_TOKEN_USER = "<token>"
"""So a helper says that the secret is an identity token."""


async def docker_logins(registries: Iterable[str] | None) -> list[Login]:
    """The user's docker logins at these registries; at all if one is empty; none for
    ``None``. ``WarmbootError``.
    """
    if registries is None:
        return []
    names = list(registries)
    return await asyncio.to_thread(_found, [] if "" in names else names)


def _found(registries: Sequence[str]) -> list[Login]:
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    config = _Config(file)
    if registries:
        return [config.login(registry) for registry in dict.fromkeys(map(host_of, registries))]
    if not (logins := config.all()):
        raise _no_login("there is no docker login here", file)
    return logins


class _Config:
    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            said = json.loads(file.read_bytes())
        except FileNotFoundError:
            said = {}
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"docker's configuration {file} cannot be read",
                details=error.strerror or "" if isinstance(error, OSError) else "it is no JSON",
                resolution="correct it, or leave --registry-auth out",
            ) from None
        said = said if isinstance(said, dict) else {}
        self._auths, self._helpers = _named(said, "auths"), _named(said, "credHelpers")
        self._store = said.get("credsStore") or ""

    def login(self, host: str) -> Login:
        """``NotFound`` if there is none."""
        address = HUBS_ADDRESS if host == DOCKER_HUB else host
        helper = self._helpers.get(address) or self._helpers.get(host) or self._store
        found = _asked(helper, address) if helper else self._in_file(address)
        if found is None:
            raise _no_login(f"there is no docker login at {host} here", self._file, host)
        return found

    def all(self) -> list[Login]:
        found = {}
        for address in _listed(self._store) if self._store else self._auths:
            login = _asked(self._store, address) if self._store else self._in_file(address)
            found[host_of(address)] = login
        for address, helper in self._helpers.items():
            try:
                found[host_of(address)] = _asked(helper, address)
            except WarmbootError as error:  # as docker does: the others are good
                note(f"without the login at {address}: {error.brief} ({error.details})")
        return [login for login in found.values() if login is not None]

    def _in_file(self, address: str) -> Login | None:
        said = self._auths.get(address)
        if said is None:
            others = (name for name in self._auths if host_of(name) == host_of(address))
            said = self._auths.get(next(others, ""))
        if not isinstance(said, dict):
            return None
        user, password = said.get("username") or "", said.get("password") or ""
        if auth := said.get("auth"):
            user, password = self._decoded(auth, address)
        return _login(
            address,
            username=user,
            password=password,
            identity_token=said.get("identitytoken") or "",
            registry_token=said.get("registrytoken") or "",
        )

    def _decoded(self, auth: str, address: str) -> tuple[str, str]:
        try:
            user, colon, password = base64.b64decode(auth).decode().partition(":")
        except (binascii.Error, ValueError, TypeError):
            colon = ""
        if not colon or not user:
            raise InvalidRequest(
                f"the login at {address} in {self._file} is not of docker's form",
                resolution=_login_at(host_of(address)),
            )
        return user, password.strip("\0")


def _named(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    return found if isinstance(found, dict) else {}


def _login(address: str, **secrets: str) -> Login | None:
    given = {name: value for name, value in secrets.items() if value}
    return {"registry": host_of(address), **given} if set(given) - {"username"} else None


def _listed(helper: str) -> list[str]:
    found = json.loads(_said_by(helper, "list", "") or "{}")
    return list(found) if isinstance(found, dict) else []


def _asked(helper: str, address: str) -> Login | None:
    if (said := _said_by(helper, "get", address)) is None:
        return None
    found = json.loads(said)
    user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
    if user == _TOKEN_USER:
        return _login(address, identity_token=secret)
    return _login(address, username=user, password=secret)


def _said_by(helper: str, action: str, address: str) -> str | None:
    """A JSON object; ``None`` if it has no such login. ``WarmbootError``."""
    program = f"docker-credential-{helper}"
    try:
        ran = subprocess.run(
            [program, action],
            input=address.encode(),
            stdout=subprocess.PIPE,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
        said = ran.stdout.decode(errors="replace").strip()
        if ran.returncode == 0:
            if not isinstance(json.loads(said), dict):
                raise ValueError(said)
            return said
    except FileNotFoundError:
        raise _failed(program, "there is no such program") from None
    except PermissionError:
        raise _failed(program, "it cannot be executed") from None
    except subprocess.TimeoutExpired:
        raise _failed(program, f"it gave no answer within {_HELPER_TIMEOUT_S:g} s") from None
    except (ValueError, RecursionError):  # without what it said, which may be secret
        raise _failed(program, "it gave no JSON") from None
    if said == _NOT_FOUND:
        return None
    raise _failed(program, said or f"it exited with {ran.returncode}")


def _failed(program: str, why: str) -> WarmbootError:
    return WarmbootError(
        f"{program}, which docker's configuration names, gives no login",
        details=why,
        resolution="docker itself needs it, too: install or repair it, or `docker login` again",
    )


def _no_login(what: str, file: Path, host: str = "REGISTRY") -> NotFound:
    return NotFound(
        what,
        details=f"looked for in {file}",
        resolution=_login_at(host),
    )


def _login_at(host: str) -> str:
    """The command for it."""
    return "docker login" if host == DOCKER_HUB else f"docker login {host}"
