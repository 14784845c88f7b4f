"""``warmboot serve`` that ends itself with SIGKILL: ``python -m tests.workers.doomed_manager``.

The arguments are a point of the code as ``module:name``, and ``before`` or ``after`` it is called,
or ``midway``: when the runtime is at work in it. With a number it is at that call of it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from warmboot.cli.main import main
from warmboot.criu.runtime_work import runtimes_at_work


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doom(point: str, when: str, at_call: int) -> None:
    module, _, name = point.partition(":")
    *path, last = name.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    done: Callable[..., Any] = getattr(owner, last)
    calls = itertools.count(1)

    async def awaited(*arguments: Any, **options: Any) -> Any:
        if next(calls) != at_call:
            return await done(*arguments, **options)
        if when == "before":
            _die()
        if when == "midway":
            begun = asyncio.ensure_future(done(*arguments, **options))
            container = arguments[0].container_id
            while not begun.done() and not runtimes_at_work(container):  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # a program of dockerd's begins, and tells nobody
            _die()
        await done(*arguments, **options)
        return _die()

    def called(*arguments: Any, **options: Any) -> Any:
        if next(calls) != at_call:
            return done(*arguments, **options)
        if when == "before":
            _die()
        done(*arguments, **options)
        return _die()

    setattr(owner, last, awaited if inspect.iscoroutinefunction(done) else called)


if __name__ == "__main__":
    at, when, *number = sys.argv[1:]
    doom(at, when, int(number[0]) if number else 1)
    sys.argv = ["warmboot", "serve"]
    main()
