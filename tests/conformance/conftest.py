"""Every test here runs on every hypervisor."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conformance.keeper import Keeper
from tests.conformance.rigs import RIGS, Rig, params


@pytest.fixture(params=params(*RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    # Not tmp_path: paths of sockets are short, and a VM's own user must get in.
    home = Path(tempfile.mkdtemp(prefix="wb-"))
    home.chmod(0o755)
    try:
        rig = RIGS[request.param](home)
        await rig.prepare()
        yield rig
    finally:
        shutil.rmtree(home)


@pytest.fixture
async def vms(rig: Rig) -> AsyncIterator[Keeper]:
    keeper = Keeper(rig)
    try:
        yield keeper
    finally:
        await keeper.end()
