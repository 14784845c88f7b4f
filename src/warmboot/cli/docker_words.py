"""Docker's commands and options that warmboot does not have, or that have another name here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from typer._click.exceptions import NoSuchOption
from typer.core import TyperGroup
from typer.exceptions import Exit, TyperException

from warmboot.cli.standard_streams import UNREAD, drop_odd_sizes, drop_output

_VOLUMES = "volumes are in the container's VM, and go with it: `warmboot run -v NAME:/path`"
_PULLED = "`warmboot run` pulls the image that it needs"
_BUILT = "build it with docker; `warmboot run --archive FILE` takes what `docker save` wrote"
_REGISTRY = "images come from their registries as they are, without a login"
_STORED = (
    "an image is kept by no one but the VM that has pulled it, and by `warmboot image prepare`"
)
_COMMANDS = {
    "build": _BUILT,
    "builder": _BUILT,
    "buildx": _BUILT,
    "commit": _BUILT,
    "compose": "start each container with `warmboot run -d`",
    "container": "its commands have no prefix: `warmboot ps`, `warmboot rm`, …",
    "context": "WARMBOOT_URL selects another manager",
    "export": "copy what you need: `warmboot cp CONTAINER:PATH -`",
    "history": _STORED,
    "images": f"{_PULLED}; runtime images are something else: `warmboot runtime ls`",
    "import": _BUILT,
    "info": "`warmboot doctor` checks this machine",
    "load": _BUILT,
    "login": _REGISTRY,
    "logout": _REGISTRY,
    "network": "each container has its own network; networks between containers are what engines "
    "are for: `warmboot engine create`",
    "pull": _PULLED,
    "push": _BUILT,
    "rmi": f"{_STORED}; runtime images are removed with `warmboot runtime rm`",
    "save": _STORED,
    "search": _PULLED,
    "system": "`warmboot gc` removes what is no longer needed, `warmboot top` shows usage",
    "tag": _BUILT,
    "update": "what a VM has is set when it is created: `warmboot run --cpus N -m SIZE`",
    "version": "`warmboot --version` shows it",
    "volume": _VOLUMES,
}

_OWN_NETWORK = (
    "each container has its own network; its ports are published with -p. Networks between "
    "containers are what engines are for: `warmboot engine create`"
)
_OWN_VM = "each container has a VM of its own, with its own kernel, and needs no rights on this one"
_NO_DEVICES = "a VM has no devices of this machine"
_OWN_LIMITS = "the VM is the limit: use --cpus and --memory"
_NO_LOG_CHOICE = "its log is kept where `warmboot logs` finds it"
_HOST_NAME = "a host name is one label: -h NAME"
_KEYS = "ctrl-p ctrl-q detaches"
_STREAMS = "-i passes the input on, -d leaves all streams; else the output is shown"
_THIS_MACHINE = "images of this machine's platform are run"
_OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(
        ("--ipc", "--pid", "--security-opt", "--userns", "--uts"),
        _OWN_VM,
    ),
    **dict.fromkeys(("--cgroup-parent", "--cgroupns", "--use-api-socket"), _OWN_VM),
    **dict.fromkeys(("--oom-kill-disable", "--oom-score-adj"), _OWN_VM),
    **dict.fromkeys(("--expose", "--ip", "--ip6", "--link", "--link-local-ip"), _OWN_NETWORK),
    **dict.fromkeys(("--mac-address", "--net", "--network", "--network-alias"), _OWN_NETWORK),
    **dict.fromkeys(("-c", "--cpu-count", "--cpu-percent", "--cpu-period"), _OWN_LIMITS),
    **dict.fromkeys(("--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime"), _OWN_LIMITS),
    **dict.fromkeys(("--cpu-shares", "--cpuset-cpus", "--cpuset-mems"), _OWN_LIMITS),
    **dict.fromkeys(("--kernel-memory", "--memory-reservation", "--memory-swap"), _OWN_LIMITS),
    "--memory-swappiness": _OWN_LIMITS,
    **dict.fromkeys(("--blkio-weight", "--blkio-weight-device", "--storage-opt"), _OWN_LIMITS),
    **dict.fromkeys(("--io-maxbandwidth", "--io-maxiops"), _OWN_LIMITS),
    **dict.fromkeys(("--device", "--device-cgroup-rule", "--gpus"), _NO_DEVICES),
    **dict.fromkeys(("--device-read-bps", "--device-read-iops"), _NO_DEVICES),
    **dict.fromkeys(("--device-write-bps", "--device-write-iops"), _NO_DEVICES),
    **dict.fromkeys(("--volume-driver", "--volumes-from"), _VOLUMES),
    **dict.fromkeys(("--log-driver", "--log-opt"), _NO_LOG_CHOICE),
    "--isolation": _THIS_MACHINE,
    **dict.fromkeys(("-a", "--attach"), _STREAMS),
    "--annotation": "use a label: -l K=V",
    "--cidfile": "`warmboot run -d` prints the id: warmboot run -d IMAGE > FILE",
    "--detach-keys": _KEYS,
    "--disable-content-trust": "name an image by its digest: NAME@sha256:…",
    "--domainname": _HOST_NAME,
    "--format": "--json prints what a program needs",
    "--group-add": "use --user USER:GROUP",
    "--label-file": "name each label: -l K=V",
    "--sig-proxy": "signals always go to the container",
}

_DISK_USE = "`warmboot top` shows what containers use"
_CHECKPOINTS = "checkpoints are of workers: `warmboot worker resume -c NAME`"
_OF_COMMANDS: Mapping[tuple[str, str], str] = {
    **dict.fromkeys((("events", "--since"), ("events", "--until")), "--after ID shows later ones"),
    ("events", "--filter"): "--kind shows only events of that kind",
    ("exec", "--privileged"): "what `run --privileged` gave, its commands have",
    **dict.fromkeys((("inspect", "-s"), ("inspect", "--size")), _DISK_USE),
    ("inspect", "--type"): "it shows containers; others have `show`: `warmboot worker show`",
    ("logs", "--details"): "`warmboot inspect` shows labels and environment",
    **dict.fromkeys((("ps", "-s"), ("ps", "--size")), _DISK_USE),
    **dict.fromkeys(
        (("restart", "-s"), ("restart", "--signal")),
        "`warmboot stop -s SIGNAL CONTAINER && warmboot start CONTAINER` does it",
    ),
    **dict.fromkeys((("rm", "-l"), ("rm", "--link")), "there are no links between containers"),
    **dict.fromkeys((("start", "--checkpoint"), ("start", "--checkpoint-dir")), _CHECKPOINTS),
}
_ALIKE = 0.8
"""How alike an option has to be, to be what was meant: others are no help."""


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
    """An option or argument that a command of the first level, as docker's are, does not have."""
    context = getattr(error, "ctx", None)
    if context is None or context.command_path.count(" ") != 1:
        return
    command = context.command_path.rpartition(" ")[2]
    if not isinstance(error, NoSuchOption):
        return
    option = error.option_name
    if instead := _OF_COMMANDS.get((command, option)) or _OPTIONS.get(option):
        error.message = f"No such option '{option}': {instead}"
        error.possibilities = None
    else:
        error.possibilities = get_close_matches(option, error.possibilities or (), cutoff=_ALIKE)
