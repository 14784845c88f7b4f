"""The configuration of the Firecracker driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FirecrackerConfig:
    """``binary`` is a path, or a name that is looked up on PATH. ``kvm`` is the device.

    ``start_timeout_s`` bounds the time until the API answers, ``request_timeout_s`` any request,
    ``save_timeout_s`` the writing of a snapshot, which copies all of the guest's memory.
    """

    binary: str = "firecracker"
    kvm: Path = Path("/dev/kvm")
    start_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    save_timeout_s: float = 600.0
