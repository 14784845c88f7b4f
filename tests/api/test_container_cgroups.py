"""A process in a container is known by its control group."""

from __future__ import annotations

import pytest

from warmboot.api.middleware.peers import containers_of

DOCKER = "4f" * 32


@pytest.mark.parametrize(
    "cgroup",
    [
        f"4:memory:/docker/{DOCKER}",
        f"0::/system.slice/docker-{DOCKER}.scope",
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{DOCKER}.scope",
        "0::/kubepods.slice/kubepods-besteffort.slice/x",
        "0::/lxc.payload.web/system.slice/nginx.service",
        "1:pids:/lxc/web",
        "0::/machine.slice/machine-web.scope",
        f"9:name=systemd:/custom/parent/{DOCKER}/inner",
        "0::/docker/buildkit/x9",
    ],
)
def test_containers_are_known_by_their_cgroup(cgroup: str) -> None:
    assert containers_of(f"1:cpu:/\n{cgroup}\n")


@pytest.mark.parametrize(
    "cgroup",
    [
        "0::/",
        "0::/init.scope",
        "0::/system.slice/docker.service",
        "0::/system.slice/containerd.service",
        "0::/user.slice/user-0.slice/session-3.scope",
        "4:memory:/process_api/4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f",
    ],
)
def test_what_runs_on_the_machine_itself_is_in_no_container(cgroup: str) -> None:
    assert not containers_of(cgroup)
