"""CRIU's cache of what a kernel can do."""
