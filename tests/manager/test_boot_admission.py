"""Boots of several containers at once, and what follows them, on two CPUs."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from tests.support.managers import Lab

from warmboot.bootstrap import service
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.protocols import Until
from warmboot.model.tenants.boot import BootMethod

A_LONG_TIME_S = 60.0


async def test_all_have_their_docker_before_the_first_gets_its_image(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = partial(BootAdmission, wait_timeout_s=A_LONG_TIME_S)
    monkeypatch.setattr(service, "BootAdmission", lambda _: admission(2))
    async with place.manager(pool_min_vms=0, pool_max_vms=0) as manager:
        await manager.snapshot()
        names = [f"web{number}" for number in range(4)]
        await asyncio.gather(*(manager.create(name) for name in names))
        running = [await manager.wait(name, Until.RUNNING) for name in names]
        assert {container.boot_method for container in running} == {BootMethod.WARM}

        async def told() -> list[str] | None:
            """What ran is told a moment after it runs."""
            events = await manager.services.events.list(limit=1000)
            kinds = [e.kind for e in events if e.kind in ("container.booted", "container.running")]
            return kinds if len(kinds) == 8 else None

        order = await manager.until(told, "all is told")
        assert order == ["container.booted"] * 4 + ["container.running"] * 4
