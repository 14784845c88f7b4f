"""The man page and the shell completions, from the command line's own help.

scripts/manual.py man > warmboot.1
scripts/manual.py bash | zsh | fish
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from warmboot import __version__
from warmboot.cli.main import program

SHELLS = ("bash", "zsh", "fish")


def completion(shell: str) -> str:
    """The script that makes ``shell`` complete ``warmboot``."""
    environment = {**os.environ, "_WARMBOOT_COMPLETE": f"source_{shell}"}
    ran = subprocess.run(
        [sys.executable, "-m", "warmboot.cli"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def day() -> str:
    """Today's date, or that of the sources (``SOURCE_DATE_EPOCH``)."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", datetime.now(UTC).timestamp()))
    return datetime.fromtimestamp(epoch, UTC).date().isoformat()


def man_page(written: str) -> str:
    """``warmboot(1)`` in roff."""
    group = program()
    lines = [
        f'.TH WARMBOOT 1 "{written}" "warmboot {__version__}" "User Commands"',
        ".SH NAME",
        "warmboot \\- containers in microVMs that start warm",
        ".SH SYNOPSIS",
        ".B warmboot",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(group.help or ""),
        ".SH COMMANDS",
        *_commands(group, ()),
        ".SH ENVIRONMENT",
        *_paragraphs(getattr(group, "epilog", "") or ""),
        "Settings of the manager are listed in docs/reference/settings.md.",
        ".SH EXIT STATUS",
        "0 if it worked, 1 if it did not, 2 for a wrong command line; \\fBrun\\fR and \\fBexec\\fR",
        "end as the program in the container does, or as \\fBdocker\\fR\\|(1) would: 125 to 127.",
        ".SH SEE ALSO",
        "\\fBdocker\\fR\\|(1), \\fBcriu\\fR\\|(8), \\fBqemu-system-x86_64\\fR\\|(1)",
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name, command in sorted(getattr(group, "commands", {}).items()):
        if getattr(command, "hidden", False):
            continue
        words = (*path, name)
        if getattr(command, "commands", None):
            yield from _commands(command, words)
            continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        usage = " ".join(_roff(_metavar(argument)) for argument in arguments)
        yield f".SS warmboot {_roff(' '.join(words))} [\\fIOPTIONS\\fR] {usage}".rstrip()
        yield from _paragraphs(command.help or "")
        for option in options:
            names = ", ".join(f"\\fB{_roff(one)}\\fR" for one in option.opts)
            value = "" if option.is_flag else f" \\fI{_roff(_metavar(option))}\\fR"
            yield ".TP"
            yield f"{names}{value}"
            yield _roff(option.help or "")


def _metavar(parameter: Any) -> str:
    given: str | None = parameter.metavar
    return given or str(parameter.name).upper().rstrip("_")


def _paragraphs(text: str) -> Iterator[str]:
    for part in text.strip().split("\n\n"):
        yield ".PP"
        yield _roff(" ".join(part.split()))


def _roff(text: str) -> str:
    """Text with what roff would read as a request or an escape made plain."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"``(.+?)``", r"\\fB\1\\fR", text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "man":
        print(man_page(day()), end="")
    elif what in SHELLS:
        print(completion(what), end="")
    else:
        raise SystemExit(f"usage: scripts/manual.py man|{'|'.join(SHELLS)}")


if __name__ == "__main__":
    main()
