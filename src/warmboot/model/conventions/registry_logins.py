"""Logins at registries, and the headers in which Docker takes them.

X-Registry-Auth     for one registry: base64url of a JSON object
X-Registry-Config   for all that a build may pull from: base64url of one that has such objects by
                    the registries' addresses

Clients that have no login often send an empty one: that is none.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmboot.model.errors import InvalidRequest

AUTH, CONFIG = b"X-Registry-Auth", b"X-Registry-Config"

DOCKER_HUB = "docker.io"
HUBS_ADDRESS = "https://index.docker.io/v1/"
_HUBS_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_SECRETS = ("password", "auth", "identitytoken", "registrytoken")

MOST_BYTES = 12 << 10
"""Of all logins of an engine, as JSON: they have to fit in the head of a request."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """``registry`` is HOST[:PORT], or an address as docker's config.json has them."""

    registry: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        return host_of(self.registry)

    @property
    def as_docker_says(self) -> dict[str, str]:
        said = {
            "username": self.username,
            "password": self.password,
            "identitytoken": self.identity_token,
            "registrytoken": self.registry_token,
            "serveraddress": _address_of(self.host),
        }
        return {name: value for name, value in said.items() if value}


def host_of(registry: str) -> str:
    """HOST[:PORT] of a registry's address; Docker Hub has several."""
    host = registry.rpartition("://")[2].partition("/")[0].lower()
    return DOCKER_HUB if host in _HUBS_NAMES else host


def registry_of(reference: str) -> str:
    """HOST[:PORT] of the registry that an image's name asks for."""
    first, slash, _ = reference.partition("/")
    named = slash and (
        first == "localhost" or "." in first or ":" in first or first.lower() != first
    )
    return host_of(first) if named else DOCKER_HUB


def check_size(logins: Sequence[RegistryLogin]) -> None:
    """``InvalidRequest`` if they would not fit in a head."""
    if (size := len(_encoded(_by_address(logins)))) > MOST_BYTES * 4 // 3:
        raise InvalidRequest(
            f"the logins take {size * 3 // 4} bytes, and {MOST_BYTES} fit in a request to Docker",
            resolution="name the registries that the engine needs",
        )


def auth_header(
    logins: Iterable[RegistryLogin], reference: str, given: bytes | None
) -> bytes | None:
    """The value for an image, unless the client has given one; ``None`` to leave it as it is."""
    if given is not None and _holds_login(_decoded(given)):
        return None
    host = registry_of(reference)
    login = next((login for login in logins if login.host == host), None)
    return None if login is None else _encoded(login.as_docker_says)


def config_header(logins: Sequence[RegistryLogin], given: bytes | None) -> bytes | None:
    """The value with those, too, that the client has not given; ``None`` to leave it as it is."""
    theirs = {} if given is None else _decoded(given)
    if not isinstance(theirs, dict):
        return None
    has = {host_of(name) for name, said in theirs.items() if _holds_login(said)}
    ours = _by_address([login for login in logins if login.host not in has])
    return _encoded({**theirs, **ours}) if ours else None


def _by_address(logins: Iterable[RegistryLogin]) -> dict[str, dict[str, str]]:
    return {_address_of(login.host): login.as_docker_says for login in logins}


def _address_of(host: str) -> str:
    """As docker's command line says it."""
    return HUBS_ADDRESS if host == DOCKER_HUB else host


def _holds_login(said: Any) -> bool:
    """Whatever we do not understand is the client's own affair."""
    return not isinstance(said, dict) or any(said.get(name) for name in _SECRETS)


def _encoded(said: Mapping[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(said).encode())


def _decoded(header: bytes) -> Any:
    """Docker takes an empty one for none; ``None`` if it is of another form."""
    plain = header.strip().replace(b"+", b"-").replace(b"/", b"_")
    if not plain:
        return {}
    try:
        return json.loads(base64.urlsafe_b64decode(plain + b"=" * (-len(plain) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
