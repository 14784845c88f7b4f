"""The client understands managers that are older and newer than it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from warmboot.api.routes.garbage import CollectionOut, GarbageOut
from warmboot.api.routes.usage import BootSummaryOut, StorageOut, UsageOut, VmUsageOut
from warmboot.api.schemas.container_responses import ContainerOut, PortOut, StageOut, StageStepOut
from warmboot.api.schemas.image_responses import RegisteredOut, RuntimeImageOut
from warmboot.api.schemas.responses import EventOut, ShapeOut
from warmboot.api.schemas.snapshot_responses import (
    BootSecondsOut,
    RuntimeSnapshotOut,
    SnapshotStatsOut,
)
from warmboot.api.schemas.system_responses import CheckOut
from warmboot.api.schemas.worker_responses import CheckpointOut, WorkerOut
from warmboot.client import garbage, results, usage, worker_results
from warmboot.client.decode import decoded, items
from warmboot.model.errors import Unavailable

CONTAINER: Mapping[str, Any] = {
    "id": "0b4c",
    "name": "web",
    "image": "redis:7",
    "state": "running",
    "command": ["redis-server", "--save", ""],
    "boot_method": "warm",
    "fallback_reason": None,
    "fallback_message": "",
    "fallback_details": "",
    "boot_s": 0.25,
    "stages": [
        {
            "name": "identity",
            "started_s": 0.1,
            "duration_s": 0.2,
            "steps": [{"name": "clock", "duration_s": 0.1}],
        }
    ],
    "ports": [{"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1", "protocol": "tcp"}],
    "shape": {"vcpus": 1, "memory_mib": 512},
    "tty": False,
    "exit_code": None,
    "answering": False,
    "error": None,
    "created_at": "2026-01-24T12:00:00Z",
    "started_at": "2026-01-24T12:00:01+00:00",
    "finished_at": None,
}
PAIRS: list[tuple[type[Any], type[BaseModel]]] = [
    (results.RuntimeImage, RuntimeImageOut),
    (results.Registered, RegisteredOut),
    (results.BootSeconds, BootSecondsOut),
    (results.SnapshotStats, SnapshotStatsOut),
    (results.RuntimeSnapshot, RuntimeSnapshotOut),
    (results.Shape, ShapeOut),
    (results.Port, PortOut),
    (results.Stage, StageOut),
    (results.StageStep, StageStepOut),
    (results.Container, ContainerOut),
    (results.Event, EventOut),
    (results.Check, CheckOut),
    (worker_results.Worker, WorkerOut),
    (worker_results.Checkpoint, CheckpointOut),
    (garbage.Garbage, GarbageOut),
    (garbage.Collection, CollectionOut),
    (usage.Usage, UsageOut),
    (usage.Storage, StorageOut),
    (usage.VmUsage, VmUsageOut),
    (usage.BootSummary, BootSummaryOut),
]


def test_an_answer_is_typed_at_every_depth_and_kept_as_it_came() -> None:
    container = decoded(results.Container, CONTAINER)
    assert container.command == ("redis-server", "--save", "")
    assert container.created_at == datetime(2026, 1, 24, 12, tzinfo=UTC)
    assert container.finished_at is None
    assert container.ports == (results.Port(80, 8080, "127.0.0.1", "tcp"),)
    step = results.StageStep("clock", 0.1)
    assert container.stages == (results.Stage("identity", 0.1, 0.2, (step,)),)
    assert container.shape == results.Shape(1, 512)
    assert not container.answering
    assert container.raw is CONTAINER


def test_values_of_a_mapping_are_typed() -> None:
    summary = {"count": 2, "median_s": 0.3, "max_s": 0.4, "reasons": {}}
    storage = {"total_bytes": 3, "free_bytes": 2, "floor_bytes": 1}
    answer = {
        "at": "2026-01-24T12:00:00Z",
        "window_s": 300.0,
        "boots": {"warm": summary},
        "vms": [],
        "storage": storage,
    }
    found = decoded(usage.Usage, answer)
    assert found.boots == {"warm": usage.BootSummary(2, 0.3, 0.4, {})}


def test_what_a_newer_manager_says_more_is_left_out_at_every_depth() -> None:
    more = {
        **CONTAINER,
        "colour": "red",
        "shape": {**CONTAINER["shape"], "gpus": 1},
        "ports": [{**CONTAINER["ports"][0], "proxy": "v2"}],
        "stages": [{**CONTAINER["stages"][0], "cpu_s": 0.1}],
    }
    known = decoded(results.Container, CONTAINER)
    assert dataclasses.replace(decoded(results.Container, more), raw=known.raw) == known


def test_what_an_older_manager_does_not_say_has_its_default() -> None:
    older = {name: value for name, value in CONTAINER.items() if name != "answering"}
    assert decoded(results.Container, older).answering


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shape": {"vcpus": 1}}, "Shape lacks memory_mib"),
        ({"shape": "large"}, "Shape: 'large' is no object"),
        ({"ports": 7}, "Container.ports: 'int' object is not iterable"),
        (
            {"created_at": "yesterday"},
            "Container.created_at: Invalid isoformat string",
        ),
    ],
)
def test_what_is_not_understood_is_said(change: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(Unavailable) as caught:
        items(results.Container, {"items": [{**CONTAINER, **change}]})
    assert caught.value.details.startswith(problem)
    assert caught.value.resolution


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda one: one.__name__)
def test_the_api_says_all_that_the_client_asks_for(
    ours: type[Any], theirs: type[BaseModel]
) -> None:
    asked = {field.name for field in dataclasses.fields(ours)} - {"raw"}
    assert asked <= set(theirs.model_json_schema(mode="serialization")["properties"])
