"""The private Docker engine of tests, with the CRIU that the repository's state folder keeps.

Nothing is shared with an engine that the machine may run. When it ends no process, mount or file
of it is left, also if dockerd itself was killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from testbed.private_dockerd import PrivateDockerd
from testbed.private_dockerd import private_dockerd as private_dockerd_with

REPOSITORY = Path(__file__).parents[2]
CRIU_STATE = REPOSITORY / ".state" / "criu"
CRIU_PREFIX = CRIU_STATE / "prefix"
CRIU_WRAPPER = CRIU_STATE / "bin" / "criu"

__all__ = ["CRIU_PREFIX", "CRIU_STATE", "CRIU_WRAPPER", "PrivateDockerd", "private_dockerd"]


@contextlib.asynccontextmanager
async def private_dockerd(**settings: Any) -> AsyncIterator[PrivateDockerd]:
    """A running engine; ``settings`` go into its daemon.json."""
    async with private_dockerd_with(CRIU_STATE, **settings) as dockerd:
        yield dockerd
