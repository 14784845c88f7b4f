"""Completion in bash, zsh and fish: never files, unless a file is wanted.

typer's own offer the files of the folder wherever there is nothing else to offer. What they have
of the protocol (variables, command words) is used; what they answer, and the scripts of bash and
fish, are ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from typer import _completion_classes as typers
from typer import _completion_shared as scripts
from typer._click import shell_completion as click
from typer._click.shell_completion import CompletionItem

from warmboot.cli.directory import Place

FILES = "warmboot:files"
"""The answer that lets bash complete a file name."""

# An answer is a line; nothing in it is a pattern of the shell's. The words of bash end at ``=`` and
# ``:``, which ours do not: they are taken from the line.
BASH = f"""\
%(complete_func)s() {{
    local answer
    answer=$(COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=$COMP_CWORD \\
        COMP_LINE="${{COMP_LINE:0:COMP_POINT}}" \\
        %(autocomplete_var)s=complete_bash "$1" 2> /dev/null)
    COMPREPLY=()
    if [ "$answer" = "{FILES}" ]; then
        compopt -o default
    elif [ -n "$answer" ]; then
        mapfile -t COMPREPLY <<< "$answer"
    fi
}}

complete -F %(complete_func)s %(prog_name)s
"""

_FISH = "env %(autocomplete_var)s=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp)"
FISH = f"""\
complete --command %(prog_name)s --no-files --arguments "({_FISH} %(prog_name)s)"
complete --command %(prog_name)s --force-files \
--condition "{_FISH} _TYPER_COMPLETE_FISH_ACTION=is-file %(prog_name)s"
"""


def _items(shell: Any) -> tuple[list[CompletionItem], bool]:
    """What may stand there, and whether any file may."""
    args, incomplete = shell.get_completion_args()
    context = click._resolve_context(shell.cli, shell.ctx_args, shell.prog_name, args)
    if _is_within_a_command(context):
        return [], False
    asked, incomplete = click._resolve_incomplete(context, args, incomplete)
    wanted = getattr(getattr(asked, "type_descriptor", None), "annotation", None)
    if Path in (wanted, *get_args(wanted)):
        return [], True
    return asked.shell_complete(context, incomplete), False


def _is_within_a_command(context: Any) -> bool:
    """Whether what is typed are the words of a container's program, which we know nothing of."""
    if context.allow_interspersed_args:
        return False
    first = next((p for p in context.command.params if p.param_type_name == "argument"), None)
    source = first and context.get_parameter_source(first.name)
    return source is not None and source.name == "COMMANDLINE"


def _option_of(incomplete: str) -> str:
    """``--runtime=`` of ``--runtime=de``: shells whose words do not end there want all of it."""
    option, assigned, _ = incomplete.partition("=")
    return option + assigned if assigned and option.startswith("--") else ""


def _help(item: CompletionItem) -> str:
    return " ".join((item.help or "").replace("\\[", "[").split())


class Bash(typers.BashComplete):
    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        if not line:  # the script is of an earlier version
            return super().get_completion_args()
        words = click.split_arg_string(line)
        incomplete = "" if not words or line[-1].isspace() else words.pop()
        return words[1:], incomplete

    def complete(self) -> str:
        items, files = _items(self)
        return FILES if files else "\n".join(str(item.value) for item in items)


class Zsh(typers.ZshComplete):
    def complete(self) -> str:
        """What the script evaluates."""
        items, files = _items(self)
        if files:
            return "_files"
        if not items:
            return ""
        words = " ".join(_quoted(_described(item)) for item in items)
        joined = "compset -P '*='; " if _option_of(self.get_completion_args()[1]) else ""
        return f"{joined}local -a found; found=({words}); _describe warmboot found"


class Fish(typers.FishComplete):
    source_template = FISH

    def complete(self) -> str:
        items, files = _items(self)
        if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-file":
            sys.exit(0 if files else 1)
        option = _option_of(self.get_completion_args()[1])
        return "\n".join(f"{option}{item.value}\t{_help(item)}".rstrip("\t") for item in items)


def _described(item: CompletionItem) -> str:
    name, text = str(item.value).replace(":", "\\:"), _help(item)
    return f"{name}:{text}" if text else name


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def register() -> None:
    """Register our completion in place of typer's own, for ``--show-completion`` and
    ``--install-completion``, too.
    """
    for name, shell in (("bash", Bash), ("zsh", Zsh), ("fish", Fish)):
        click.add_completion_class(shell, name)
    scripts._completion_scripts |= {"bash": BASH, "fish": FISH}


def completions(places: Mapping[str, Place], incomplete: str) -> list[CompletionItem]:
    """Commands that begin so."""
    return [
        CompletionItem(name, help=place.brief)
        for name, place in places.items()
        if name.startswith(incomplete)
    ]
