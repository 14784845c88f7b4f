"""Engines that are reached over TCP."""
