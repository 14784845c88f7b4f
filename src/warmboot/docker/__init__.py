"""A Docker engine behind its Unix socket: asked through ``client``, its errors translated."""
