"""The mirror from which Docker in VMs pulls what it would pull from Docker Hub."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class RegistryMirror:
    """``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.

    One at ``localhost`` or in 127.0.0.0/8 is this host's own. A plain one (``http``) is asked
    without TLS, because that was said.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        beside = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
        if parts.scheme not in _PORTS or not parts.hostname or any(beside) or not _port(parts):
            raise ValueError(
                "the URL of a registry, http://HOST:PORT or https://HOST:PORT, without a path, a "
                "user or a password"
            )

    @property
    def host_port(self) -> int | None:
        """The port, if it is on this host's loopback."""
        parts = urlsplit(self.url)
        name = parts.hostname or ""
        return _port(parts) if name == "localhost" or name.startswith("127.") else None

    @property
    def in_guest(self) -> str:
        """The mirror's URL for dockerd in a guest: there, 127.0.0.1 leads to this host's port."""
        scheme = urlsplit(self.url).scheme
        if (port := self.host_port) is not None:
            return f"{scheme}://127.0.0.1:{port}"
        return self.url.rstrip("/")

    @property
    def plain(self) -> tuple[str, ...]:
        """What dockerd is to ask without TLS."""
        parts = urlsplit(self.in_guest)
        return (parts.netloc,) if parts.scheme == "http" else ()


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _PORTS[parts.scheme]
    except ValueError:
        return 0
