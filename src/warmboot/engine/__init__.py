"""Docker engines and CRIU: the client, checkpoint and restore, archives, preflight.

Only ``client`` speaks to an engine's socket; ``checkpoint`` and ``restore`` are what a use case
calls; ``preflight`` says what a machine lacks for it and mends what can be mended.
"""
