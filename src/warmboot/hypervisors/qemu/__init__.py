"""QEMU: snapshot and restore by VM templating, under KVM or, where that is not usable, TCG.

Guest RAM is a file. While a template boots, the file is mapped shared, so that it always holds the
guest's memory; ``save`` pauses the guest and migrates the rest of the machine, RAM left out
(``x-ignore-shared``), to ``snapshot.state``. A restore maps the same file private (copy-on-write,
lazy) and loads the state. Source: QEMU's documentation of VM templating. A restored VM has its own
pages in that mapping: ``freeze`` writes these and, by another order, the state of its devices.
"""

from warmboot.hypervisors.qemu.config import QemuConfig
from warmboot.hypervisors.qemu.driver import Qemu

__all__ = ["Qemu", "QemuConfig"]
