"""What ``warmboot inspect`` says of the snapshots that a container was booted from."""

from __future__ import annotations

from typing import Any

import pytest

from warmboot.cli.commands.containers import _attempt, _snapshot

ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("version", "snapshot_id", "said"),
    [(None, None, ""), (3, ID, f"version 3 {ID}"), (3, None, "version 3 (gone)"), (0, ID, ID)],
)
def test_which_snapshot_it_was(version: int | None, snapshot_id: str | None, said: str) -> None:
    raw = {"snapshot_version": version, "runtime_snapshot_id": snapshot_id}
    assert _snapshot(raw) == said


@pytest.mark.parametrize(("version", "tried"), [(2, "version 2"), (0, f"snapshot {ID[:8]}")])
def test_what_was_tried_before(version: int, tried: str) -> None:
    """A prepared image has no version, and is told by its id."""
    attempt: dict[str, Any] = {"version": version, "snapshot_id": ID, "message": "it is damaged"}
    assert _attempt(attempt) == f"{tried}: it is damaged"
