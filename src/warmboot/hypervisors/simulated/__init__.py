"""The simulated hypervisor: its driver, and the process that stands for a VM.

Imports nothing: that process (``vm``) sees no installed package.
"""
