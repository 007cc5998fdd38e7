"""Alembic's hook: run the revisions on the session that trading_platform.migrate opened and locked."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
