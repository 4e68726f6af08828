"""Runs the migrations: one deployer at a time, a transaction per revision, short lock waits."""

import re
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.database import connections
from app.models import db
from migrations import lock_retry

# deploy/postgresql/partition.sql changes one index and adds partitions.
IS_PARTITIONED = text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('push_tokens')")


def is_compared(item: Any, name: str | None, kind: str, is_reflected: bool, other: Any) -> bool:
    """Say if `alembic check` looks at a thing: not at what partition.sql has made of it."""
    if kind == "table" and is_reflected:
        return not re.fullmatch(r"push_tokens_p\d+_\d+", name or "")
    if name != "uq_push_tokens_device" or kind != "index":
        return True
    return not context.get_bind().scalar(IS_PARTITIONED)


OPTIONS: dict[str, Any] = {
    "include_object": is_compared,
    "target_metadata": db.metadata,
    "transaction_per_migration": True,
    "compare_server_default": True,
}


def run_offline(limits: lock_retry.Limits) -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name="postgresql", limits=limits, **OPTIONS)
    with context.begin_transaction():
        checks = [lock_retry.REFUSE_OTHER_DEPLOYERS]
        for start in context.script.get_revisions(context.get_starting_revision_argument() or ()):
            checks.append(lock_retry.refuse_other_start(start.revision))
        for statement in (*checks, *limits.settings()):
            context.static_output(f"{statement};")
        context.run_migrations()


def run_online(limits: lock_retry.Limits) -> None:
    """Migrate the database of the settings."""
    settings = Settings.from_env()
    connections.check_url(settings)
    connect = connections.connector(settings, batch=True)
    engine = create_engine("postgresql+psycopg://", creator=connect)
    try:
        with engine.connect() as connection:

            def configure(**options: Any) -> dict[str, Any]:
                context.configure(connection=connection, limits=limits, **OPTIONS, **options)
                return context.get_context().opts

            asked = configure()
            if not asked.get("dont_mutate"):  # set by commands that only read, such as `current`
                # Before lock_timeout is set, which would end the wait for the other deployer.
                lock_retry.wait_for_other_deployers(connection)
            steps = lock_retry.Steps(asked["fn"])

            def run() -> None:
                configure(fn=steps)
                with context.begin_transaction():
                    context.run_migrations()

            lock_retry.run_with_retries(connection, limits, run)
    except DBAPIError as error:
        if not lock_retry.says_it_all(error):
            raise
        raise CommandError(lock_retry.in_a_line(error)) from error
    finally:
        engine.dispose()


limits = lock_retry.Limits.from_arguments(context.get_x_argument(as_dictionary=True))
if context.is_offline_mode():
    run_offline(limits)
else:
    run_online(limits)
