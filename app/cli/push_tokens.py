"""The commands on registrations: import, export, purge, backfill, stats."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import BinaryIO

import click
import orjson
from rich.console import Console
from sqlalchemy import create_engine

from app import services
from app.cli import stats, users
from app.cli.commands import AppName, Commands, source
from app.cli.jobs import note_success
from app.cli.terminal import Meter, print_json, warn
from app.database.connections import Connection, connector
from app.database.revision import estimated_rows
from app.models import db
from app.registry import maintenance
from app.registry.distributed import sweeping
from app.registry.push_tokens import MAX_OF_USER
from app.transfer import export
from app.transfer.mongoexport import Entry, UnreadableError, entries
from app.transfer.push_token_import import Importer

MAX_REJECT = 10_000  # bytes of a rejected row that are kept

group = Commands("push-tokens", help="Registrations in bulk.")


@contextmanager
def _database(*, writes: bool) -> Iterator[Connection]:
    """Yield a connection of the command, on which statements may take long.

    What writes is not to wait long for a lock, as requests wait for those that it holds.
    """
    settings = services.current().settings
    connect = connector(settings, batch=True, writes=writes)
    locks = {"lock_timeout": settings.database_lock_timeout} if writes else {}
    with closing(connect(autocommit=True, **locks)) as connection:
        yield connection


class Rejects:
    """Collects rejected rows: in a file that only its owner may read, else the first on stderr."""

    def __init__(self, path: str | None):
        self._file: BinaryIO | None = None
        self._shown = 0
        if path:
            # The rows hold push tokens: keep them as secret as passwords.
            number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            if stat.S_ISREG(os.fstat(number).st_mode):  # not /dev/null, nor a pipe
                os.fchmod(number, 0o600)
                os.ftruncate(number, 0)
            self._file = os.fdopen(number, "wb")

    def add(self, entry: Entry, reason: str) -> None:
        """Write down an entry and why it was rejected."""
        if self._file:
            row = entry.text[:MAX_REJECT].decode(errors="replace").strip()
            note = {"line": entry.line, "reason": reason, "row": row}
            self._file.write(orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE))
            return
        self._shown += 1
        if self._shown <= 10:
            warn(f"line {entry.line}: {reason}")
        elif self._shown == 11:
            warn("Further rejects are not shown; --rejects FILE has them all.")

    def close(self) -> None:
        """Write the rest to the file and close it."""
        if self._file:
            self._file.close()


def _is_same(path: str, file: BinaryIO) -> bool:
    """Tell whether the path names the open file; False for a file in memory."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


@group.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False),
    help="Write what is not imported here, with line and reason: keep it secret, like FILE.",
)
@click.option(
    "--known-sessions-only",
    is_flag=True,
    help="Reject rows whose session can't sign in here, instead of keeping them without.",
)
@click.option(
    "--reachable-for",
    type=click.IntRange(1, 36500),
    metavar="DAYS",
    help="Have senders reach the rows for so long without a session, until the app registers.",
)
def import_push_tokens(
    file: str, rejects: str | None, known_sessions_only: bool, reachable_for: int | None
) -> None:
    """Merge FILE (- is stdin) into the registrations; the latest row of a push token wins.

    FILE is Rocket.Chat's _raix_push_app_tokens by mongoexport, our export, or has lines with
    token, type, appName, userId and updatedAt (docs/import.md); gzip is detected. May be run
    again, and beside the running service. Exit status 1: nothing was taken, or not all was read.
    """
    if known_sessions_only and reachable_for:
        raise click.UsageError("Say which: either --known-sessions-only or --reachable-for.")
    with ExitStack() as stack:
        export, size = stack.enter_context(source(file))
        if rejects and _is_same(rejects, export):
            raise click.BadParameter("is FILE itself", param_hint="--rejects")
        sink = stack.enter_context(closing(Rejects(rejects)))
        documents = stack.enter_context(closing(entries(export)))
        connection = stack.enter_context(_database(writes=True))
        meter = stack.enter_context(Meter("imported", size))
        importer = Importer(
            connection,
            sink.add,
            known_only=known_sessions_only,
            reachable_days=reachable_for,
            is_distributed=services.current().settings.database_distributed is not None,
        )
        problem = ""
        try:
            importer.run(
                documents,
                lambda done: meter.at(export.tell() if size else 0, done.taken, done.rejected),
            )
        except UnreadableError as error:
            problem = str(error)
        except BaseException:  # Ctrl-C above all
            warn(f"Stopped; committed so far: {importer.summary.as_dict()}")
            raise
    done = importer.summary.as_dict()
    print_json(**done)
    if problem := problem or importer.why_nothing:
        raise click.ClickException(f"{file}: {problem}. Done so far: {done}")
    if not importer.summary.read:
        warn(f"{file}: there is nothing in it.")


@group.command("export")
@click.option("--app-name", type=AppName(), help="Only those of this app; none is exit status 1.")
def export_push_tokens(app_name: str | None) -> None:
    """Print every registration, one JSON document a line, as `import` takes it back.

    Keep the output as secret as passwords: it has the push tokens, and as `authToken` the SHA-256
    of the session each was registered in. These hashes sign no user in, but the import needs them
    to bind each registration to its session.
    """
    output = sys.stdout.buffer
    total = 0.0
    if app_name is None:
        total = estimated_rows()
        db.session.rollback()
    rows = 0
    try:
        with _database(writes=False) as connection, Meter("exported", total) as meter:
            for number, lines in export.lines(connection, app_name):
                output.write(lines)
                rows += number
                meter.at(rows, rows)
            output.flush()
    except BrokenPipeError:
        # The reader closed the pipe. What is left in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        if app_name is not None and not rows:
            raise click.ClickException(f"no registration is of the app {app_name}")


@group.command("purge")
@click.option(
    "--unseen-days",
    type=click.IntRange(1, 36500),
    required=True,
    metavar="N",
    help="Remove what was not registered again for N days; FCM expires tokens after 270.",
)
@click.option(
    "--keep-per-user",
    type=click.IntRange(1, 1_000_000),
    default=MAX_OF_USER,
    show_default=True,
    metavar="N",
    help="Remove what a user has beyond the N latest seen registrations.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
def purge_push_tokens(unseen_days: int, keep_per_user: int, dry_run: bool) -> None:
    """Remove registrations that were not renewed, and those of a user beyond a number.

    Works in short transactions beside the running service, and may be stopped and run again.
    Sessions that an import made are removed with their last registration.
    """
    since = maintenance.days_ago(unseen_days)
    size = estimated_rows()
    db.session.commit()
    removed = _run("unseen", maintenance.unseen(since, dry_run=dry_run), size)
    crowd = _run("beyond the limit", maintenance.beyond(keep_per_user, since, dry_run=dry_run))
    if not dry_run:
        _run("empty sessions", maintenance.empty_placeholder_sessions())
    print_json(unseen=removed, beyondLimit=crowd, dryRun=dry_run)
    if not dry_run:
        note_success("purge")


def _run(what: str, steps: Iterator[maintenance.Step], size: float = 0) -> int:
    """Run steps, each in its own transaction; return how many rows they changed."""
    examined = changed = 0
    with Meter(what, max(size, 0), unit="examined") as meter:
        for step in steps:
            db.session.commit()
            examined += step.examined
            changed += step.changed
            meter.at(examined, examined)
    db.session.commit()
    return changed


@group.command("sweep")
@click.option("--dry-run", is_flag=True, help="Only count.")
def sweep_push_tokens(dry_run: bool) -> None:
    """Remove what races left on a distributed PostgreSQL (DATABASE_DISTRIBUTED).

    Registrations whose session is gone, which no lookup finds, and all but the latest of a device.
    Works in short transactions beside the running service, and may be stopped and run again.
    """
    size = estimated_rows()
    db.session.commit()
    examined = orphans = doubles = 0
    with Meter("races", max(size, 0), unit="examined") as meter:
        for step in sweeping.sweep(dry_run=dry_run):
            db.session.commit()
            examined += step.examined
            orphans += step.orphans
            doubles += step.doubles
            meter.at(examined, examined)
    db.session.commit()
    print_json(orphans=orphans, doubles=doubles, dryRun=dry_run)


@group.command("backfill")
def backfill_push_tokens() -> None:
    """Fill a column that a revision added in existing rows; the next revision requires it.

    Works in short transactions beside the running service, and may be stopped and run again. It
    pauses after each for as long as that took, so that registrations come first.
    """
    size = estimated_rows()
    db.session.commit()
    print_json(filled=_run("filled", _resting(maintenance.fill()), size))


def _resting(steps: Iterator[maintenance.Step]) -> Iterator[maintenance.Step]:
    """Yield the steps, and sleep after each for as long as it and its commit took."""
    started = time.monotonic()
    for step in steps:
        yield step
        time.sleep(time.monotonic() - started)
        started = time.monotonic()


@group.command("stats")
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
def show_stats(as_json: bool) -> None:
    """Show how many registrations there are, by app and type, and when they were last seen."""
    connect = connector(services.current().settings, batch=True, writes=False)
    engine = create_engine("postgresql+psycopg://", creator=connect, hide_parameters=True)
    try:
        with engine.connect() as connection:
            rows = stats.count(connection)
    finally:
        engine.dispose()
    if as_json:
        print_json(registrations=sum(row["registrations"] for row in rows), apps=rows)
        return
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for line in stats.lines(rows, console.width):
        console.print(line, highlight=False, overflow="fold")


for command in users.COMMANDS:
    group.add_command(command)
