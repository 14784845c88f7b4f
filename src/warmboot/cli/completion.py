"""Names for the shell's completion: asked of the manager, given up after a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from warmboot.model.errors import WarmbootError

ANSWER_TIMEOUT_S = 0.7


def container_names(incomplete: str) -> list[str]:
    """Containers whose names begin so; none when the manager does not answer at once."""
    return [name for name in _ask(_container_names()) if name.startswith(incomplete)]


def image_names(incomplete: str) -> list[str]:
    return [name for name in _ask(_image_names()) if name.startswith(incomplete)]


def worker_names(incomplete: str) -> list[str]:
    return [name for name in _ask(_worker_names()) if name.startswith(incomplete)]


def _ask(work: Coroutine[Any, Any, list[str]]) -> list[str]:
    from warmboot.cli.drive import run_loop

    try:
        return run_loop(_bounded(work))
    except (WarmbootError, TimeoutError):
        return []


async def _bounded(work: Coroutine[Any, Any, list[str]]) -> list[str]:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return await work


async def _container_names() -> list[str]:
    from warmboot.cli.drive import connect

    async with connect() as client:
        return [container.name for container in await client.containers.list(all_states=True)]


async def _image_names() -> list[str]:
    from warmboot.cli.drive import connect

    async with connect() as client:
        return [image.name for image in await client.images.list()]


async def _worker_names() -> list[str]:
    from warmboot.cli.drive import connect

    async with connect() as client:
        return [worker.name for worker in await client.workers.list()]
