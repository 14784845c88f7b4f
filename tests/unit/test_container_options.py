"""Docker's options of a container: from the command line's words to what Docker is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.api.schemas.container_requests import ContainerIn
from warmboot.cli.docker import options as docker
from warmboot.codec import decode, encode
from warmboot.host.guest.docker_options import health_config, host_config
from warmboot.model.container import ContainerSpec
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.container_options import (
    ContainerOptions,
    HealthCheck,
    Mount,
    MountType,
    PullPolicy,
    RestartMode,
    RestartPolicy,
    Ulimit,
    check_platform,
)


def asked(**options: Any) -> ContainerOptions:
    """As the API takes them."""
    return ContainerIn.model_validate({"image": "web", "options": options}).to_model().options


ALL: dict[str, Any] = {
    "init": True,
    "privileged": True,
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["ALL"],
    "read_only": True,
    "tmpfs": {"/tmp": "size=64m"},
    "mounts": [
        {"target": "/data", "source": "db", "read_only": True},
        {"type": "tmpfs", "target": "/scratch", "size_bytes": 1 << 20, "mode": 0o1777},
    ],
    "ulimits": [{"name": "nofile", "soft": 10, "hard": 20}],
    "shm_size_bytes": 1 << 26,
    "pids_limit": 100,
    "cpus": 1.5,
    "sysctls": {"net.core.somaxconn": "1024"},
    "restart": {"mode": "on-failure", "maximum_retries": 3},
    "health": {"test": ["CMD-SHELL", "true"], "interval_s": 0.5, "retries": 2},
    "add_hosts": ["db:192.0.2.7"],
    "dns": ["192.0.2.53"],
    "dns_search": ["example.org"],
    "dns_options": ["ndots:2"],
    "pull": "always",
    "platform": "linux/amd64",
}


def test_docker_is_told_what_the_api_was_asked_for() -> None:
    options = asked(**ALL)
    assert host_config(options) == {
        "Init": True,
        "Privileged": True,
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": "size=64m"},
        "Mounts": [
            {"Type": "volume", "Source": "db", "Target": "/data", "ReadOnly": True},
            {
                "Type": "tmpfs",
                "Target": "/scratch",
                "ReadOnly": False,
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777},
            },
        ],
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "ShmSize": 1 << 26,
        "PidsLimit": 100,
        "NanoCpus": 1_500_000_000,
        "Sysctls": {"net.core.somaxconn": "1024"},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "ExtraHosts": ["db:192.0.2.7"],
        "Dns": ["192.0.2.53"],
        "DnsSearch": ["example.org"],
        "DnsOptions": ["ndots:2"],
    }
    assert options.health is not None
    assert health_config(options.health) == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 500_000_000,
        "Retries": 2,
    }
    assert (options.pull, options.platform) == (PullPolicy.ALWAYS, "linux/amd64")


def test_without_options_docker_is_told_of_open_files_only() -> None:
    assert host_config(asked()) == {"Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 524_288}]}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *((name, True) for name in ("add_hosts", "dns", "dns_search", "dns_options", "sysctls")),
        *((name, False) for name in ("init", "privileged", "read_only", "mounts", "cpus")),
    ],
)
def test_what_the_prepared_network_has_not_needs_one_of_its_own(name: str, own: bool) -> None:
    assert asked(**{name: ALL[name]}).own_network is own
    assert not asked(sysctls={"kernel.msgmax": "1"}).own_network


def test_a_container_that_an_earlier_release_has_stored_has_no_options() -> None:
    stored = json.loads(encode(ContainerSpec, ContainerSpec("web", "redis:7")))
    del stored["options"]
    assert decode(ContainerSpec, json.dumps(stored)) == ContainerSpec("web", "redis:7")


@given(
    st.builds(
        ContainerOptions,
        mounts=st.lists(st.builds(Mount, target=st.just("/x"), source=st.just("v"))).map(tuple),
        health=st.none() | st.builds(HealthCheck, interval_s=st.none() | st.floats(0, 1e6)),
        ulimits=st.lists(st.builds(Ulimit, st.just("core"), st.integers(-1, 9))).map(tuple),
        cpus=st.none() | st.floats(0.01, 32),
        restart=st.builds(RestartPolicy, st.sampled_from(RestartMode), st.integers(0, 9)),
    )
)
def test_options_are_stored_as_they_are(options: ContainerOptions) -> None:
    assert decode(ContainerOptions, encode(ContainerOptions, options)) == options


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"auto_remove": True, "options": {"restart": {"mode": "always"}}},
            "conflicting options: cannot specify both --restart and --rm",
        ),
        (
            {"options": {"restart": {"mode": "always", "maximum_retries": 2}}},
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            {"options": {"health": {"test": ["NONE"], "retries": 2}}},
            "--no-healthcheck conflicts with --health-* options",
        ),
        (
            {"options": {"tmpfs": {"/a": ""}, "mounts": [{"target": "/a/"}]}},
            "Duplicate mount point: /a/",
        ),
        (
            {"options": {"cap_add": ["all", "cap_chown", "NET_ADMINS"]}},
            'invalid CapAdd: unknown capability: "CAP_NET_ADMINS"',
        ),
        ({"options": {"cap_drop": ["x"]}}, 'invalid CapDrop: unknown capability: "CAP_X"'),
        (
            {"options": {"ulimits": [{"name": "color", "soft": 1, "hard": 1}]}},
            "invalid ulimit type: color",
        ),
        (
            {"options": {"mounts": [{"target": "/"}]}},
            "invalid specification: destination can't be '/'",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_in_dockers_words(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ContainerIn.model_validate({"image": "web", **fields}).to_model()
    assert refused.value.brief == words


@pytest.mark.parametrize("platform", ["", "linux", "amd64", "linux/amd64", "Linux/x86_64"])
def test_the_platform_of_the_host_is_the_vms(platform: str) -> None:
    check_platform(platform, "x86_64")


@pytest.mark.parametrize("platform", ["linux/arm64", "windows/amd64", "arm64", "windows"])
def test_another_platform_is_refused_in_dockers_words(platform: str) -> None:
    with pytest.raises(InvalidRequest, match="does not match the detected host platform"):
        check_platform(platform, "x86_64")
    if platform.endswith("arm64"):
        check_platform(platform, "aarch64")


# -- the command line's words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [("2", (2, None)), ("1.0", (1, None)), ("1.5", (2, 1.5)), ("0.5", (1, 0.5))],
)
def test_a_part_of_a_cpu_is_a_part_of_what_its_vm_has(text: str, found: Any) -> None:
    assert docker.cpus(text) == found


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "x"])
def test_what_is_no_number_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        docker.cpus(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/data", {"type": "volume", "target": "/data"}),
        ("db:/data", {"type": "volume", "source": "db", "target": "/data"}),
        (
            "db:/data:ro,nocopy",
            {"type": "volume", "source": "db", "target": "/data", "read_only": True},
        ),
    ],
)
def test_volumes_are_named(text: str, found: dict[str, Any]) -> None:
    assert docker.volume(text) == found
    assert asked(mounts=[found]).mounts[0].type is MountType.VOLUME


def test_a_volume_may_have_the_name_of_a_type() -> None:
    found = {"type": "volume", "source": "bind", "target": "/data"}
    assert docker.volume("bind:/data") == docker.mount("source=bind,target=/data") == found


def test_a_path_with_a_comma_is_quoted() -> None:
    found = {"type": "bind", "source": '/a, "b"', "target": "/src"}
    assert docker.mount('type=bind,"source=/a, ""b""",target=/src') == found
    assert docker.volume('/a, "b":/src') == found


@pytest.mark.parametrize("source", ["/host", "./code", ".", "../code"])
def test_paths_of_the_host_are_bound(source: str) -> None:
    found = {"type": "bind", "source": str(Path(source).absolute()), "target": "/src"}
    assert docker.volume(f"{source}:/src") == found
    assert docker.volume(f"{source}:/src:ro,z") == {**found, "read_only": True}
    assert docker.mount(f"type=bind,source={source},target=/src") == found
    assert docker.mount(f'type=bind,"source={source}",target=/src') == found
    (mount,) = asked(mounts=[found]).mounts
    assert mount.type is MountType.BIND
    assert host_config(ContainerOptions(mounts=(mount,)))["Mounts"] == [
        {"Type": "bind", "Target": "/src", "ReadOnly": False, "Source": found["source"]}
    ]


@pytest.mark.parametrize("text", ["~/x:/x", "a/b:/x", "a\\b:/x"])
def test_what_is_neither_a_path_nor_a_name_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ValueError, match="a folder of this machine begins with"):
        docker.volume(text)


def test_only_paths_are_bound_and_no_path_is_a_volume() -> None:
    for kind, source in ((MountType.BIND, "db"), (MountType.VOLUME, "/srv"), (MountType.BIND, "")):
        options = ContainerOptions(mounts=(Mount("/data", kind, source),))
        with pytest.raises(InvalidRequest, match="invalid source"):
            options.check(auto_remove=False, archive=False)


@pytest.mark.parametrize(
    ("call", "text", "words"),
    [
        (docker.volume, "db:data", "mount path must be absolute"),
        (docker.volume, "db:/data:xx", "invalid mode: xx"),
        (docker.volume, ":/data", "invalid spec: :/data: empty section between colons"),
        (docker.mount, "type=volume", "target is required"),
        (docker.mount, "type=nfs,target=/x", "invalid mount type"),
        (docker.mount, "target=/x,tmpfs-size=1m", "cannot mix"),
        (docker.mount, "target", "must be a key=value pair"),
        (docker.mount, 'type=bind,"source=/a', "invalid mount: "),
        (docker.mount, "", "target is required"),
        (docker.mount, "target=/x,color=red", "unexpected key 'color'"),
        (docker.ulimit, "nofile", "invalid ulimit argument: nofile"),
        (docker.ulimit, "nofile=20:10", "soft limit must be less than or equal to hard limit"),
        (docker.ulimit, "color=1", "invalid ulimit type: color"),
        (docker.name_server, "here", "IP address is not correctly formatted: here"),
        (docker.host, "db:host-gateway", "an engine can have some"),
        (docker.restart, "sometimes", "unknown policy 'sometimes'"),
        (docker.restart, "on-failure:x", "maximum retry count must be an integer"),
        (docker.pull, "maybe", "must be one of"),
        (docker.host, "db", "bad format for add-host"),
        (docker.host, "db:here", "invalid IP address in add-host"),
    ],
)
def test_what_makes_no_sense_is_refused_in_dockers_words(call: Any, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(text)


def test_names_and_addresses_are_taken_with_either_sign() -> None:
    assert docker.host("db:192.0.2.7") == docker.host("db=192.0.2.7") == "db:192.0.2.7"
    assert docker.host("db=[2001:db8::7]") == "db:2001:db8::7"


def test_a_limit_may_be_none() -> None:
    assert [docker.pids_limit(number) for number in (7, 0, -1, -2)] == [7, -1, -1, -1]
    assert (docker.shm_size("0"), docker.shm_size("1m")) == (None, 1 << 20)
    assert docker.ulimit("core=unlimited") == {"name": "core", "soft": -1, "hard": -1}
    assert docker.ulimit("core=5:-1") == {"name": "core", "soft": 5, "hard": -1}
