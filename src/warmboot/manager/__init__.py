"""What is decided: a room a noun, one use case a file. ``ports`` lists what the API may call.

Sagas (``core.saga``) do what needs several resources at once; each step is journaled before it
begins, so that a manager that was killed can be undone by the next one (``reconcile``).
"""
