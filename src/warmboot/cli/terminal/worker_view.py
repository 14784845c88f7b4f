"""The output of ``warmboot worker show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmboot.cli.terminal.foreground import note
from warmboot.cli.terminal.output import age, print_fields
from warmboot.model.conventions.program_start import assignments

if TYPE_CHECKING:
    from warmboot.client.worker_results import Resumed, Worker


_ENGINES_OWN = (
    "the engine's own, so pauses are slow: run `warmboot doctor --fix`, then create the worker anew"
)


def print_worker(worker: Worker, state: str) -> None:
    raw, error = worker.raw, worker.error or {}
    policy = raw["policy"]
    print_fields(
        [
            ("id", worker.id),
            ("name", worker.name),
            ("image", worker.image),
            ("image digest", raw["image_digest"]),
            ("state", state),
            ("command", " ".join(worker.command or ())),
            ("network", worker.network),
            ("mounts", ", ".join(f"{m['source']}:{m['target']}" for m in raw["mounts"])),
            ("environment", " ".join(assignments(raw["environment"]))),
            ("labels", " ".join(f"{k}={v}" for k, v in raw["labels"].items())),
            ("pause when idle", _seconds(policy["pause_after_idle_s"])),
            ("checkpoint every", _seconds(policy["checkpoint_every_s"])),
            ("keeps", f"{policy['keep_checkpoints']} automatic checkpoints"),
            ("at shutdown", "paused, and resumed later" if policy["pause_at_shutdown"] else ""),
            ("woken by port", ", ".join(map(str, policy["wake_on"]))),
            ("runtime", raw.get("runtime") or _ENGINES_OWN),
            ("docker id", (worker.docker_id or "")[:12]),
            ("created", f"{age(worker.created_at)} ago"),
            ("last heard", f"{age(worker.heard_at)} ago" if worker.heard_at else ""),
            ("resumed", f"{age(worker.resumed_at)} ago" if worker.resumed_at else ""),
            ("error", ". ".join(str(error.get(k)) for k in ("brief", "details") if error.get(k))),
            ("what next", str(error.get("resolution") or "")),
        ]
    )


def tell_changed_files(ref: str, resumed: Resumed) -> None:
    for one in resumed.changed_files:
        path = one.path if one.path.isprintable() else repr(one.path)
        now = "it is gone" if one.size_bytes is None else f"{one.size_bytes} now"
        note(
            f"{ref} had {path} open, which has changed since the checkpoint "
            f"({one.size_then_bytes} bytes then, {now})"
        )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:g} s"
