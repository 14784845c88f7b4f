"""Entry point: ``python -I -S …/simulated/vm/__main__.py``, which sees no installed package."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

    from warmboot.hypervisors.simulated.vm.main import main

    main(sys.argv[1:])
