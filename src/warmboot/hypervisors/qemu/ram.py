"""Where a guest's RAM is in QEMU's memory, from what its monitor says."""

from __future__ import annotations

import re

from warmboot.hypervisors.memory.own_pages import Mapping
from warmboot.model.errors import HypervisorError

_LINE = re.compile(
    r"^\s*ram\s.*?0x[0-9a-f]+\s+0x(?P<used>[0-9a-f]+)\s+0x[0-9a-f]+\s+0x(?P<address>[0-9a-f]+)",
    re.MULTILINE,
)


def ram_mapping(ramblocks: str, memory_bytes: int) -> Mapping:
    """The addresses of the block ``ram`` in the table that ``x-query-ramblock`` gives.

    ``HypervisorError`` if the table is another than the one that is known.
    """
    found = _LINE.search(ramblocks)
    if found is None or int(found["used"], 16) != memory_bytes:
        raise HypervisorError(
            "QEMU does not say where its guest's memory is",
            details=ramblocks[:2000],
            resolution="use a QEMU from 8.2 to 10",
        )
    start = int(found["address"], 16)
    return Mapping(start, start + memory_bytes, 0)
