"""What the API tells of the model's things: nothing is missed, and nothing is told wrongly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from warmboot.api.routes.garbage import CollectionOut
from warmboot.api.routes.usage import UsageOut
from warmboot.api.schemas.container_requests import ContainerIn
from warmboot.api.schemas.container_responses import ContainerOut
from warmboot.api.schemas.image_responses import RegisteredOut, RuntimeImageOut
from warmboot.api.schemas.responses import EventOut
from warmboot.api.schemas.snapshot_responses import RuntimeSnapshotOut
from warmboot.api.schemas.system_responses import HostInfoOut
from warmboot.api.schemas.worker_requests import WorkerIn
from warmboot.api.schemas.worker_responses import CheckpointOut, WorkerOut
from warmboot.manager.protocols import Check, HostInfo, Registered
from warmboot.model.checkpoint import Checkpoint, CheckpointState, Versions
from warmboot.model.container import Container, ContainerSpec, ContainerState, PortMapping
from warmboot.model.errors import VmUnresponsive
from warmboot.model.garbage import Collection, Garbage, Kind, Why
from warmboot.model.journal.event import Event
from warmboot.model.runtime_image import FileSum, RuntimeImage, RuntimeImageManifest
from warmboot.model.runtime_snapshot import BootStats, Depth, RuntimeSnapshot, SnapshotState
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import Fit, FitKind
from warmboot.model.tenants.boot import (
    BootAttempt,
    BootMethod,
    BootPolicy,
    FallbackReason,
    StageStep,
    StageTiming,
)
from warmboot.model.usage import (
    BootSummary,
    OwnedVm,
    PooledSnapshot,
    PoolStatus,
    StorageUsage,
    Usage,
    VmUsage,
)
from warmboot.model.worker import Mount, Worker, WorkerPolicy, WorkerSpec, WorkerState

NOON = datetime(2026, 1, 24, 12, tzinfo=UTC)
ONE, TWO, THREE = UUID(int=1), UUID(int=2), UUID(int=3)
SHAPE, LARGE = Shape(1, 512), Shape(4, 2048)
SPEC = ContainerSpec(
    name="web_1",
    image="redis:7",
    command=("serve", "-v"),
    environment={"A": "1"},
    ports=(PortMapping(80),),
    shape=SHAPE,
    boot=BootPolicy.COLD,
    labels={"team": "x"},
)
CONTAINER = Container(
    id=ONE,
    spec=SPEC,
    state=ContainerState.RUNNING,
    created_at=NOON,
    shape=LARGE,
    runtime_image_id=TWO,
    boot_attempts=(BootAttempt(THREE, 4, FallbackReason.RESTORE_FAILED, "it hung"),),
    boot_method=BootMethod.COLD,
    fallback_reason=FallbackReason.REQUESTED,
    stages=(StageTiming("identity", 0.1, 0.2, (StageStep("clock", 0.1),)),),
    ports=(PortMapping(80, 8080),),
)
PORT = {"host_ip": "127.0.0.1", "protocol": "tcp"}


def told(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_dump(mode="json")
    return found


def test_of_a_container_is_told_what_was_asked_for_and_what_runs() -> None:
    answer = told(ContainerOut.of(CONTAINER))
    assert (answer["id"], answer["name"], answer["image"]) == (str(ONE), "web_1", "redis:7")
    assert (answer["command"], answer["entrypoint"]) == (["serve", "-v"], None)
    assert (answer["boot"], answer["boot_method"]) == ("cold", "cold")
    assert answer["ports"] == [{"container_port": 80, "host_port": 8080, **PORT}]
    assert answer["requested_ports"] == [{"container_port": 80, "host_port": 0, **PORT}]
    assert answer["shape"] == {"vcpus": 4, "memory_mib": 2048}
    assert answer["requested_shape"] == {"vcpus": 1, "memory_mib": 512}
    assert answer["fallback_message"] == "A cold boot was asked for"
    assert answer["hostname"] == SPEC.host_name
    assert answer["runtime_image_id"] == str(TWO)
    (attempt,), (stage,) = answer["boot_attempts"], answer["stages"]
    assert (attempt["reason"], attempt["message"]) == ("restore_failed", "Restore failed")
    assert stage["steps"] == [{"name": "clock", "duration_s": 0.1}]


def test_the_image_that_was_asked_for_comes_before_the_one_that_was_taken() -> None:
    asked = replace(CONTAINER, spec=replace(SPEC, runtime_image_id=THREE))
    assert told(ContainerOut.of(asked))["runtime_image_id"] == str(THREE)


@pytest.mark.parametrize(("code", "answering"), [(VmUnresponsive.code, False), ("x", True)])
def test_a_container_answers_unless_its_error_says_otherwise(code: str, answering: bool) -> None:
    container = replace(CONTAINER, error={"code": code})
    assert told(ContainerOut.of(container))["answering"] is answering
    assert told(ContainerOut.of(replace(CONTAINER, error=None)))["answering"]


def test_of_a_worker_and_a_checkpoint_all_is_told() -> None:
    spec = WorkerSpec("job", "redis:7", mounts=(Mount("/a", "/b"),))
    spec = replace(spec, policy=WorkerPolicy(keep_checkpoints=4, wake_on=(80,)))
    worker = told(WorkerOut.of(Worker(ONE, spec, WorkerState.PAUSED, NOON)))
    assert (worker["name"], worker["state"], worker["image"]) == ("job", "paused", "redis:7")
    assert worker["mounts"] == [{"source": "/a", "target": "/b", "read_only": False}]
    assert worker["policy"]["keep_checkpoints"] == 4
    assert worker["policy"]["wake_on"] == [80]
    versions = Versions("28.5", "4.2", "6.12", "x86_64")
    made = Checkpoint(
        id=ONE,
        worker_id=TWO,
        name="first",
        state=CheckpointState.READY,
        created_at=NOON,
        image_digest="sha256:0",
        versions=versions,
    )
    checkpoint = told(CheckpointOut.of(made))
    assert checkpoint["versions"]["criu"] == "4.2"
    assert (checkpoint["worker_id"], checkpoint["state"]) == (str(TWO), "ready")


def test_of_an_image_its_manifest_is_told() -> None:
    manifest = RuntimeImageManifest(
        "sha256:0", {"kernel": FileSum(7, "ab")}, "quiet", "v3", {"origin": "x"}
    )
    image = RuntimeImage(ONE, "default", "sha256:0", Path("/images/0"), manifest, NOON)
    answer = told(RuntimeImageOut.measured(image, 3))
    assert (answer["path"], answer["agent_version"]) == ("/images/0", "v3")
    assert answer["files"] == {"kernel": {"size_bytes": 7, "sha256": "ab"}}
    assert answer["stored_bytes"] == 3
    registered = told(RegisteredOut.of(Registered(image, TWO, True, "")))
    assert registered == {
        "id": str(ONE),
        "snapshot_id": str(TWO),
        "snapshot_begun": True,
        "note": "",
    }


def test_of_a_snapshot_its_boots_and_whether_it_is_usable_are_told() -> None:
    snapshot = RuntimeSnapshot(
        id=ONE,
        runtime_image_id=TWO,
        snapshot_path=Path("/snapshots/1"),
        state=SnapshotState.READY,
        hypervisor="qemu",
        fc_version="10.0",
        shape=SHAPE,
        created_at=NOON,
        success_count=3,
        failure_count=1,
        boots=BootStats(3, 1.0, (0.2, 0.3, 0.5)),
    )
    answer = told(RuntimeSnapshotOut.judged(snapshot, Fit(FitKind.NOT_HERE, "cpu_model", "other")))
    assert answer["stats"] == {
        "boots": 4,
        "successes": 3,
        "failures": 1,
        "boot_s": {"count": 3, "median": 0.3, "mean": 0.3333},
    }
    assert (answer["usable"], answer["unmet_requirement"]) == (False, "cpu_model")
    assert (answer["unusable_because"], answer["snapshot_path"]) == ("other", "/snapshots/1")


def test_of_the_host_events_garbage_and_use_all_is_told() -> None:
    check = Check("kvm", False, "no /dev/kvm")
    pooled = PooledSnapshot(UUID(int=1), Depth.IMAGE, "redis:7", 1, 2, 5)
    info = HostInfo(
        version="1",
        hypervisor="qemu",
        hypervisor_version="10",
        accelerator="tcg",
        storage_root=Path("/srv"),
        default_shape=SHAPE,
        warm_pool=PoolStatus(ready=1, size=2, min=1, max=8, snapshots=(pooled,)),
        checks=(check,),
    )
    answer = told(HostInfoOut.of(info))
    assert answer["checks"][0]["summary"] == "no /dev/kvm"
    assert (answer["standby_vms"], answer["standby_vms_most"]) == (1, 2), "by their earlier names"
    assert answer["warm_pool"]["snapshots"][0]["image"] == "redis:7"
    event = Event(id=7, at=NOON, kind="x", subject_id="y", data={"n": [1, None]})
    assert told(EventOut.of(event))["data"] == {"n": [1, None]}
    gone = Garbage(Kind.CACHE, "mem", Why.ORPHAN, 5, Path("/cache/mem"))
    removed = told(CollectionOut.of(Collection(True, (gone,), (), 1.0)))["removed"]
    assert removed == [
        {
            "kind": "cache",
            "name": "mem",
            "why": "orphan",
            "reason": "nobody's",
            "size_bytes": 5,
            "path": "/cache/mem",
        }
    ]
    vm = OwnedVm(VmUsage("vm-1", 1.5, 10, 5), "container", ONE)
    use = Usage(NOON, 60, {BootMethod.WARM: BootSummary(1, 0.2, 0.2)}, (vm,), StorageUsage(3, 2, 1))
    answer = told(UsageOut.of(use))
    assert answer["boots"]["warm"]["median_s"] == 0.2
    assert answer["vms"][0]["private_bytes"] == 5
    assert answer["vms"][0]["owner_id"] == str(ONE)


def test_what_is_asked_for_becomes_a_spec() -> None:
    asked = ContainerIn.model_validate(
        {
            "image": "redis:7",
            "name": "web_1",
            "command": ["serve", "-v"],
            "environment": {"A": "1"},
            "ports": [{"container_port": 80}],
            "shape": {"vcpus": 1, "memory_mib": 512},
            "boot": "cold",
            "labels": {"team": "x"},
        }
    )
    assert asked.to_model() == SPEC
    worker = WorkerIn.model_validate(
        {
            "image": "redis:7",
            "name": "job",
            "mounts": [{"source": "/a", "target": "/b"}],
            "policy": {"pause_after_idle_s": 60, "wake_on": [80]},
        }
    )
    assert worker.to_model() == WorkerSpec(
        "job",
        "redis:7",
        mounts=(Mount("/a", "/b"),),
        policy=WorkerPolicy(pause_after_idle_s=60.0, wake_on=(80,)),
    )
