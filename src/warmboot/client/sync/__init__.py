"""The client's sync flavour. All but ``portal`` and ``client`` is by ``scripts/sync_client.py``."""
