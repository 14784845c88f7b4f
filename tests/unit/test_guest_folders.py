"""Folders of the host in the guest: what the agent mounts, once, and what it says if it cannot."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support.guests import TOKEN, Guest

FIRST, SECOND = "0123456789abcdef", "fedcba9876543210"
PLACE = "/run/warmboot/folders"


def programs(guest: Guest) -> list[str]:
    return [name for name, _ in guest.system.calls if name.startswith(("mount", "mkdir", "mod"))]


def ask(guest: Guest, *ids: object) -> tuple[int, object]:
    return guest.ask("POST", "/warmboot/v1/folders", {"folders": list(ids)}, TOKEN)


def test_folders_are_mounted_once_where_nobody_else_can_make_any(guest: Guest) -> None:
    guest.become()
    guest.system.files["/proc/self/mounts"] = f"198.18.0.1:/{SECOND} {PLACE}/{SECOND} nfs rw 0 0\n"
    assert ask(guest, FIRST, SECOND)[0] == 200
    load, opened, made, mounted, closed = programs(guest)
    assert load == "modprobe -q nfsv3"
    assert opened == f"mount -o remount,rw {PLACE}"
    assert made == f"mkdir -p {PLACE}/{FIRST}"
    assert mounted.startswith("mount -i -t nfs -o vers=3,")
    assert mounted.endswith(f" 198.18.0.1:/{FIRST} {PLACE}/{FIRST}")
    for option in ("hard", "nolock", "nosuid", "nodev", "port=917", "mountport=917"):
        assert option in mounted.split()[5].split(",")
    assert closed == f"mount -o remount,ro {PLACE}"
    assert guest.system.files["/proc/sys/net/ipv4/ip_default_ttl"] == "255"


@pytest.mark.parametrize("ids", [[""], ["../etc"], [FIRST.upper()], [1], [FIRST, None]])
def test_what_is_no_folders_id_is_refused(guest: Guest, ids: Sequence[object]) -> None:
    guest.become()
    assert ask(guest, *ids)[0] == 400
    assert programs(guest) == []


def test_a_mount_that_fails_is_told_and_nobody_can_make_folders_there(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.become()
    guest.system.files["/proc/self/mounts"] = ""
    run = guest.system.run
    monkeypatch.setattr(
        guest.system, "run", lambda command: run(command) or (32 if "nfs" in command else 0)
    )
    code, answer = ask(guest, FIRST)
    assert code == 500
    assert "exit code 32" in str(answer)
    assert programs(guest)[-1] == f"mount -o remount,ro {PLACE}"


def test_an_image_without_the_module_is_told_apart(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.become()
    guest.system.files["/proc/self/mounts"] = ""
    monkeypatch.setattr(guest.system, "run", lambda command: 1)
    code, answer = ask(guest, FIRST)
    assert code == 500
    assert "no NFS client" in str(answer)
