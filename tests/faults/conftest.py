"""What holds for all managers of this folder."""

from __future__ import annotations

import pytest

from warmboot.hypervisors import process


@pytest.fixture(autouse=True)
def builds_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not here: beside real VMs, a rebuild of the idle class would get nothing for minutes."""
    monkeypatch.setattr(process, "_give_way", lambda _: None)
