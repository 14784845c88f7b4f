"""Docker's options of ``run`` and ``create``, and the API's ``options`` of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from warmboot.cli.docker import options as docker

Many = list[str] | None


def _many(name: str, text: str, metavar: str, *more: str) -> Any:
    return typer.Option(name, *more, help=text, metavar=metavar)


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """The options of a container that Docker has, too; an option that is not given is not sent."""

    init: Annotated[
        bool, typer.Option("--init", help="run an init in the container that reaps processes")
    ] = False
    privileged: Annotated[
        bool, typer.Option("--privileged", help="give the container all rights in its VM")
    ] = False
    cap_add: Annotated[Many, _many("--cap-add", "add a Linux capability", "CAP")] = None
    cap_drop: Annotated[Many, _many("--cap-drop", "drop a Linux capability", "CAP")] = None
    read_only: Annotated[
        bool, typer.Option("--read-only", help="mount its root file system read-only")
    ] = False
    tmpfs: Annotated[Many, _many("--tmpfs", "mount a tmpfs", "PATH[:OPTIONS]")] = None
    volume: Annotated[
        Many,
        _many("--volume", "mount a volume, or a folder", "[NAME:|DIR:]PATH[:ro]", "-v"),
    ] = None
    mount: Annotated[
        Many,
        _many("--mount", "mount a volume, folder or tmpfs", "type=TYPE,source=NAME,target=PATH"),
    ] = None
    ulimit: Annotated[Many, _many("--ulimit", "limit of its processes", "NAME=SOFT[:HARD]")] = None
    shm_size: Annotated[
        str | None, typer.Option("--shm-size", help="size of /dev/shm", metavar="SIZE")
    ] = None
    pids_limit: Annotated[
        int | None,
        typer.Option("--pids-limit", help="number of processes (-1: any)", metavar="N"),
    ] = None
    sysctl: Annotated[Many, _many("--sysctl", "kernel parameter", "NAME=VALUE")] = None
    restart: Annotated[
        str | None,
        typer.Option(
            "--restart",
            help="restart policy in its VM: no, always, unless-stopped, on-failure\\[:N]",
            metavar="POLICY",
        ),
    ] = None
    health_cmd: Annotated[
        str | None,
        typer.Option("--health-cmd", help="command that checks its health", metavar="COMMAND"),
    ] = None
    health_interval: Annotated[
        str | None, typer.Option("--health-interval", help="time between checks", metavar="TIME")
    ] = None
    health_timeout: Annotated[
        str | None,
        typer.Option("--health-timeout", help="time that a check may take", metavar="TIME"),
    ] = None
    health_start_period: Annotated[
        str | None,
        typer.Option(
            "--health-start-period", help="time in which failures do not count", metavar="TIME"
        ),
    ] = None
    health_start_interval: Annotated[
        str | None,
        typer.Option(
            "--health-start-interval", help="time between checks until then", metavar="TIME"
        ),
    ] = None
    health_retries: Annotated[
        int | None,
        typer.Option(
            "--health-retries", help="failures that make it unhealthy", metavar="N", min=0
        ),
    ] = None
    no_healthcheck: Annotated[
        bool, typer.Option("--no-healthcheck", help="take the image's health check away")
    ] = False
    add_host: Annotated[Many, _many("--add-host", "line of /etc/hosts", "NAME:ADDRESS")] = None
    dns: Annotated[Many, _many("--dns", "name server", "ADDRESS")] = None
    dns_search: Annotated[Many, _many("--dns-search", "domain to look in", "DOMAIN")] = None
    dns_option: Annotated[
        Many, _many("--dns-option", "option of the resolver", "OPTION", "--dns-opt")
    ] = None
    pull: Annotated[
        str | None,
        typer.Option("--pull", help="pull the image: always, missing, never", metavar="WHEN"),
    ] = None
    platform: Annotated[
        str | None, typer.Option("--platform", help="platform of the image", metavar="OS/ARCH")
    ] = None

    def body(self, cpus: float | None) -> dict[str, Any]:
        """What the API is asked for; ``ValueError`` for what makes no sense."""
        times = {
            "interval_s": self.health_interval,
            "timeout_s": self.health_timeout,
            "start_period_s": self.health_start_period,
            "start_interval_s": self.health_start_interval,
        }
        found: dict[str, Any] = {
            "init": self.init,
            "privileged": self.privileged,
            "cap_add": self.cap_add,
            "cap_drop": self.cap_drop,
            "read_only": self.read_only,
            "tmpfs": docker.tmpfs(self.tmpfs or ()),
            "mounts": [
                *(docker.volume(one) for one in self.volume or ()),
                *(docker.mount(one) for one in self.mount or ()),
            ],
            "ulimits": [docker.ulimit(one) for one in self.ulimit or ()],
            "shm_size_bytes": None if self.shm_size is None else docker.shm_size(self.shm_size),
            "pids_limit": None if self.pids_limit is None else docker.pids_limit(self.pids_limit),
            "cpus": cpus,
            "sysctls": docker.sysctls(self.sysctl or ()),
            "restart": None if self.restart is None else docker.restart(self.restart),
            "health": docker.health(
                self.health_cmd, times, self.health_retries, none=self.no_healthcheck
            ),
            "add_hosts": [docker.host(one) for one in self.add_host or ()],
            "dns": [docker.name_server(one) for one in self.dns or ()],
            "dns_search": self.dns_search,
            "dns_options": self.dns_option,
            "pull": None if self.pull is None else docker.pull(self.pull),
            "platform": self.platform,
        }
        return {name: value for name, value in found.items() if value}
