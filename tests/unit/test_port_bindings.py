"""Published ports in Docker's requests: what is wanted, and what is filled in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmboot.engine_socket.docker_form import (
    Refusal,
    configuration,
    creates,
    looks_inside,
    starts,
)
from warmboot.engine_socket.limits import MOST_PORTS
from warmboot.engine_socket.port_bindings import (
    WantedPort,
    bound_ports,
    filled_in,
    wanted_ports,
)

BINDINGS = st.fixed_dictionaries(
    {},
    optional={
        "HostIp": st.sampled_from(["", "127.0.0.1", "0.0.0.0", "::1"]),
        "HostPort": st.sampled_from(["", "0", "80", "8000-8010", "70000", "x", "9-8"]),
    },
)
PORTS = st.dictionaries(
    st.sampled_from(["80/tcp", "53/udp", "9/sctp", "80", "x/tcp"]),
    st.one_of(st.none(), st.lists(BINDINGS, max_size=3)),
)


def body(ports: Any = None, *, publish_all: bool = False, exposed: Any = None) -> dict[str, Any]:
    host = {"PortBindings": ports or {}, "PublishAllPorts": publish_all}
    return {"Image": "web", "ExposedPorts": exposed or {}, "HostConfig": host}


@pytest.mark.parametrize(
    ("binding", "wanted"),
    [
        ({"HostPort": "8080"}, WantedPort("80/tcp", "", 8080, 8080)),
        ({"HostIp": "0.0.0.0", "HostPort": "8080"}, WantedPort("80/tcp", "0.0.0.0", 8080, 8080)),
        ({}, WantedPort("80/tcp", "", 0, 0)),
        ({"HostPort": "0"}, WantedPort("80/tcp", "", 0, 0)),
        ({"HostPort": "8000-8010"}, WantedPort("80/tcp", "", 8000, 8010)),
    ],
)
def test_what_a_binding_asks_for(binding: dict[str, str], wanted: WantedPort) -> None:
    assert wanted_ports(body({"80/tcp": [binding]}), {}) == [wanted]
    assert wanted_ports(body({"80/tcp": None}), {}) == [WantedPort("80/tcp", "", 0, 0)]


@pytest.mark.parametrize(
    "binding",
    [
        {"HostPort": "x"},
        {"HostPort": "70000"},
        {"HostPort": "9" * 5000},
        {"HostIp": "::1", "HostPort": "80"},
        {"HostIp": "x" * 5000, "HostPort": "80"},
    ],
)
def test_what_is_not_ours_is_left_to_docker(binding: dict[str, str]) -> None:
    asked = body({"80/tcp": [binding]})
    assert wanted_ports(asked, {}) == []
    assert wanted_ports(body({"80/sctp": [{"HostPort": "80"}]}), {}) == []


def test_a_container_has_a_limit_of_ports() -> None:
    assert len(wanted_ports(body({"80/tcp": [{}] * MOST_PORTS}), {})) == MOST_PORTS
    with pytest.raises(Refusal, match=f"{MOST_PORTS} ports at most"):
        wanted_ports(body({"80/tcp": [{}] * (MOST_PORTS + 1)}), {})
    with pytest.raises(Refusal):
        bound_ports(body({"80/tcp": [{"HostPort": "80"}] * (MOST_PORTS + 1)}))


@pytest.mark.parametrize(
    "asked",
    [
        body({"80/tcp": "80/tcp"}),
        body({"80/tcp": 5}),
        body({"80/tcp": [{}]}, exposed=["80/tcp"]),
        body({"80/tcp": [{}]}, exposed=5),
    ],
)
def test_what_is_filled_in_is_so_beside_what_makes_no_sense(asked: dict[str, Any]) -> None:
    filled = filled_in(asked, wanted_ports(asked, {}), [8080])
    assert filled["HostConfig"]["PortBindings"]["80/tcp"][-1]["HostPort"] == "8080"


def test_a_body_is_understood_as_docker_understands_it() -> None:
    proper = {"Image": "web", "HostConfig": {"Binds": ["/a:/b"], "PortBindings": {}}}
    assert configuration(json.dumps(proper).encode()) == (proper, False)
    said = b'{"image": "web", "hostconfig": {"BINDS": ["/a:/b"], "portBindings": {}}}'
    assert configuration(said) == (proper, True)
    mounts = {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "target": "/b"}]}}
    said = b'{"HostConfig": {"mounts": [{"type": "bind", "SOURCE": "/a", "target": "/b"}]}}'
    assert configuration(said) == (mounts, True)
    twice = b'{"HostConfig": {"Binds": ["/a:/b"]}, "HostConfig": {}}'
    assert configuration(twice) == ({"HostConfig": {}}, True), "Docker would put both together"
    assert configuration(b'{"Image": "\xff"}') == ({"Image": "\ufffd"}, False)
    assert configuration(b"null") is None


@pytest.mark.parametrize(
    "more",
    [
        b"{}}",
        b"{} {}",
        b'{"X": ' + b"1" * 5000 + b"}",
        b'{"X": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    ],
    ids=["an end too many", "two", "a long number", "deep"],
)
def test_what_docker_would_read_and_we_cannot_is_refused(more: bytes) -> None:
    with pytest.raises(Refusal, match="cannot be read") as refused:
        configuration(b'{"HostConfig": {"PortBindings": {"80/tcp": [{}]}}, ' + more[1:])
    assert refused.value.status == 400


def test_publish_all_takes_what_image_and_request_expose_and_is_not_bound() -> None:
    asked = body({"80/tcp": [{"HostPort": "8080"}]}, publish_all=True, exposed={"443/tcp": {}})
    assert wanted_ports(asked, {"80/tcp": {}, "53/udp": {}}) == [
        WantedPort("80/tcp", "", 8080, 8080),
        WantedPort("443/tcp", "", 0, 0),
        WantedPort("53/udp", "", 0, 0),
    ]


@given(PORTS, st.booleans(), st.sets(st.sampled_from(["80/tcp", "1/udp"])))
def test_what_is_filled_in_is_what_the_container_is_then_bound_to(
    ports: Any, publish_all: bool, exposed: set[str]
) -> None:
    asked = body(ports, publish_all=publish_all)
    wanted = wanted_ports(asked, dict.fromkeys(exposed))
    numbers = [40_000 + number for number in range(len(wanted))]
    filled = filled_in(asked, wanted, numbers)
    found = [one for one in bound_ports(filled) if one.low >= 40_000]
    assert sorted((one.port, one.low) for one in found) == sorted(
        (one.port, number) for one, number in zip(wanted, numbers, strict=True)
    )
    assert all(one.fixed and one.host_ip == "" for one in found)
    assert filled["Image"] == "web"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_body_is_too_odd(odd: Any) -> None:
    assert isinstance(wanted_ports({"HostConfig": odd}, {}), list)
    assert isinstance(wanted_ports({"HostConfig": {"PortBindings": odd}}, {}), list)
    assert isinstance(wanted_ports({"HostConfig": {"PortBindings": {"80/tcp": odd}}}, {}), list)


def test_which_requests_the_host_must_know_of() -> None:
    assert creates(b"POST", b"/v1.44/containers/create?name=web")
    assert creates(b"POST", b"http://docker/v1.44/containers/create")
    assert creates(b"POST", b"/containers/cr%65ate")
    assert creates(b"POST", b"http:/containers/create")
    assert not creates(b"POST", b"http:x/containers/create")
    assert not creates(b"GET", b"/containers/create")
    assert not creates(b"POST", b"/images/create")
    assert starts(b"POST", b"/containers/web/start") == "web"
    assert starts(b"POST", b"/v1.44/containers/a%2Fb/restart?t=1") == "a/b"
    assert starts(b"POST", b"/containers/web/stop") is None
    assert starts(b"POST", b"/exec/web/start") is None


def test_greetings_do_not_look_inside() -> None:
    assert not any(map(looks_inside, (b"/_ping", b"/v1.44/_ping", b"/v1.50/version?x=1")))
    assert all(map(looks_inside, (b"/info", b"/containers/json", b"/_ping/..", b"/v1.44/images")))
    assert looks_inside(b"x:/images/json#://x/_ping")
