"""Docker's commands and options that warmboot does not have, or that have another name here."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup
from typer.exceptions import Exit, TyperException

from warmboot.cli.standard_streams import UNREAD, drop_odd_sizes, drop_output

_FILE = "write a file with `warmboot exec -i CONTAINER sh -c 'cat > FILE'`"
_PULLED = "`warmboot run` pulls the image that it needs"
_BUILT = "build it with docker; `warmboot run --archive FILE` takes what `docker save` wrote"
_PAUSED = "containers are not paused; workers are: `warmboot worker pause`"
_REGISTRY = "images come from their registries as they are, without a login"
_STORED = "an image is kept by no one but the VM that has pulled it"
_COMMANDS = {
    "build": _BUILT,
    "builder": _BUILT,
    "buildx": _BUILT,
    "commit": _BUILT,
    "compose": "start each container with `warmboot run -d`",
    "container": "its commands have no prefix: `warmboot ps`, `warmboot rm`, …",
    "context": "WARMBOOT_URL selects another manager",
    "cp": _FILE,
    "create": "`warmboot run -d` creates a container and starts it",
    "diff": "look inside with `warmboot exec CONTAINER …`",
    "export": "copy what you need with `warmboot exec CONTAINER tar …`",
    "history": _STORED,
    "image": f"{_PULLED}; runtime images are something else: `warmboot runtime`",
    "images": f"{_PULLED}; runtime images are something else: `warmboot runtime ls`",
    "import": _BUILT,
    "info": "`warmboot doctor` checks this machine",
    "load": _BUILT,
    "login": _REGISTRY,
    "logout": _REGISTRY,
    "network": "each container has its own network; its ports are published with `run -p`",
    "pause": _PAUSED,
    "pull": _PULLED,
    "push": _BUILT,
    "rename": "a container keeps the name that `warmboot run --name` gave it",
    "rmi": f"{_STORED}; runtime images are removed with `warmboot runtime rm`",
    "save": _STORED,
    "search": _PULLED,
    "stats": "`warmboot top` shows what containers use",
    "system": "`warmboot gc` removes what is no longer needed, `warmboot top` shows usage",
    "tag": _BUILT,
    "unpause": _PAUSED,
    "update": "what a VM has is set when it is created: `warmboot run --cpus N -m SIZE`",
    "version": "`warmboot --version` shows it",
    "volume": "there are no volumes; " + _FILE,
}

_OWN_NETWORK = "each container has its own network; its ports are published with -p"
_OWN_VM = "each container has a VM of its own, with its own kernel, and needs no rights on this one"
_NO_DEVICES = "a VM has no devices of this machine"
_OWN_LIMITS = "the VM is the limit: use --cpus and --memory"
_NO_RESTARTS = "a container that has ended stays so until `warmboot start`"
_OPTIONS = {
    "--add-host": "write it into /etc/hosts with `warmboot exec`",
    "--cap-add": _OWN_VM,
    "--cap-drop": "use --user for fewer rights in the container",
    "--cpu-shares": _OWN_LIMITS,
    "--cpuset-cpus": _OWN_LIMITS,
    "--device": _NO_DEVICES,
    "--dns": "names are resolved as this machine does",
    "--expose": _OWN_NETWORK,
    "--format": "--json prints what a program needs",
    "--gpus": _NO_DEVICES,
    "--init": "the command is the container's first process",
    "--ip": _OWN_NETWORK,
    "--ipc": _OWN_VM,
    "--link": _OWN_NETWORK,
    "--memory-swap": _OWN_LIMITS,
    "--net": _OWN_NETWORK,
    "--network": _OWN_NETWORK,
    "--pid": _OWN_VM,
    "--pids-limit": _OWN_LIMITS,
    "--platform": "images of this machine's platform are run",
    "--privileged": _OWN_VM,
    "--publish-all": "name each port: -p PORT",
    "--pull": "the image is pulled by the VM that runs it",
    "--read-only": "the disk belongs to this container alone, and goes with it",
    "--restart": _NO_RESTARTS,
    "--security-opt": _OWN_VM,
    "--shm-size": "mount one inside, or give the VM more memory with -m",
    "--sig-proxy": "signals always go to the container",
    "--tmpfs": "the disk belongs to this container alone, and goes with it",
    "--ulimit": "set it inside: sh -c 'ulimit …; exec PROGRAM'",
    "--userns": _OWN_VM,
    "--volumes-from": "there are no volumes; " + _FILE,
    "-P": "name each port: -p PORT",
}


class Commands(TyperGroup):
    """Says what to use instead of a command or an option of docker's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        drop_odd_sizes()
        return super().main(*args, **kwargs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except TyperException as error:
            if args and (instead := _COMMANDS.get(args[0])):
                error.message = f"No such command '{args[0]}': {instead}"
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TyperException as error:
            _reword(error)
            raise
        except BrokenPipeError:  # typer would make it a failure
            drop_output()
            raise Exit(UNREAD) from None


def _reword(error: Any) -> None:
    """An option that a command of the first level, as docker's are, does not have."""
    missing, context = getattr(error, "possibilities", _ABSENT), getattr(error, "ctx", None)
    if missing is _ABSENT or context is None or context.command_path.count(" ") != 1:
        return
    if instead := _OPTIONS.get(error.option_name):
        error.message = f"No such option '{error.option_name}': {instead}"
        error.possibilities = None


_ABSENT = object()
