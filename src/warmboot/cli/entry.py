"""The ``warmboot`` program, with its message if a part is not installed.

Imports the standard library only: ``pip install warmboot`` brings the client, ``warmboot[cli]`` the
commands, ``warmboot[server]`` the manager.
"""

from __future__ import annotations

import os
import sys

from warmboot.cli.standard_streams import UNREAD, drop_output, open_standard_streams
from warmboot.model.errors import NotSupported, WarmbootError

_CLI = {"typer", "click", "rich"}


def main() -> None:
    """Run the command line."""
    open_standard_streams()
    try:
        from warmboot.cli.main import main as run
    except ModuleNotFoundError as error:
        show_error(missing_part(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # while it was read from disk, which takes its time at first
        raise SystemExit(130) from None
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        drop_output()
        raise SystemExit(UNREAD) from None
    except OSError as error:
        if error.filename is not None:
            raise
        drop_output()
        show_error(unwritten(error))
        raise SystemExit(1) from None


class Unwritten(WarmbootError):
    """Our output could not be written."""


def unwritten(error: OSError) -> Unwritten:
    return Unwritten("the output could not be written", details=error.strerror or str(error))


def missing_part(error: ModuleNotFoundError) -> WarmbootError:
    """Which part has to be installed; raises what is no missing part but a fault of ours."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "warmboot"):
        raise error
    part, brief = ("cli", "the command line") if module in _CLI else ("server", "the manager")
    return NotSupported(
        f"{brief} is not installed here",
        details=f"there is no Python module {error.name!r}",
        resolution=f"pip install 'warmboot[{part}]'",
    )


def show_error(error: WarmbootError) -> None:
    """What, why, what next: one to three lines on stderr."""
    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    mark = "\033[1;31merror:\033[0m" if color else "error:"
    lines = [f"{mark} {error.brief}"]
    if error.details:
        lines.append(f"  why: {_one_line(error.details)}")
    if error.resolution:
        lines.append(f" next: {_one_line(error.resolution)}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())
