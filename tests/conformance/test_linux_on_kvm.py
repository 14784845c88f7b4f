"""Firecracker with the Linux runtime image, where KVM runs an ordinary kernel."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.conformance.linux_guest import restored_docker_version
from tests.support.firecracker import ROOT, firecracker_binary

from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.images.build import build_runtime_image

IMAGE = ROOT / ".state" / "runtime-image"


@pytest.mark.firecracker
@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.slow
async def test_docker_answers_in_a_restored_linux_guest() -> None:
    driver = Firecracker(FirecrackerConfig(binary=str(await firecracker_binary())))
    probe = await driver.probe()
    if not probe.usable or not probe.capabilities.runs_linux:
        pytest.skip("; ".join(probe.notes))
    if not (IMAGE / "manifest.json").exists():
        await build_runtime_image(IMAGE, lambda what, part: None)
    with tempfile.TemporaryDirectory(prefix="wb-") as home:
        assert await restored_docker_version(driver, IMAGE, Path(home))
