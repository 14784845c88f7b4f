"""The simulated Docker's records, in the JSON of Docker's API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from warmboot.hypervisors.simulated.vmm.machine import Machine

Record = dict[str, Any]
DOCKER_VERSION, API_VERSION = "26.1.5-simulated", "1.45"


def version() -> Record:
    return {
        "Version": DOCKER_VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": "simulated",
        "Experimental": True,
    }


def info(machine: Machine, containers: Sequence[Record], images: int) -> Record:
    vcpus, memory_mib = machine.shape
    running = sum(1 for record in containers if record["state"]["Running"])
    paused = sum(1 for record in containers if record["state"]["Paused"])
    return {
        "ID": machine.ram["engine_id"],
        "Name": machine.ram["hostname"],
        "ServerVersion": DOCKER_VERSION,
        "OperatingSystem": "simulated",
        "OSType": "linux",
        "Architecture": "x86_64",
        "Driver": "simulated",
        "NCPU": vcpus,
        "MemTotal": memory_mib << 20,
        "Containers": len(containers),
        "ContainersRunning": running - paused,
        "ContainersPaused": paused,
        "ContainersStopped": len(containers) - running,
        "Images": images,
        "ExperimentalBuild": True,
    }


def image(record: Record, names: list[str]) -> Record:
    return {
        "Id": record["id"],
        "RepoTags": names,
        "RepoDigests": [f"{name.rpartition(':')[0]}@{record['id']}" for name in names],
        "Created": "2026-01-01T00:00:00Z",
        "Size": 1_000_000,
        "Os": "linux",
        "Architecture": "amd64",
        "Config": record["config"],
    }


def container(record: Record) -> Record:
    config, state = record["config"], record["state"]
    command = [*_words(config["Entrypoint"]), *_words(config["Cmd"])]
    return {
        "Id": record["id"],
        "Name": f"/{record['name']}",
        "Created": record["created"],
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": state,
        "Image": record["image_id"],
        "RestartCount": record["restarts"],
        "Config": config,
        "HostConfig": record["host_config"],
        "Mounts": [],
        "HostsPath": f"/var/lib/docker/containers/{record['id']}/hosts",
        "NetworkSettings": {
            "IPAddress": "172.17.0.2" if state["Running"] else "",
            "Ports": _ports(record) if state["Running"] else {},
            "Networks": {},
        },
    }


def stats(record: Record, machine: Machine) -> Record:
    """A program that needs a twentieth of a CPU and a little of each other thing, since its start.

    The first of the two looks was a second ago, or at its start.
    """
    state, (vcpus, memory_mib) = record["state"], machine.shape
    if not state["Running"]:  # as Docker tells of it
        return {"id": record["id"], "name": f"/{record['name']}", "read": "0001-01-01T00:00:00Z"}
    now = datetime.now(UTC)
    began = datetime.fromisoformat(state["StartedAt"].replace("000Z", "+00:00"))
    ran_ns = max(0, round((now - began).total_seconds() * 1e9))

    def cpu(at_ns: int) -> Record:
        return {
            "cpu_usage": {"total_usage": at_ns // 20},
            "system_cpu_usage": at_ns * vcpus,
            "online_cpus": vcpus,
        }

    return {
        "id": record["id"],
        "name": f"/{record['name']}",
        "read": now.isoformat().replace("+00:00", "Z"),
        "cpu_stats": cpu(ran_ns),
        "precpu_stats": cpu(max(0, ran_ns - 1_000_000_000)),
        "memory_stats": {
            "usage": 10 << 20,
            "stats": {"inactive_file": 2 << 20},
            "limit": memory_mib << 20,
        },
        "networks": {"eth0": {"rx_bytes": 1_500, "tx_bytes": 700}},
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"op": "read", "value": 4096},
                {"op": "write", "value": 8192},
            ]
        },
        "pids_stats": {"current": 1},
    }


def container_summary(record: Record) -> Record:
    command = [*_words(record["config"]["Entrypoint"]), *_words(record["config"]["Cmd"])]
    state = record["state"]
    created = datetime.fromisoformat(record["created"].replace("000Z", "+00:00"))
    exited = f"Exited ({state['ExitCode']})"
    return {
        "Id": record["id"],
        "Names": [f"/{record['name']}"],
        "Image": record["config"]["Image"],
        "ImageID": record["image_id"],
        "Command": " ".join(command),
        "Created": int(created.timestamp()),
        "State": state["Status"],
        "Status": "Up" if state["Running"] else exited,
        "Labels": record["config"].get("Labels") or {},
        "Ports": [],
    }


def matches(record: Record, filters: Record) -> bool:
    """Docker's ``filters`` of a container list: ``id``, ``name``, ``status`` and ``label``."""
    labels = record["config"].get("Labels") or {}
    tests: dict[str, Callable[[str], bool]] = {
        "id": lambda value: record["id"].startswith(value),
        "name": lambda value: value in record["name"],
        "status": lambda value: record["state"]["Status"] == value,
        "label": lambda value: (
            value in labels or value in [f"{key}={text}" for key, text in labels.items()]
        ),
    }
    return all(
        any(tests[name](value) for value in values)
        for name, values in filters.items()
        if name in tests
    )


def _ports(record: Record) -> Record:
    ports: Record = dict.fromkeys(record["config"].get("ExposedPorts") or {})
    for port, bindings in (record["host_config"].get("PortBindings") or {}).items():
        ports[port] = [
            {
                "HostIp": binding.get("HostIp") or "0.0.0.0",
                "HostPort": binding.get("HostPort") or port.partition("/")[0],
            }
            for binding in bindings or []
        ]
    return ports


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
