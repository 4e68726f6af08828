"""Output of the commands: the result on stdout as JSON, progress on stderr."""

import os
import sys
import time
from types import TracebackType
from typing import Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.limits import escape_invisible

EVERY = 5.0  # seconds between two lines where there is no terminal
SMOOTH = 0.1  # seconds between two looks of the bar


def print_json(**result: object) -> None:
    """Print a command's result: one JSON line on stdout, in UTF-8 whatever the terminal has."""
    click.echo(escape_invisible(orjson.dumps(result).decode()).encode())


def warn(text: str) -> None:
    """Print a line on stderr; it may repeat what others wrote."""
    try:
        click.echo(printable(text), err=True)
    except OSError:  # nobody reads, or a full disk: no reason not to do what was asked
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)


def printable(text: str) -> str:
    """Return the text without control characters: users and apps choose their names freely."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Meter:
    """The progress of a command: a bar with rate and time left on a terminal, else plain lines.

    `total` is in the unit of the `place` that `at` takes, such as bytes of a file; without it no
    time left is shown. `unit` says what `at` counts.
    """

    def __init__(self, what: str, total: float | None = None, unit: str = "rows"):
        self._what = what
        self._unit = unit
        self._total = total or None
        self._started = self._shown = time.monotonic()
        self._place, self._rows, self._rejected = 0.0, 0, 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(what, total=self._total, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.update(self._task, completed=self._place, rate=self._rate())
        self._progress.stop()
        if self._progress.disable:
            warn(f"{self._what}: {self._rate()}")

    def at(self, place: float, rows: int, rejected: int = 0) -> None:
        """Show that `rows` rows are done and others rejected, and the place that was reached."""
        self._place, self._rows, self._rejected = place, rows, rejected
        now = time.monotonic()
        if now - self._shown < (EVERY if self._progress.disable else SMOOTH):
            return
        self._shown = now
        self._progress.update(self._task, completed=place, rate=self._rate())
        if self._progress.disable:
            part = f", {min(place / self._total, 1):.0%}" if self._total else ""
            warn(f"{self._what}: {self._rate()}{part}")

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        rate = (self._rows + self._rejected) / max(seconds, 0.001)
        rejected = f", {self._rejected:,} rejected" if self._rejected else ""
        return f"{self._rows:,} {self._unit}{rejected}, {rate:,.0f}/s"
