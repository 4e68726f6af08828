"""What the commands of `flask` share: how they open a file, and how they fail."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import click
from flask.cli import AppGroup

from app.database.failures import is_unavailable, original
from app.limits import MAX_USER_ID, is_text


class Commands(AppGroup):
    """A group of commands that say in one line what they can't help: database, disk or pipe."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit status 1 when the database, or the system, cannot."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly
        except OSError as error:
            raise click.ClickException(str(error)) from None
        except Exception as error:
            if not is_unavailable(error):
                raise
            cause = original(error)
            text = (str(cause).splitlines() or [type(cause).__name__])[0]
            raise click.ClickException(f"the database cannot do it now: {text}") from None


@contextmanager
def source(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, or stdin as `-`, to be read; give it and its size, 0 when nobody knows."""
    with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
        yield file, os.path.getsize(path) if os.path.isfile(path) else 0


class UserId(click.ParamType[str]):
    """A user id within the limits that the API has too."""

    name = "user_id"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the id, or fail with what is wrong."""
        if not is_text(value, MAX_USER_ID):
            self.fail(f"must have 1 to {MAX_USER_ID} bytes of UTF-8", param, ctx)
        return str(value)
