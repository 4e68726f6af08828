"""The counts of `push-tokens stats`, and the table that shows them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, and_, func, select, true

from app.cli.terminal import printable
from app.models import PushToken

# Days since a registration was last renewed: a day, a week, FCM's "stale" after a month, and
# the 270 days after which FCM expires a token.
AGES = (1, 7, 30, 90, 270)
BAR = 8  # columns
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


def table(rows: Sequence[Row]) -> Table:
    """Show the counts as a table with a bar for each row's share of the largest."""
    title = "Registrations, by days since they were last seen"
    shown = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)  # fits 80 columns
    shown.add_column("App", overflow="fold")
    shown.add_column("Type")
    shown.add_column("Count", justify="right", no_wrap=True)
    shown.add_column("", width=BAR)
    for name in [*(f"≤{days}" for days in AGES), "older"]:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows[:MOST_ROWS]:
        shown.add_row(
            Text(printable(row["appName"])),
            row["type"],
            f"{row['registrations']:,}",
            ProgressBar(total=rows[0]["registrations"], completed=row["registrations"], width=BAR),
            *(f"{number:,}" for number in row["seenWithinDays"].values()),
        )
    total = sum(row["registrations"] for row in rows)
    more = f"{len(rows) - MOST_ROWS:,} more in --json; " if len(rows) > MOST_ROWS else ""
    shown.caption = f"{more}{total:,} registrations in all"
    return shown
