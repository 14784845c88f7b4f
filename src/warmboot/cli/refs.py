"""References to containers on the command line, with completion."""

from __future__ import annotations

from typing import Annotated

import typer

from warmboot.cli.completion import container_names

Ref = Annotated[
    str,
    typer.Argument(
        metavar="CONTAINER",
        help="name, id or beginning of an id",
        autocompletion=container_names,
        show_default=False,
    ),
]
Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONTAINER",
        help="names, ids or beginnings of ids",
        autocompletion=container_names,
        show_default=False,
    ),
]
