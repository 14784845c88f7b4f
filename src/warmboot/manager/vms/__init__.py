"""VMs for containers and snapshots: booted, used for builds, and kept ready in the warm pool."""
