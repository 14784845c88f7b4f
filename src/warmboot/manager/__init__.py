"""The decisions: one package per noun, one use case per module. ``ports`` is the API's interface.

Sagas (``core.saga``) do what needs several resources at once; each step is journaled before it
begins, so that a manager that was killed can be undone by the next one (``reconcile``).
"""
