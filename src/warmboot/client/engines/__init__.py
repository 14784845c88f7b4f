"""The client's side of engines (``/v1/engines``)."""

from warmboot.client.engines.engines import Engine, Engines

__all__ = ["Engine", "Engines"]
