"""``warmboot serve`` that ends itself with SIGKILL: ``python -m tests.workers.doomed_manager``.

Where it is to end comes as JSON on a line of standard input (``Order``): a point of the code as
``module:name``, and ``before`` or ``after`` it is called, or ``midway``: when the runtime is at
work in it. With a number it is at that call of it. Each is a fork, as what takes longest of all is
that Python reads the modules of a manager; its process id is told on a line, then its exit code.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import warmboot.api.app
import warmboot.bootstrap.service
import warmboot.cli.commands.host  # noqa: F401  # each fork has them already
from warmboot.cli.main import main
from warmboot.criu.runtime_work import runtimes_at_work


@dataclass(frozen=True, slots=True)
class Order:
    """``words``: the point, when, and perhaps the number of the call."""

    environment: dict[str, str]
    words: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


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


def serve(order: Order) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.environ.update(order.environment)
    at, when, *number = order.words
    doom(at, when, int(number[0]) if number else 1)
    sys.argv = ["warmboot", "serve"]
    main()


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            serve(Order(**json.loads(line)))
            sys.exit()
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
