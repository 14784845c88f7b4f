"""Alembic's entrance: migrates over the connection and in the transaction it is handed."""

from __future__ import annotations

from alembic import context

from warmboot.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
