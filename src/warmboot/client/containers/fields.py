"""What calls pass on to ``create`` and ``exec``: their parameters, for type checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ContainerFields(TypedDict, total=False):
    """Parameters of ``Containers.create`` that ``run`` takes, too."""

    name: str | None
    entrypoint: Sequence[str] | None
    environment: Mapping[str, str | None] | None
    ports: Sequence[Mapping[str, Any]] | None
    publish_all: bool | None
    shape: Mapping[str, int] | None
    boot: str | None
    runtime_image_id: str | None
    archive: str | None
    tty: bool | None
    stdin_open: bool | None
    auto_remove: bool | None
    labels: Mapping[str, str] | None
    user: str | None
    working_dir: str | None
    hostname: str | None
    stop_signal: str | None
    stop_timeout_s: int | None
    options: Mapping[str, Any] | None
    folders: Sequence[Mapping[str, Any]] | None
    owner_uid: int | None
    park_at_shutdown: bool | None
    park_after_idle_s: float | None


class ExecFields(TypedDict, total=False):
    """Parameters of ``Containers.exec`` that ``run_command`` takes, too."""

    tty: bool | None
    detach: bool | None
    environment: Sequence[str] | None
    user: str | None
    working_dir: str | None
    rows: int | None
    columns: int | None
