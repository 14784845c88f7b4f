"""The mirror of registries: what it may be, and how a guest's dockerd takes it."""

from __future__ import annotations

import pytest
from tests.support.guests import FakeSystem

from warmboot.guest.docker import INSECURE, MIRRORS, configure
from warmboot.model.errors import InvalidRequest
from warmboot.model.tenants.registry_mirror import RegistryMirror
from warmboot.settings import read_settings


@pytest.mark.parametrize("url", ["http://localhost:5000", "http://127.0.0.1:5000/"])
def test_one_of_this_host_is_a_port_of_the_guests_own(url: str) -> None:
    mirror = RegistryMirror(url)
    assert (mirror.host_port, mirror.in_guest) == (5000, "http://127.0.0.1:5000")
    assert mirror.plain == ("127.0.0.1:5000",)


def test_one_with_tls_is_not_asked_without() -> None:
    mirror = RegistryMirror("https://mirror.example:8443")
    assert (mirror.host_port, mirror.in_guest) == (None, "https://mirror.example:8443")
    assert mirror.plain == ()
    assert RegistryMirror("https://localhost").host_port == 443


@pytest.mark.parametrize(
    "url",
    [
        *("mirror.example", "ftp://mirror.example", "http://", "http://a:b@mirror.example"),
        *("http://mirror.example/path", "http://mirror.example?a=b", "http://mirror.example:x"),
        "http://mirror.example:99999",
    ],
)
def test_what_is_no_mirror_is_refused_in_words(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"MANAGER_REGISTRY_MIRROR.*the URL of a registry"):
        read_settings(registry_mirror=url)


def test_docker_keeps_asking_this_machine_without_tls() -> None:
    system = FakeSystem()
    configure(system, {MIRRORS: ["http://m:5000"], INSECURE: ["m:5000"]})
    written = system.files["/etc/docker/daemon.json"]
    assert '"127.0.0.0/8"' in written
    assert '"m:5000"' in written
