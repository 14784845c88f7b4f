"""Users of this host, as a setting names them: by name, uid, or ``@GROUP`` for its members."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator, Mapping

from warmboot.model.errors import InvalidRequest


def named_users(names: str, setting: str) -> Mapping[int, str]:
    """The name of each by uid. ``InvalidRequest`` for who does not exist."""
    found: dict[int, str] = {}
    for word in filter(None, (word.strip() for word in names.split(","))):
        try:
            found |= {user.pw_uid: user.pw_name for user in _users(word)}
        except KeyError as error:
            what = f"group {word[1:]}" if word.startswith("@") else f"user {word}"
            raise InvalidRequest(
                f"{setting} names the {what}, who does not exist on this machine",
                details="users are given by name or uid, the members of a group as @GROUP, "
                "separated by commas",
                resolution="correct the environment variable",
            ) from error
    others = found.keys() - {os.geteuid()}
    if others and os.geteuid() != 0:  # who could give no file to them
        raise InvalidRequest(
            f"{setting} names {found[min(others)]}, but this manager's engines belong to its own "
            "user",
            details=f"it runs as uid {os.geteuid()}",
            resolution="name that user alone, or run the manager as root",
        )
    return found


def _users(word: str) -> Iterator[pwd.struct_passwd]:
    """``KeyError``. Of a group also those whose primary one it is."""
    if word.startswith("@"):
        group = grp.getgrnam(word[1:])
        yield from (pwd.getpwnam(name) for name in group.gr_mem)
        yield from (user for user in pwd.getpwall() if user.pw_gid == group.gr_gid)
    elif word.isascii() and word.isdigit() and int(word) < 2**32 - 1:
        yield pwd.getpwuid(int(word))
    else:
        yield pwd.getpwnam(word)
