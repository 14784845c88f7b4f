"""Running a command: the client from the environment, errors in a few lines, exit codes.

0    it worked                     125  `warmboot run` itself failed, as docker run
1    it did not                    126, 127  its command cannot be executed, is not there
2    the command line is wrong     130, 143, 129  interrupted, terminated, hung up
                                   141  nobody reads its output any more (SIGPIPE)
                                   else the container's or the command's own code
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from warmboot.cli.entry import Unwritten, missing_part, show_error
from warmboot.cli.refusals import in_words
from warmboot.cli.standard_streams import UNREAD, as_shown, drop_output, is_text
from warmboot.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidRequest,
    NotFound,
    WarmbootError,
)

if TYPE_CHECKING:
    from warmboot.client import Client
    from warmboot.client.results import Container

T = TypeVar("T")

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


def connect(timeout_s: float | None = None) -> Client:
    """The client of this machine's manager, or that ``WARMBOOT_URL`` tells of; an async context."""
    _import_httpx()
    from warmboot.client import Client

    return Client() if timeout_s is None else Client(timeout_s=timeout_s)


def _import_httpx() -> None:
    """Without the command line that it has of its own, which takes as long as all else of it."""
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment]
        import httpx  # noqa: F401

        del sys.modules["httpx._main"]


def failed(_: WarmbootError) -> int:
    return FAILED


def command_exit_code(error: WarmbootError, otherwise: int = FAILED) -> int:
    """The exit code of ``run`` and ``exec`` where the command was not executed, as shells and
    docker have it.

    That its output cannot be written is no failure to run it: docker has 1 for that.
    """
    if isinstance(error, Unwritten):
        return FAILED
    if isinstance(error, CommandNotExecutable | CommandNotFound):
        return error.exit_code
    return otherwise


def drive(work: Coroutine[Any, Any, T], exit_code: Callable[[WarmbootError], int] = failed) -> T:
    """Run ``work`` to its end; an error becomes a few lines and its ``exit_code``."""
    try:
        return run_loop(work)
    except WarmbootError as error:
        show_error(in_words(error))
        raise typer.Exit(exit_code(error)) from None
    except ModuleNotFoundError as error:
        missing = missing_part(error)
        show_error(missing)
        raise typer.Exit(exit_code(missing)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except asyncio.CancelledError:  # a SIGTERM or SIGHUP while the terminal was ours
        raise typer.Exit(TERMINATED) from None
    except UnicodeEncodeError as error:
        refused = not_text(error)
        show_error(refused)
        raise typer.Exit(exit_code(refused)) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from flushing into it.
        drop_output()
        raise typer.Exit(UNREAD) from None
    except OSError as error:
        if error.filename is None:
            raise
        unusable = not_usable(error)
        show_error(unusable)
        raise typer.Exit(exit_code(unusable)) from None


def ask(act: Callable[[Client], Awaitable[T]]) -> T:
    """What a client of the manager is asked for; an error as of ``drive``."""

    async def work() -> T:
        async with connect() as client:
            return await act(client)

    return drive(work())


def not_usable(error: OSError) -> WarmbootError:
    """The refusal of a file that was named on the command line and cannot be used."""
    shown = as_shown(os.fsdecode(error.filename))
    return InvalidRequest(f"'{shown}' cannot be used", details=error.strerror or str(error))


def not_text(error: UnicodeEncodeError) -> WarmbootError:
    """The refusal of a word of the command line that is not UTF-8."""
    given = next((word for word in sys.argv[1:] if not is_text(word)), "")
    shown = given or error.object[max(0, error.start - 20) : error.end + 20]
    return InvalidRequest(
        f"'{as_shown(shown)}' is not UTF-8 text",
        details="Docker takes names, arguments and values as text only",
        resolution="write it in UTF-8; other bytes can be sent through standard input",
    )


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` without the noise of a wait that was given up as its data arrived.

    anyio's Unix sockets then set the result of a future that is cancelled already.
    """

    def show(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncio.InvalidStateError):
            loop.default_exception_handler(context)

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(show)
        return runner.run(work)


def each(
    refs: list[str], act: Callable[[Client, str], Awaitable[Any]], *, may_be_missing: bool = False
) -> NoReturn:
    """Do it to all of them, and print the names of those that it worked for, as docker does."""

    async def work() -> int:
        failed = 0
        async with connect() as client:
            for ref in refs:
                try:
                    await act(client, ref)
                except WarmbootError as error:
                    if may_be_missing and isinstance(error, NotFound):
                        continue
                    failed += 1
                    show_error(in_words(error))
                else:
                    print(ref, flush=True)
        return FAILED if failed else 0

    raise typer.Exit(drive(work()))


async def those_there(
    refs: Sequence[str], get: Callable[[str], Awaitable[T]]
) -> tuple[list[T], list[NotFound]]:
    """What is there of those that are named, and an error for each of the others."""
    found, missing = [], []
    for ref in refs:
        try:
            found.append(await get(ref))
        except NotFound as error:
            missing.append(error)
    return found, missing


def tell_missing(missing: Sequence[NotFound]) -> None:
    """To be called when the others were shown, as docker does it; exits if there is one."""
    for error in missing:
        show_error(in_words(error))
    if missing:
        raise typer.Exit(FAILED)


def failure_of(container: Container) -> WarmbootError:
    """Why a container failed, to be raised."""
    from warmboot.client.problems import error_of

    error = error_of(container.error or {"brief": f"the container {container.name} failed"})
    if not error.resolution and container.started_at is not None:
        error.resolution = f"see: warmboot inspect {container.name}"
    return error


def usage(message: str, parameter: str | None = None, exit_code: int = 2) -> typer.BadParameter:
    """A mistake on the command line."""
    mistake = typer.BadParameter(message, param_hint=parameter)
    mistake.exit_code = exit_code
    return mistake
