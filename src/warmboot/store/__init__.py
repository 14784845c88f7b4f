"""The database: tables, repositories, migrations.

SQLite by default, PostgreSQL by URL. Imports the model and libraries only, and returns the model's
frozen dataclasses. Start at ``Store``.
"""

from warmboot.model.journal.idempotency import Done, Mismatch, Reservation, Reserved, Running
from warmboot.store.store import Store

__all__ = ["Done", "Mismatch", "Reservation", "Reserved", "Running", "Store"]
