"""Running ``nft``: a script is one transaction, it applies as a whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warmboot.model.errors import NetworkError
from warmboot.system.programs import run_program

TIMEOUT_S = 20.0


async def run(*argv: str, stdin: str = "") -> tuple[int, str, str]:
    """Exit status, output and error output of a command that ends soon; ``NetworkError``."""
    outcome = await run_program(
        *argv,
        stdin=stdin.encode(),
        errors_apart=True,
        check=False,
        timeout_s=TIMEOUT_S,
        failure=NetworkError,
    )
    return outcome.code, outcome.output, outcome.errors


def _argv(namespace: Path | None, *args: str) -> list[str]:
    enter = ["nsenter", f"--net={namespace}"] if namespace is not None else []
    return [*enter, "nft", *args]


async def apply(script: str, namespace: Path | None = None) -> None:
    """Apply a script. ``NetworkError`` with nft's own words if it is refused."""
    status, _, err = await run(*_argv(namespace, "-f", "-"), stdin=script)
    if status != 0:
        raise NetworkError(
            "nftables refused our rules" + (f" in {namespace.name}" if namespace else ""),
            details=err.strip(),
            resolution="see that the kernel has nf_tables with NAT (modprobe nft_chain_nat)",
        )


async def elements(table: str, name: str, kind: str = "map") -> list[Any]:
    """The elements of one of the host's sets or maps, in nft's JSON; none if it is gone."""
    status, out, _ = await run("nft", "-j", "list", kind, "ip", table, name)
    if status != 0:
        return []
    for item in json.loads(out)["nftables"]:
        if kind in item:
            found: list[Any] = item[kind].get("elem", [])
            return found
    return []


async def tables(namespace: Path | None = None) -> list[tuple[str, str]]:
    """Family and name of every table on the host, or in a namespace."""
    status, out, err = await run(*_argv(namespace, "-j", "list", "tables"))
    if status != 0:
        raise NetworkError("cannot list the nftables", details=err.strip())
    return [
        (item["table"]["family"], item["table"]["name"])
        for item in json.loads(out)["nftables"]
        if "table" in item
    ]


async def table(name: str, namespace: Path | None = None) -> list[dict[str, Any]]:
    """Everything in a table, in nft's JSON; nothing if it is gone.

    ``NetworkError`` when its namespace is.
    """
    status, out, err = await run(*_argv(namespace, "-j", "list", "table", "ip", name))
    if status == 0:
        found: list[dict[str, Any]] = json.loads(out)["nftables"]
        return found
    if "No such file or directory" in err and "nsenter" not in err:
        return []
    raise NetworkError(f"cannot list the table {name}", details=err.strip())
