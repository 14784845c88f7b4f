"""Entry point of a page server: ``python -I -S …/memory/__main__.py``.

    VM_ID RUN_DIR FRAMES RECORDED RECORD_S PACKAGES

Inherits a listening socket and a descriptor for its report. It sees no installed package but those
in ``PACKAGES``, where zstandard is. The folder is named so that it can be found by it.
"""

import socket
import sys

LISTENER, REPORT = 3, 4

if __name__ == "__main__":
    _, _, _, frames, recorded, record_s, packages = sys.argv
    sys.path[:0] = [__file__.rsplit("/", 4)[0]]
    sys.path.append(packages)

    from warmboot.hypervisors.memory.page_server import run

    listener = socket.socket(fileno=LISTENER)
    sys.exit(run(listener, REPORT, frames, recorded, float(record_s)))
