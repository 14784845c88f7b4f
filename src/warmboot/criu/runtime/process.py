"""A container's process as runc knows it, for when its engine does not answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

from warmboot.criu.runtime.orders import ROOT, runc_of
from warmboot.system.procfs import open_process


def first_process(container_id: str, root: Path = ROOT) -> int:
    """The pid of its first process; 0 when none lives."""
    runc = runc_of(container_id, root)
    if runc is None:
        return 0
    try:
        state = json.loads((runc.root / container_id / "state.json").read_text())
        pid, started = int(state["init_process_pid"]), int(state["init_process_start"])
    except (OSError, ValueError, KeyError, TypeError):  # just being made, or removed
        return 0
    held = open_process(pid, started)
    if held is None:
        return 0
    os.close(held)
    return pid
