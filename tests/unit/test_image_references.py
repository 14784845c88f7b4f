"""Which names of images are taken."""

from __future__ import annotations

import pytest

from warmboot.model.conventions.image_references import MAX_LENGTH, is_reference
from warmboot.model.conventions.registry_logins import DOCKER_HUB, registry_of

DIGEST = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    "name",
    [
        "redis",
        "redis:7",
        "localhost:5000/a",
        "ghcr.io/a/b__c/d-e:v1.0_x" + DIGEST,
        "a" * 255,
        f"localhost:5000/{'a' * 240}:{'t' * 128}{DIGEST}",
        "0" * 63,
        "0" * 64 + ":1",
    ],
)
def test_what_docker_takes(name: str) -> None:
    assert is_reference(name)
    assert len(name) <= MAX_LENGTH


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Redis",
        "redis:",
        "redis\n",
        "a b",
        "redis:" + "t" * 129,
        "a" * 256,
        f"localhost:5000/{'a' * 241}",
        f"localhost:5000/{'a' * 241}:1",
        "0" * 64,
        "redis@sha256:0",
    ],
)
def test_what_docker_refuses(name: str) -> None:
    assert not is_reference(name)


@pytest.mark.parametrize("reference", ["busybox", "library/busybox:1", "docker.io/me/app@sha256:1"])
def test_what_docker_looks_for_at_docker_hub(reference: str) -> None:
    assert registry_of(reference) == DOCKER_HUB


@pytest.mark.parametrize("reference", ["localhost/app", "localhost:5000/app", "ghcr.io/me/app:1"])
def test_what_docker_looks_for_elsewhere(reference: str) -> None:
    assert registry_of(reference) != DOCKER_HUB
