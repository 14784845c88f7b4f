"""The simulated hypervisor: VMs without virtualization, for tests and for trying warmboot.

``config``   delays and faults
``layout``   what lies in a VM's folder
``vm``       a running VM
``driver``   starting, restoring and finding VMs
``vmm``      the process that stands for a VM

Imports nothing: ``vmm`` sees no installed package.
"""
