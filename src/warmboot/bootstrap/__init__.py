"""Wires the parts of the service, one module per part: settings in, a running service out.

Imports nothing: who is refused (``lock``) does not wait for all the parts of a manager.
"""
