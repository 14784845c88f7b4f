"""Docker in a guest is waited for only a moment, and everything else as long as always.

For tests in which it never comes. With a short setting instead, what has to happen before it would
have only a moment, too, which a busy machine may take.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from warmboot.host.vms import Vms

MOMENT_S = 0.5


def impatient_with_docker(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool] = lambda: True
) -> None:
    wait = Vms.wait_for_docker

    async def wait_a_moment(vms: Vms, vm_id: str, timeout_s: float) -> None:
        await wait(vms, vm_id, MOMENT_S if when() else timeout_s)

    monkeypatch.setattr(Vms, "wait_for_docker", wait_a_moment)
