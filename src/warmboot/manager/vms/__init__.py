"""VMs as containers and snapshots need them: booted for one, built in for the other, kept ready."""
