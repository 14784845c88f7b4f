"""What the simulated Docker refuses of a container's configuration, when it restarts one, and how
it checks that one is well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from warmboot.hypervisors.simulated.vmm.docker.http import HttpError
from warmboot.hypervisors.simulated.vmm.machine import GuestClock

Record = dict[str, Any]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0
_CHECKED_EVERY_S, _FAILURES, _KEPT_CHECKS = 30.0, 3, 5
_OF_ITS_OWN = {
    "Dns": "dns and the network mode",
    "DnsSearch": "dns and the network mode",
    "DnsOptions": "dns and the network mode",
    "ExtraHosts": "custom host-to-IP mapping and the network mode",
    "PortBindings": "port publishing and the container type network mode",
}


def check(body: Record) -> None:
    """Refuse, with 400, options that cannot be given together."""
    host = body.get("HostConfig") or {}
    if str(host.get("NetworkMode", "")).startswith("container:"):
        for field, what in _OF_ITS_OWN.items():
            if host.get(field):
                raise HttpError(400, f"conflicting options: {what}")
        if any(name.startswith("net.") for name in host.get("Sysctls") or ()):
            raise HttpError(400, "the sysctl requires a new network namespace")
    policy = host.get("RestartPolicy") or {}
    if host.get("AutoRemove") and policy.get("Name", "no") not in ("", "no"):
        raise HttpError(400, "can't create 'AutoRemove' container with restart policy")


def restarts(record: Record, status: int) -> bool:
    """Whether a container that has just ended with ``status`` is started again."""
    policy = record["host_config"].get("RestartPolicy") or {}
    most = int(policy.get("MaximumRetryCount") or 0)
    if record["stopped"]:
        return False
    match policy.get("Name"):
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            return status != 0 and (not most or record["restarts"] < most)
    return False


def pause_s(restarts: int) -> float:
    """The pause before a container is restarted for the n-th time."""
    return min(_FIRST_PAUSE_S * 2.0 ** (restarts - 1), _LONGEST_PAUSE_S)


def is_checked(record: Record) -> bool:
    test = (record["config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    return bool(test[0] != "NONE")


async def check_health(
    record: Record,
    run: Callable[[Sequence[str]], Awaitable[tuple[int, bytes]]],
    changed: Callable[[str], None],
    clock: GuestClock,
) -> None:
    """Check it for as long as it runs; ``changed`` is told of another status, as in Docker."""
    check = record["config"]["Healthcheck"]
    every_s = (check.get("Interval") or 0) / 1e9 or _CHECKED_EVERY_S
    kind, *words = check["Test"]
    command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
    health = record["state"].setdefault(
        "Health", {"Status": "starting", "FailingStreak": 0, "Log": []}
    )
    while True:
        await clock.sleep_until(clock.now() + every_s)
        began = datetime.now(UTC).isoformat()
        code, said = await run(command)
        found = {"Start": began, "End": datetime.now(UTC).isoformat(), "ExitCode": code}
        health["Log"] = [*health["Log"], found | {"Output": said.decode(errors="replace")}]
        del health["Log"][:-_KEPT_CHECKS]
        health["FailingStreak"] = 0 if code == 0 else health["FailingStreak"] + 1
        failed = health["FailingStreak"] >= (check.get("Retries") or _FAILURES)
        now = "healthy" if code == 0 else "unhealthy" if failed else health["Status"]
        if now != health["Status"]:
            health["Status"] = now
            changed(now)
