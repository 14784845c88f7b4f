"""What the manager refuses, in the words of the command line: options, not fields of the API."""

from __future__ import annotations

import re
from collections.abc import Mapping

from typer._click.globals import get_current_context

from warmboot.model.errors import InvalidRequest, WarmbootError

_WORDS: Mapping[str, str] = {
    "archive": "--archive",
    "after": "--after",
    "checkpoint": "the checkpoint's name",
    "command": "COMMAND",
    "disk_mib": "--disk",
    "entrypoint": "--entrypoint",
    "environment": "--env",
    "folders": "--folder",
    "host_ports": "--host-port",
    "hostname": "--hostname",
    "image": "IMAGE",
    "initrd": "--initrd",
    "kernel": "--kernel",
    "labels": "--label",
    "memory_mib": "--memory",
    "mounts": "--volume",
    "name": "--name",
    "network": "--network",
    "options.add_hosts": "--add-host",
    "options.cap_add": "--cap-add",
    "options.cap_drop": "--cap-drop",
    "options.cpus": "--cpus",
    "options.dns": "--dns",
    "options.dns_options": "--dns-option",
    "options.dns_search": "--dns-search",
    "options.health.interval_s": "--health-interval",
    "options.health.retries": "--health-retries",
    "options.health.start_interval_s": "--health-start-interval",
    "options.health.start_period_s": "--health-start-period",
    "options.health.test": "--health-cmd",
    "options.health.timeout_s": "--health-timeout",
    "options.mounts": "--volume",
    "options.pids_limit": "--pids-limit",
    "options.platform": "--platform",
    "options.restart": "--restart",
    "options.shm_size_bytes": "--shm-size",
    "options.sysctls": "--sysctl",
    "options.tmpfs": "--tmpfs",
    "options.ulimits": "--ulimit",
    "owner_uid": "--owner",
    "park_after_idle_s": "--idle",
    "path": "DIR",
    "policy.checkpoint_every_s": "--every",
    "policy.keep_checkpoints": "--keep",
    "policy.pause_after_idle_s": "--idle",
    "policy.wake_on": "--wake-on",
    "ports": "--publish",
    "query.kind": "--kind",
    "query.label": "--filter label",
    "query.state": "--filter status",
    "ref": "the name or id",
    "id": "the id",
    "rootfs": "--rootfs",
    "runtime_image_id": "IMAGE",
    "shape.memory_mib": "--memory",
    "shape.vcpus": "--cpus",
    "signal": "--signal",
    "since": "--since",
    "snapshot": "--from",
    "stop_signal": "--stop-signal",
    "stop_timeout_s": "--stop-timeout",
    "tail": "--tail",
    "tcp": "--tcp",
    "time_to_live_s": "--ttl",
    "timeout_s": "--time",
    "until": "--until",
    "user": "--user",
    "vcpus": "--cpus",
    "weight": "the weight",
    "window_s": "--window",
    "working_dir": "--workdir",
}


_NAMED = ("environment", "labels")
"""Fields that are objects, with names of the user's."""
_SHOWN = 64
_UNIT = re.compile("_(s|mib|bytes)$")


def in_words(error: WarmbootError) -> WarmbootError:
    """The same error, as somebody understands it who has never seen the API."""
    fields = error.fields if isinstance(error, InvalidRequest) else ()
    if not fields and "/openapi.json" not in error.resolution:
        return error
    brief, details = error.brief, error.details
    if fields:
        words = list(dict.fromkeys(_word(field) for field in fields))
        brief = f"{', '.join(words)} {'is' if len(words) == 1 else 'are'} not valid"
        if fields == ("body",):  # no field of it: it is about several together
            brief, details = details, ""
        for field in fields if len(fields) > 1 else ():  # a single one is not named again
            place = f"body.{field}: "  # as it is in a request; a session's first frame is no body
            place = place if place in details else f"{field}: "
            details = details.replace(place, f"{_word(field)}: ")
    told = type(error)(brief, details=details, resolution=f"see: {_command()} --help")
    if isinstance(error, InvalidRequest) and isinstance(told, InvalidRequest):
        told.fields = error.fields
    return told


def _word(field: str) -> str:
    """A field's option, and of one with names in it the name."""
    parts = [part for part in field.split(".") if not part.isdigit() and part != "[key]"]
    if parts[0] in ("query", "path") and ".".join(parts[:2]) not in _WORDS:
        del parts[0]
    for length in range(len(parts), 0, -1):
        if word := _WORDS.get(".".join(parts[:length])):
            word = _of_command(word, parts[-1])
            name = field.partition(".")[2].removesuffix(".[key]")
            return f"{word} {_shown(name)}" if parts[0] in _NAMED and len(parts) > 1 else word
    return _of_command("", parts[-1])


def _of_command(word: str, field: str) -> str:
    """What the command that runs calls it: by this option, if it has that; else by what it has of
    the field's name."""
    option, plain = word.partition(" ")[0], _UNIT.sub("", field)
    context = get_current_context(silent=True)
    parameters = context.command.params if context else []
    if word and not option.startswith("--"):
        return word
    if word and (context is None or any(option in one.opts for one in parameters)):
        return word
    for one in parameters:
        if one.name in (plain, option.removeprefix("--")):
            is_option = one.param_type_name == "option"
            return max(one.opts, key=len) if is_option else one.metavar or field.upper()
    return f"the {option[2:].replace('-', ' ')}" if word else field.replace("_", " ")


def _shown(name: str) -> str:
    name = f"{name[:_SHOWN]}…" if len(name) > _SHOWN else name
    return name if name.isprintable() and " " not in name else repr(name)


def _command() -> str:
    context = get_current_context(silent=True)
    return context.command_path if context else "warmboot"
