"""Entry point: ``python -I -S …/simulated/vmm/__main__.py``, which sees no installed package."""

import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    # asyncio goes without; to load it is a seventh of the work of a VM's start.
    sys.modules["ssl"] = None  # type: ignore[assignment]

    from warmboot.hypervisors.simulated.vmm import fork_server
    from warmboot.hypervisors.simulated.vmm.main import main

    arguments = sys.argv[1:]
    if arguments[0] == "--fork-server":
        arguments = fork_server.serve(socket.socket(fileno=int(arguments[1])))
    main(arguments)
