"""What calls pass on to ``create``: its parameters, for type checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class EngineFields(TypedDict, total=False):
    """Parameters of ``Engines.create`` that ``running`` takes, too."""

    name: str | None
    shape: Mapping[str, int] | None
    boot: str | None
    snapshot: str | None
    runtime_image_id: str | None
    disk_mib: int | None
    owner_uid: int | None
    labels: Mapping[str, str] | None
    host_ports: Sequence[int] | None
    folders: Sequence[Mapping[str, Any]] | None
    tcp: Mapping[str, Any] | None
    auto_remove: bool | None
    time_to_live_s: float | None
    holder: Mapping[str, int] | None
    park_at_shutdown: bool | None
    park_after_idle_s: float | None
