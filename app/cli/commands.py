"""Helpers of the commands: opening a file, failing with one line, a user id."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import click
import psycopg
from flask.cli import AppGroup
from psycopg import errors

from app.cli.terminal import printable
from app.database.embedded import EmbeddedError
from app.database.failures import UnavailableError, is_unavailable, original
from app.limits import MAX_APP_NAME, MAX_USER_ID, is_text


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn an error of the database or the system into click's: one line, exit status 1."""
    try:
        yield
    except BrokenPipeError:
        raise  # click ends quietly
    except click.ClickException as error:  # it may repeat a name, or what the system says
        error.message = printable(error.message)  # type: ignore[misc]  # click's is Final
        raise
    except (OSError, EmbeddedError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        raise click.ClickException(printable(text)) from None
    except UnavailableError as error:
        raise click.ClickException(f"the database cannot do it now: {error}") from None
    except Exception as error:  # the database's own may be within another library's
        cause = original(error)
        if not isinstance(cause, psycopg.Error) and not is_unavailable(error):
            raise
        # The first line only: those that follow repeat rows, push tokens among them.
        text = printable((str(cause).splitlines() or [type(cause).__name__])[0])
        what = "cannot do it now" if is_unavailable(error) else "refuses it"
        if isinstance(cause, errors.InsufficientPrivilege):
            who = "issues service keys" if "service_key" in text else "serves"
            text += f"; run it as the role that {who} (deploy/postgresql/roles.sql)"
        elif isinstance(cause, errors.UndefinedTable | errors.UndefinedColumn):
            text += "; run `push-tokens migrate` as the role that owns the tables"
            text += " (`push-tokens doctor` says more)"
        elif isinstance(cause, errors.QueryCanceled) and "statement timeout" in text:
            text += " (DATABASE_STATEMENT_TIMEOUT)"
        elif isinstance(cause, errors.LockNotAvailable):
            text += " (DATABASE_LOCK_TIMEOUT); another transaction holds it: see pg_stat_activity"
        elif "session is read-only" in text:  # libpq's words, of the last host that it asked
            text += "; no host lets this role write: `push-tokens doctor` says more"
        raise click.ClickException(f"the database {what}: {text}") from None


class Commands(AppGroup):
    """A group of commands that report errors of the database or the system in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit status 1 and one line when the database or the system fails."""
        with in_one_line():
            return super().invoke(ctx)


def standard_input() -> BinaryIO:
    """Return stdin; ClickException where the shell has closed it."""
    if sys.stdin is None:
        raise click.ClickException("stdin is closed")
    return sys.stdin.buffer


@contextmanager
def source(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file to read, or stdin for `-`; yield it and its size, 0 when that is unknown."""
    with nullcontext(standard_input()) if path == "-" else open(path, "rb") as file:
        yield file, os.path.getsize(path) if os.path.isfile(path) else 0


class Identifier(click.ParamType[str]):
    """Text within a limit of the API."""

    max_bytes: int

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text; fail with a message when it is not valid."""
        if not is_text(value, self.max_bytes):
            self.fail(f"must have 1 to {self.max_bytes} bytes of UTF-8", param, ctx)
        return str(value)


class UserId(Identifier):
    """A user id."""

    name = "user_id"
    max_bytes = MAX_USER_ID


class Moment(click.ParamType[datetime]):
    """A moment in ISO 8601 with its offset; up to 5 minutes ahead of our clock."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Return the moment; fail with a message when it is not valid."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not like 2026-11-24T08:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail("needs Z or an offset, as in 2026-11-24T08:00:00Z", param, ctx)
        if moment > datetime.now(UTC) + timedelta(minutes=5):
            self.fail(f"{value} is in the future", param, ctx)
        return moment


class AppName(Identifier):
    """The name of an app."""

    name = "app_name"
    max_bytes = MAX_APP_NAME
