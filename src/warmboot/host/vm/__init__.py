"""VMs on this machine: files, VMMs, consoles, and what a killed manager has left behind."""
