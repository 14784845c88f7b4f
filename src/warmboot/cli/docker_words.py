"""Docker commands that warmboot does not have, or that have another name here."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from warmboot.cli.standard_streams import drop_odd_sizes

_FILE = "write a file with `warmboot exec -i CONTAINER sh -c 'cat > FILE'`"
_PULLED = "`warmboot run` pulls the image that it needs"
_BUILT = "build it with docker; `warmboot run --archive FILE` takes what `docker save` wrote"
_PAUSED = "containers are not paused; workers are: `warmboot worker pause`"
_OURS = {
    "build": _BUILT,
    "commit": _BUILT,
    "container": "its commands have no prefix: `warmboot ps`, `warmboot rm`, …",
    "cp": _FILE,
    "create": "`warmboot run -d` creates a container and starts it",
    "image": f"{_PULLED}; runtime images are something else: `warmboot runtime`",
    "images": f"{_PULLED}; runtime images are something else: `warmboot runtime ls`",
    "info": "`warmboot doctor` checks this machine",
    "load": _BUILT,
    "network": "each container has its own network; its ports are published with `run -p`",
    "pause": _PAUSED,
    "pull": _PULLED,
    "stats": "`warmboot top` shows what containers use",
    "system": "`warmboot gc` removes what is no longer needed, `warmboot top` shows usage",
    "unpause": _PAUSED,
    "version": "`warmboot --version` shows it",
    "volume": "there are no volumes; " + _FILE,
}


class Commands(TyperGroup):
    """Says what to use instead of a command of docker's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        drop_odd_sizes()
        return super().main(*args, **kwargs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except TyperException as error:
            if args and (instead := _OURS.get(args[0])):
                error.message = f"No such command '{args[0]}': {instead}"
            raise
