"""The inside of containers: processes, changes, and files in and out."""
