"""Runs the migrations: one deployer at a time, a transaction each, no long wait for a lock."""

from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from app import database
from app.config import Settings
from app.models import db
from migrations import patience

OPTIONS: dict[str, Any] = {
    "target_metadata": db.metadata,
    "transaction_per_migration": True,
    "compare_server_default": True,
}


def run_offline(limits: patience.Limits) -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name="postgresql", limits=limits, **OPTIONS)
    with context.begin_transaction():
        checks = [patience.REFUSE_OTHER_DEPLOYERS]
        for start in context.script.get_revisions(context.get_starting_revision_argument() or ()):
            checks.append(patience.refuse_other_start(start.revision))
        for statement in (*checks, *limits.settings()):
            context.static_output(f"{statement};")
        context.run_migrations()


def run_online(limits: patience.Limits) -> None:
    """Migrate the database of the settings."""
    settings = Settings.from_env()
    database.check_url(settings)
    connect = database.connector(settings, batch=True)
    engine = create_engine("postgresql+psycopg://", creator=connect)
    try:
        with engine.connect() as connection:

            def configure(**options: Any) -> dict[str, Any]:
                context.configure(connection=connection, limits=limits, **OPTIONS, **options)
                return context.get_context().opts

            asked = configure()
            if not asked.get("dont_mutate"):  # set by what only looks, such as `current`
                # The lock first: lock_timeout would cut the wait for the other deployer short.
                patience.wait_for_other_deployers(connection)
            steps = patience.Steps(asked["fn"])

            def run() -> None:
                configure(fn=steps)
                with context.begin_transaction():
                    context.run_migrations()

            patience.insist(connection, limits, run)
    except DBAPIError as error:
        if not patience.says_it_all(error):
            raise
        raise CommandError(str(error.orig).splitlines()[0]) from error
    finally:
        engine.dispose()


limits = patience.Limits.from_arguments(context.get_x_argument(as_dictionary=True))
if context.is_offline_mode():
    run_offline(limits)
else:
    run_online(limits)
