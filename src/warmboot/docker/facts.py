"""Facts about an engine and its containers, reduced to what is needed of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmboot.model.checkpoint import Versions
from warmboot.model.worker import RUNTIME

SYSTEM_CONTAINERD = Path("/var/lib/containerd")
_TASKS = "io.containerd.runtime.v2.task/moby"
_BLOBS = "io.containerd.content.v1.content/blobs/sha256"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """``networks`` are the network drivers it has; ``cgroup_version`` is 1 or 2.

    ``runtimes`` are the paths of its OCI runtimes, by their names, ``default_runtime`` is the name
    of its usual one. With ``live_restore`` its containers outlive it.
    """

    version: str
    api_version: str
    experimental: bool
    kernel: str
    architecture: str
    data_root: Path
    cgroup_version: str
    storage_driver: str
    networks: tuple[str, ...]
    security: tuple[str, ...]
    log_driver: str = "json-file"
    runtimes: Mapping[str, str] = field(default_factory=dict)
    live_restore: bool = False
    default_runtime: str = ""

    @property
    def rootless(self) -> bool:
        return any(option.partition("=")[2] == "rootless" for option in self.security)

    @property
    def worker_runtime(self) -> str:
        """The OCI runtime for a new worker; empty: the engine's usual one."""
        return RUNTIME if RUNTIME in self.runtimes and not self.rootless else ""

    @classmethod
    def of(cls, version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineFacts:
        return cls(
            version=str(version.get("Version", "")),
            api_version=str(version.get("ApiVersion", "")),
            experimental=bool(info.get("ExperimentalBuild") or version.get("Experimental")),
            kernel=str(info.get("KernelVersion", "")),
            architecture=str(info.get("Architecture", "")),
            data_root=Path(str(info.get("DockerRootDir", "/var/lib/docker"))),
            cgroup_version=str(info.get("CgroupVersion", "")),
            storage_driver=str(info.get("Driver", "")),
            networks=tuple((info.get("Plugins") or {}).get("Network") or ()),
            security=tuple(info.get("SecurityOptions") or ()),
            log_driver=str(info.get("LoggingDriver") or "json-file"),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            default_runtime=str(info.get("DefaultRuntime") or ""),
            runtimes={
                str(name): str(one.get("path", ""))
                for name, one in (info.get("Runtimes") or {}).items()
            },
        )

    def versions(self, criu: str) -> Versions:
        return Versions(
            engine=self.version, criu=criu, kernel=self.kernel, architecture=self.architecture
        )

    def checkpoint_folder(self, container_id: str, name: str) -> Path:
        """The folder in which Docker keeps a checkpoint; its restore supports no other place."""
        return self.data_root / "containers" / container_id / "checkpoints" / name

    def content_stores(self) -> tuple[Path, ...]:
        """The folders of the content stores of containerd: dockerd's own, or the system's."""
        return (self.data_root / "containerd" / "daemon" / _BLOBS, SYSTEM_CONTAINERD / _BLOBS)

    def work_folders(self, container_id: str) -> tuple[Path, ...]:
        """The folders into which containerd lets CRIU write logs: the system's, or that of
        dockerd's own.
        """
        return (
            self.data_root / "containerd" / "daemon" / _TASKS / container_id,
            SYSTEM_CONTAINERD / _TASKS / container_id,
        )


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """``pid`` is the first process's on the host, 0 when it does not run.

    ``mounts`` are where something is mounted in it, the volumes of its image included, and
    ``mounted`` says what: where it is on the host.
    ``runtime`` is the name of its OCI runtime. ``checked``: it has a health check.
    ``restart_policy`` is in Docker's own words.
    """

    id: str
    name: str
    status: str
    running: bool
    pid: int
    exit_code: int
    image: str
    image_digest: str
    network: str
    tty: bool
    auto_remove: bool
    started_at: str
    error: str = ""
    oom_killed: bool = False
    upper_folder: Path | None = None
    mounts: tuple[str, ...] = ()
    mounted: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    checked: bool = False
    restart_policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def restarts(self) -> bool:
        """Whether the engine starts it again when its process has ended, in some case."""
        return self.restart_policy.get("Name", "") not in ("", "no")

    @property
    def ended(self) -> bool:
        """Whether its process has run, and runs no more."""
        return self.status in ("exited", "dead")

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> ContainerFacts:
        state, config, host = found["State"], found["Config"], found["HostConfig"]
        upper = ((found.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        return cls(
            id=str(found["Id"]),
            name=str(found["Name"]).lstrip("/"),
            status=str(state["Status"]),
            running=bool(state["Running"]),
            pid=int(state["Pid"]),
            exit_code=int(state["ExitCode"]),
            image=str(config["Image"]),
            image_digest=str(found["Image"]),
            network=str(host["NetworkMode"]),
            tty=bool(config["Tty"]),
            auto_remove=bool(host.get("AutoRemove")),
            started_at=str(state["StartedAt"]),
            error=str(state.get("Error") or ""),
            oom_killed=bool(state.get("OOMKilled")),
            upper_folder=Path(upper) if upper else None,
            mounts=tuple(sorted(str(mount["Destination"]) for mount in found.get("Mounts") or ())),
            mounted={
                str(mount["Destination"]): Path(mount["Source"])
                for mount in found.get("Mounts") or ()
                if mount.get("Source")
            },
            labels=dict(config.get("Labels") or {}),
            runtime=str(host.get("Runtime") or ""),
            checked=is_check(config.get("Healthcheck")),
            restart_policy=dict(host.get("RestartPolicy") or {}),
        )


def is_check(config: Mapping[str, Any] | None) -> bool:
    """Whether a container of this ``Healthcheck`` is checked at all."""
    test = list((config or {}).get("Test") or ())
    return bool(test) and test != ["NONE"]
