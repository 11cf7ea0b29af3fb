"""Alembic's entry: run the migrations on the connection that :mod:`chexnode.ledger.migrate` hands over."""

from __future__ import annotations

from alembic import context

from chexnode.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by rebuilding it
)
with context.begin_transaction():
    context.run_migrations()
