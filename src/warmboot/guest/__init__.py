"""The guest agent: makes a restored VM its own self, and leads to its Docker.

It runs inside the VM on Debian's ``python3-minimal`` and therefore imports nothing but the part
of the standard library that is there (no asyncio, http, hmac or ctypes), and nothing of warmboot.
"""

AGENT_VERSION = "5"
"""Version of the agent's protocol."""
