"""References of images: ``[REGISTRY/]NAME[:TAG|@DIGEST]``."""

from __future__ import annotations


def has_tag(reference: str) -> bool:
    """Whether it says which image of that name, by a tag or a digest."""
    return "@" in reference or ":" in reference.rpartition("/")[2]


def with_tag(reference: str) -> str:
    """``latest`` if it has no tag."""
    return reference if has_tag(reference) else f"{reference}:latest"


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag (``latest`` if there is none)."""
    repository, _, tag = with_tag(reference).rpartition(":")
    return repository, tag


def loopback_port(reference: str) -> int | None:
    """The port of its registry when that is on the loopback, else ``None``.

    ``localhost:5000/app`` means the machine that the user sits at, not a VM.
    """
    registry, slash, _ = reference.partition("/")
    name, _, port = registry.rpartition(":")
    local = name == "localhost" or name.startswith("127.")
    return int(port) if slash and local and port.isascii() and port.isdigit() else None
