"""A folder of the host that is given to an engine or a container."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class HostFolder:
    """``path`` is absolute, and leads through no symbolic link.

    ``optional``: nobody asked for it now, so an engine comes up without it if it is gone, or its
    owner may not enter it any more.
    """

    path: str
    read_only: bool = False
    optional: bool = False

    @property
    def id(self) -> str:
        """By which host and guest know it: 16 hex digits, the same in every fork."""
        return blake2b(self.path.encode(), digest_size=8).hexdigest()


def as_frozen(path: str) -> HostFolder:
    """What a VM that is frozen has there goes on with: read-only, as what its memory still has to
    write is older than what is there by now. It has mounted it, and finds nothing if it is gone."""
    return HostFolder(path, read_only=True, optional=True)
