"""Firecracker: microVMs on KVM, their snapshots mapped lazily.

``config``   what can be chosen
``kvm``      whether KVM is there, and whether it runs an ordinary kernel
``binary``   the program: its version, and the version of a snapshot
``layout``   what lies in a VM's folder, under names that are the same for every VM
``api``      requests over its Unix socket, every refusal an error
``vm``       a running VM
``driver``   starting, restoring and finding VMs
"""

from warmboot.hypervisors.firecracker.config import FirecrackerConfig
from warmboot.hypervisors.firecracker.driver import Firecracker
from warmboot.hypervisors.firecracker.vm import FirecrackerVm

__all__ = ["Firecracker", "FirecrackerConfig", "FirecrackerVm"]
