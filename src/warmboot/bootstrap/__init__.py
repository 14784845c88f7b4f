"""The only place where parts are wired, a module a part: settings in, a running service out.

Imports nothing: who is refused (``lock``) does not wait for all the parts of a manager.
"""
