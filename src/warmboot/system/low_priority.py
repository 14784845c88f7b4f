"""Runs work with low priority, in its own process in the scheduler's idle class.

A thread would not do. It needs the interpreter's lock now and then, and one of low priority that
is put aside while it holds the lock puts the whole manager aside with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from warmboot.model.errors import HostError, WarmbootError
from warmboot.system.programs import run_program

T = TypeVar("T")


class LowPriorityRunner(Protocol):
    """How work that has time is run."""

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T: ...


_LOWEST_PRIORITY = 19


async def run_at_low_priority(function: Callable[..., T], *arguments: Any) -> T:
    """What ``function``, a module's own, returns or raises (``WarmbootError``, ``OSError``).

    All of it goes through a pipe. The process is ended when the caller is cancelled, and by the
    kernel when the manager is killed.
    """
    ended = await run_program(
        *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", __name__),
        stdin=pickle.dumps((function, arguments)),
        errors_apart=True,
        check=False,
        timeout_s=None,
        new_session=True,
    )
    if not ended.ok or not ended.output_bytes:
        raise HostError(f"a helper process ended with {ended.code}", details=ended.errors[-2000:])
    result, error = pickle.loads(ended.output_bytes)
    if error is not None:
        raise error
    return cast(T, result)


def main() -> None:
    """The helper process: one call, from standard input to standard output."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # the kernel may not group by session
        Path("/proc/self/autogroup").write_text(f"{_LOWEST_PRIORITY}")
    function, arguments = pickle.load(sys.stdin.buffer)
    result = error = None
    try:
        result = function(*arguments)
    except (WarmbootError, OSError) as failure:
        error = failure
    sys.stdout.buffer.write(pickle.dumps((result, error)))


if __name__ == "__main__":
    main()
