"""Files of runtime snapshots, and the forms in which memory is stored."""
