"""The database: tables, repositories, migrations.

SQLite by default, PostgreSQL by URL. Imports the model and libraries only, and returns the model's
frozen dataclasses. Start at ``Store``.
"""

from warmboot.model.journal.idempotency import Claim, Claimed, Done, Mismatch, Running
from warmboot.store.store import Store

__all__ = ["Claim", "Claimed", "Done", "Mismatch", "Running", "Store"]
