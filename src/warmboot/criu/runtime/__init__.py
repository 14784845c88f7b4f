"""Workers run on an OCI runtime of ours: ``program`` is that, the rest is the manager's side."""
