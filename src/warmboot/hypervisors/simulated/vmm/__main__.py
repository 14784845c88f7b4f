"""Entry point: ``python -I -S …/simulated/vmm/__main__.py``, which sees no installed package."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    # asyncio goes without; to load it is a seventh of the work of a VM's start.
    sys.modules["ssl"] = None  # type: ignore[assignment]

    from warmboot.hypervisors.simulated.vmm.main import main

    main(sys.argv[1:])
