"""`push-tokens stats`: how many there are, and how old."""

import io
import json
import re

import pytest
from rich.console import Console

from app.cli import stats


@pytest.fixture
def stored(database, alice):
    def store(name: str, app_name: str, type_: str, days: float) -> None:
        database.execute(
            "INSERT INTO push_tokens"
            " (id, device_id, app_name, token, type, user_id, session_hash, updated_at)"
            " VALUES (%s, %s, %s, %s, %s, 'alice', %s, now() - %s * interval '1 day')",
            *(name, name, app_name, name, type_, alice.token_hash, days),
        )

    for number, days in enumerate([0, 0.9, 3, 20, 60, 200, 271, 5000]):
        store(f"a{number}", "main", "gcm", days)
    store("b", "main", "apn", 0)
    store("c", "[red]\x1b[31m", "apn", 10)


def test_counts_by_app_type_and_age(runner, stored):
    counted = json.loads(runner.invoke(args=["push-tokens", "stats", "--json"]).stdout)
    assert counted["registrations"] == 10
    assert [(a["appName"], a["type"], a["registrations"]) for a in counted["apps"]] == [
        ("main", "gcm", 8),
        ("[red]\x1b[31m", "apn", 1),
        ("main", "apn", 1),
    ]
    ages = {"1": 2, "7": 1, "30": 1, "90": 1, "270": 1, "older": 2}
    assert counted["apps"][0]["seenWithinDays"] == ages
    for app in counted["apps"]:
        assert sum(app["seenWithinDays"].values()) == app["registrations"]


def test_shows_a_table_that_no_app_name_can_take_over(runner, stored):
    shown = runner.invoke(args=["push-tokens", "stats"]).stdout
    assert "10 registrations in all" in shown
    assert "[red]\N{REPLACEMENT CHARACTER}[31m" in shown
    assert "\x1b" not in shown


def test_nothing_is_no_error(runner):
    result = runner.invoke(args=["push-tokens", "stats", "--json"])
    assert json.loads(result.stdout) == {"registrations": 0, "apps": []}


LONG = "com.example.a-very-long-company-name.and-an-app.with-a-suffix"


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
def test_app_names_and_numbers_are_whole_at_every_width(width):
    ages = dict.fromkeys(("1", "7", "30", "90", "270", "older"), 2057613)
    rows = [
        {"appName": name, "type": kind, "registrations": number, "seenWithinDays": ages}
        for name, kind, number in [(LONG, "apn", 12_345_678), ("x", "gcm", 5), (LONG, "gcm", 3)]
    ]
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    for line in stats.lines(rows, width):
        console.print(line, highlight=False, overflow="fold")
    shown = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    assert LONG in shown.replace("\n", "")
    assert shown.count(LONG[:20]) == 1  # its types stand together
    assert "…" not in shown
    assert ("12,345,678" if width >= 100 else "12.3M") in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "12,345,686 registrations in all" in shown
