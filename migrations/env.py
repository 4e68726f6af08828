"""Runs the migrations: one deployer at a time, never waiting long for a lock."""

import zlib

from alembic import context
from sqlalchemy import create_engine, func, select, text

from app import database
from app.config import Settings
from app.models import db

# Whoever migrates the same database holds this lock; a second deployer waits for it.
ADVISORY_LOCK = zlib.crc32(b"push-token-registry migrations")


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(
        dialect_name="postgresql", target_metadata=db.metadata, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Migrate the database of the settings, or the one whose connection a test hands over."""
    settings = Settings.from_env()
    database.check_url(settings)
    connect = database.connector(settings, batch=True)
    engine = create_engine("postgresql+psycopg://", creator=connect)
    try:
        with engine.connect() as connection:
            # The lock first: lock_timeout would cut the wait for the other deployer short.
            connection.execute(select(func.pg_advisory_lock(ADVISORY_LOCK)))
            connection.execute(text("SET lock_timeout = '4s'"))
            connection.commit()
            context.configure(
                connection=connection,
                target_metadata=db.metadata,
                transaction_per_migration=True,
                compare_server_default=True,
            )
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
