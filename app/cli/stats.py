"""The counts of `push-tokens stats`, and the lines that show them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.text import Text
from sqlalchemy import Connection, and_, func, select, true

from app.cli.terminal import printable
from app.models import PushToken

# Days since a registration was last renewed: a day, a week, FCM's "stale" after a month, and
# the 270 days after which FCM expires a token.
AGES = (1, 7, 30, 90, 270)
TYPE, INDENT, GAP = 4, 6, 2  # columns of a type, of it with its indent, and between two numbers
SHORTEST_BAR, LONGEST_BAR = 4, 20
MOST_ROWS = 40  # of the table; apps choose their names, so their number has no limit

Row = Mapping[str, Any]


def count(connection: Connection) -> list[Row]:
    """Count the registrations of each app and type by age, the most numerous first.

    A registration is counted under the first age in days that covers it, else as `older`.
    """
    limits = [None, *(func.now() - timedelta(days=days) for days in AGES)]
    ages = []
    for name, newer, older in zip([*AGES, "older"], limits, [*limits[1:], None], strict=True):
        within = and_(
            true() if older is None else PushToken.updated_at >= older,
            true() if newer is None else PushToken.updated_at < newer,
        )
        ages.append(func.count().filter(within).label(str(name)))
    total = func.count().label("registrations")
    by_app = select(PushToken.app_name, PushToken.type, total, *ages).group_by(
        PushToken.app_name, PushToken.type
    )
    ordered = by_app.order_by(total.desc(), PushToken.app_name, PushToken.type)
    return [
        {
            "appName": row["app_name"],
            "type": row["type"],
            "registrations": row["registrations"],
            "seenWithinDays": {str(name): row[str(name)] for name in [*AGES, "older"]},
        }
        for row in connection.execute(ordered).mappings()
    ]


def lines(rows: Sequence[Row], width: int) -> Iterator[Text]:
    """Show the counts: a line with an app's whole name, and below it a line for each type.

    A bar shows each row's share of the largest, as far as there is room for it. Where the columns
    need more than `width`, their numbers are rounded (12.3M); `--json` has all digits.
    """
    heads = [*(f"≤{days}" for days in AGES), "older"]
    shown = sorted(rows[:MOST_ROWS], key=lambda row: _place(rows, row))
    for write in ("{:,}".format, _rounded):
        numbers = [[write(number) for number in _numbers(row)] for row in shown]
        columns = zip(*numbers, strict=True) if numbers else [()] * (len(heads) + 1)
        sizes = [
            max(len(head), *map(len, column), 1)
            for head, column in zip(["Count", *heads], columns, strict=True)
        ]
        room = width - INDENT - sum(sizes) - GAP * (len(sizes) + 1)
        if room >= 0:
            break
    bar = min(room, LONGEST_BAR) if room >= SHORTEST_BAR else 0
    yield Text("Registrations, by days since they were last seen", style="bold")
    yield _line("", ["Count", *heads], sizes, Text(" " * bar))
    app_name = None
    for row, texts in zip(shown, numbers, strict=True):
        if row["appName"] != app_name:
            app_name = row["appName"]
            yield Text(printable(app_name), style="bold")
        length = -(-bar * row["registrations"] // rows[0]["registrations"])
        yield _line(row["type"], texts, sizes, Text(f"{'━' * length:{bar}}", style="green"))
    total = sum(row["registrations"] for row in rows)
    more = f"{len(rows) - MOST_ROWS:,} more in --json; " if len(rows) > MOST_ROWS else ""
    yield Text(f"{more}{total:,} registration{'' if total == 1 else 's'} in all")


def _place(rows: Sequence[Row], row: Row) -> int:
    """Return the place of an app's first row, which puts its types together."""
    return next(n for n, one in enumerate(rows) if one["appName"] == row["appName"])


def _numbers(row: Row) -> list[int]:
    return [row["registrations"], *row["seenWithinDays"].values()]


def _line(kind: str, numbers: Sequence[str], sizes: Sequence[int], bar: Text) -> Text:
    count, *ages = (text.rjust(size) for text, size in zip(numbers, sizes, strict=True))
    gap = " " * GAP
    line = Text(f"{'':{INDENT - TYPE}}{kind:{TYPE}}{gap}{count}{gap}") + bar
    return line + Text((gap if bar else "") + gap.join(ages))


def _rounded(number: int) -> str:
    """Write a number in five characters at most: 12,345,678 as 12.3M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * size or (unit != "k" and number >= size):
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 100 else f"{scaled:.0f}{unit}"
    return str(number)
